"""Lanes as text, for people and for JSON, one Python string per *different* value.

Nothing that the bits say is lost: NaN shows its sign and payload, -0.0 its sign, a subnormal is
marked for people. Floats print as the shortest text that reads back as the same value of their
own type.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from perfxmm.analysis.lanes import Bits, Element, to_float, to_signed

U8 = npt.NDArray[np.uint8]
SUBNORMAL_MARK = "d"


def lane_rows(lanes: Bits, element: Element, *, json: bool = False) -> U8:
    """Text of every lane: unsigned [...] to uint8 [..., width], 0 bytes after shorter texts.

    json: each text is a JSON value. Numbers that JSON has no exact form for (NaN, infinities,
    64-bit integers, raw bits) are strings.
    """
    values, inverse = np.unique(lanes, return_inverse=True)
    texts = [_quoted(t, element) if json else t for t in _texts(values, element, json)]
    encoded = [t.encode("ascii") for t in texts]
    width = max((len(t) for t in encoded), default=0)
    table = np.frombuffer(b"".join(t.ljust(width, b"\0") for t in encoded), np.uint8)
    rows: U8 = table.reshape(len(encoded), width)[inverse.reshape(lanes.shape)]
    return rows


def lane_text(bits: int, element: Element) -> str:
    """One lane as a person reads it."""
    return _texts(np.array([bits], element.dtype), element, False)[0]


def _texts(values: Bits, element: Element, json: bool) -> list[str]:
    if element.kind == "hex":
        return [f"0x{v:0{element.bits // 4}x}" for v in values.tolist()]
    if element.kind == "unsigned":
        return [str(v) for v in values.tolist()]
    if element.kind == "signed":
        return [str(v) for v in to_signed(values).tolist()]
    return [
        _float_text(bits, number, element, json)
        for bits, number in zip(values.tolist(), to_float(values, element).tolist(), strict=True)
    ]


def _float_text(bits: int, number: float, element: Element, json: bool) -> str:
    magnitude = bits & (element.sign - 1)
    sign = "-" if bits & element.sign else ""
    if magnitude > element.infinity:
        return f"{sign}nan(0x{bits & element.fraction:x})"
    if magnitude == element.infinity:
        return f"{sign}inf"
    text = _shortest(number, element)
    if 0 < magnitude <= element.fraction and not json:
        return text + SUBNORMAL_MARK
    return text


def _shortest(number: float, element: Element) -> str:
    if element.name == "f64":
        return repr(number)
    if element.name == "f32":
        return _plain(np.float32(number))
    if element.name == "f16":
        return _plain(np.float16(number))
    # bfloat16: the fewest digits that lead back to the same upper half of a float32.
    wanted = _bf16(number)
    for digits in range(1, 5):
        text = f"{number:.{digits}g}"
        if _bf16(float(text)) == wanted:
            return repr(float(text))
    return repr(number)


def _plain(number: np.floating) -> str:
    # A float16 or float32 prints in the shortest form of its own type; JSON wants "1e-07", which
    # is what it gives, never "1." or ".5".
    return str(number)


def _bf16(number: float) -> int:
    """Bits of the bfloat16 nearest to `number` (ties to even), which must be finite."""
    bits = int(np.float32(number).view(np.uint32))
    return (bits + 0x7FFF + (bits >> 16 & 1)) >> 16


def _quoted(text: str, element: Element) -> str:
    """`text` as a JSON value."""
    exact = element.is_float or element.bits < 64
    if element.kind == "hex" or not exact or text.endswith((")", "inf")):
        return f'"{text}"'
    return text
