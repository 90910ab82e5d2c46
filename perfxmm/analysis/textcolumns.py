"""Columns to text without a Python object per sample.

Text is built as one uint8 matrix per bounded run of rows. A field is a matrix [n, width] of ASCII
or UTF-8 bytes in which byte 0 means "nothing here": leading zeros, the tail of a shorter string, a
field this row does not have. `squeeze` drops those bytes, and what is left is the text. Real text
therefore never holds a 0 byte; strings from a recording are escaped before they come here.

Dropping bytes costs more than everything else together. Where a format allows blanks, PAD marks a
place for them: the short fields around it are squeezed and filled up to one length for all rows,
and the long fixed ones (registers) are only copied.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from enum import Enum

import numpy as np
import numpy.typing as npt

U8 = npt.NDArray[np.uint8]
U64 = npt.NDArray[np.uint64]


class Pad(Enum):
    """The type of PAD."""

    PAD = 0


@dataclass(frozen=True, slots=True)
class Words:
    """Words as 16 digits each, between literals, of which there is one more than words.

    words: uint64 [n, k]. The text is made where it is to stand, without a copy on the way.
    """

    words: U64
    literals: Sequence[bytes]

    @property
    def width(self) -> int:
        return sum(map(len, self.literals)) + 16 * (len(self.literals) - 1)

    @property
    def row(self) -> bytes:
        """The literals, with room for the digits."""
        return (b"\1" * 16).join(self.literals)

    def fill(self, matrix: U8, at: int) -> None:
        """Writes the digits into `matrix` (contiguous), whose rows hold `row` from `at` on."""
        n, width = matrix.shape
        digits = hex_fixed(self.words).view("V16")[..., 0]
        for number, literal in enumerate(self.literals[:-1]):
            at += len(literal)
            # One 16-byte copy a word.
            np.ndarray((n,), "V16", matrix, at, (width,))[...] = digits[:, number]
            at += 16


# A piece of a row: the same bytes in every row, one matrix [n, width], registers as digits, or a
# place for blanks.
PAD = Pad.PAD
Text = bytes | U8 | Words
Piece = Text | Pad

# Rows are built in runs of about this many bytes: small enough for the caches, large enough that
# the cost of a numpy call does not count.
RUN_BYTES = 2 << 20

# Four digits for two bytes of a big-endian word: half the look-ups of a table by bytes.
_HEX_BYTES = np.array([b"%02x" % n for n in range(256)]).view(np.uint16).astype(np.uint32)
_HEX_PAIRS = (_HEX_BYTES[:, None] << np.uint32(16) | _HEX_BYTES).reshape(-1)
_DEC_DIGITS = (
    (np.arange(10_000)[:, None] // [1000, 100, 10, 1] % 10 + ord("0")).astype(np.uint8)
).view(np.uint32)[:, 0]
_ZERO, _BLANK = np.uint8(ord("0")), np.uint8(ord(" "))
# Pieces from this many bytes on are copied on their own.
_LONG = 64
# Row k keeps the last k of 16 digits.
_HEX_MASKS = np.frombuffer(
    b"".join(b"\0" * (16 - k) + b"\xff" * k for k in range(17)), np.uint64
).reshape(17, 2)


def hex_fixed(words: U64) -> U8:
    """16 lower-case digits per word: uint64 [...] to uint8 [..., 16]."""
    big_endian = np.ascontiguousarray(words).byteswap().view(np.uint16)
    # "wrap" only spares take() the bounds check: there are 65,536 entries.
    digits = np.take(_HEX_PAIRS, big_endian.reshape(*words.shape, 4), mode="wrap")
    return digits.view(np.uint8).reshape(*words.shape, 16)


def hex_minimal(words: U64) -> U8:
    """Digits without leading zeros ("0" for zero): uint64 [...] to uint8 [..., at most 16]."""
    count = _hex_digits(words)
    longest = int(count.max()) if count.size else 0
    digits = hex_fixed(words)
    if not count.size or int(count.min()) < longest:
        digits = (digits.view(np.uint64) & _HEX_MASKS[count]).view(np.uint8)
    return digits[..., 16 - longest :]


def decimal(values: npt.NDArray[np.integer]) -> U8:
    """Decimal digits, a minus sign where needed: integers [n] to uint8 [n, width]."""
    if len(values) and (values == values[0]).all():
        return constant(b"%d" % values[0], len(values))
    if values.dtype.kind == "i":
        negative = values < 0
        magnitude = np.abs(values.astype(np.int64)).view(np.uint64)
    else:
        negative = None
        magnitude = values.astype(np.uint64)
    rows = _padded_digits(magnitude)
    count = np.ones(len(magnitude), np.int64)
    for power in range(1, rows.shape[1]):
        count += magnitude >= np.uint64(10**power)
    longest = int(count.max()) if len(count) else 0
    digits = rows[:, rows.shape[1] - longest :]
    if len(count) and int(count.min()) < longest:
        leading = np.arange(longest) < (longest - count)[:, None]
        digits = np.where(leading, np.uint8(0), digits)
    if negative is None or not negative.any():
        return digits
    # The sign stands in front of the first digit: 0 bytes inside a number would split it where
    # they become blanks.
    signed = np.concatenate([np.zeros((len(digits), 1), np.uint8), digits], axis=1)
    signed[negative, longest - count[negative]] = ord("-")
    return signed


def decimal_fixed(values: U64, digits: int) -> U8:
    """The last `digits` decimal digits, leading zeros kept: uint64 [n] to uint8 [n, digits]."""
    rows = _padded_digits(values)
    if rows.shape[1] < digits:
        rows = np.pad(rows, ((0, 0), (digits - rows.shape[1], 0)), constant_values=_ZERO)
    return rows[:, rows.shape[1] - digits :]


def right_aligned(rows: U8, width: int) -> U8:
    """`rows` with each row padded on the left with spaces to `width` characters (ASCII only)."""
    if _whole(rows):
        return np.concatenate([_blanks(rows, width), rows], axis=1)
    there = rows != 0
    if not (there[:, :-1] & ~there[:, 1:]).any():  # numbers: their 0 bytes are in front
        out = np.concatenate([_blanks(rows, width), rows], axis=1)
        last = out[:, out.shape[1] - width :]
        last[last == 0] = _BLANK
        return out
    if rows.shape[1] <= width and not (there[:, 1:] & ~there[:, :-1]).any():  # strings
        lengths = _lengths(rows)
        out = np.full((len(rows), width), _BLANK, np.uint8)
        for length in np.flatnonzero(np.bincount(lengths)).tolist():
            same = lengths == length
            out[same, width - length :] = rows[same, :length]
        return out
    missing = np.maximum(width - _lengths(rows), 0)
    pad = np.arange(width) < missing[:, None]
    return np.concatenate([np.where(pad, np.uint8(ord(" ")), np.uint8(0)), rows], axis=1)


def left_aligned(rows: U8, width: int) -> U8:
    """`rows` with each row padded on the right with spaces to `width` characters (ASCII only)."""
    if _whole(rows):
        return np.concatenate([rows, _blanks(rows, width)], axis=1)
    missing = np.maximum(width - _lengths(rows), 0)
    pad = np.arange(width) < missing[:, None]
    return np.concatenate([rows, np.where(pad, np.uint8(ord(" ")), np.uint8(0))], axis=1)


def spaced(rows: U8, most: int = 64) -> U8:
    """`rows` with blanks for 0 bytes, for formats that allow them around a field.

    Fields wider than `most` stay as they are: a few long names must not blow up every row.
    """
    if rows.shape[1] > most or _whole(rows):
        return rows
    return np.where(rows == 0, _BLANK, rows)


def _blanks(rows: U8, width: int) -> U8:
    return constant(b" " * max(0, width - rows.shape[1]), len(rows))


def choose(strings: Sequence[bytes], indices: npt.NDArray[np.integer]) -> U8:
    """Row i is strings[indices[i]]: a matrix as wide as the longest string that is used.

    strings must not hold 0 bytes. Indices run from 0; give "unknown" a string of its own.
    """
    used, inverse = distinct(indices)
    return from_table([strings[int(k)] for k in used], inverse)


def distinct(
    values: npt.NDArray[np.integer],
) -> tuple[npt.NDArray[np.integer], npt.NDArray[np.intp]]:
    """np.unique with its inverse, fast where all values are the same, as they mostly are."""
    if len(values) and (values == values[0]).all():
        return values[:1], np.broadcast_to(np.intp(0), values.shape)
    return np.unique(values, return_inverse=True)


def from_table(table: Sequence[bytes], inverse: npt.NDArray[np.intp]) -> U8:
    """Row i is table[inverse[i]]."""
    if len(table) == 1:
        return constant(table[0], len(inverse))
    width = max((len(s) for s in table), default=0)
    if width == 0:
        return np.zeros((len(inverse), 0), np.uint8)
    matrix = np.frombuffer(b"".join(s.ljust(width, b"\0") for s in table), np.uint8)
    return matrix.reshape(len(table), width)[inverse]


def picked(column: U64, rows: npt.NDArray[np.intp]) -> U64:
    """column[rows] of ascending rows, without a copy where they are neighbours."""
    if len(rows) and int(rows[-1]) - int(rows[0]) == len(rows) - 1:
        return column[int(rows[0]) : int(rows[-1]) + 1]
    return column[rows]


def constant(text: bytes, n: int) -> U8:
    """`text` in every row."""
    return np.ndarray((n, len(text)), np.uint8, text, 0, (0, 1))


def blank_where(rows: U8, mask: npt.NDArray[np.bool_], instead: bytes = b"") -> U8:
    """`rows`, but `instead` where `mask` holds."""
    if not mask.any():
        return rows
    if mask.all():
        return constant(instead, len(rows))
    width = max(rows.shape[1], len(instead))
    out = np.zeros((len(rows), width), np.uint8)
    out[:, : rows.shape[1]] = rows
    out[mask] = np.frombuffer(instead.ljust(width, b"\0"), np.uint8)
    return out


def word_block(
    words: U64, *, open_register: bytes, before: bytes, between: bytes, close_register: bytes,
    between_registers: bytes,
) -> Words:
    """Vector registers as text of fixed width: uint64 [n, registers, qwords].

    Each word is `before` and 16 digits; words are joined by `between`, registers wrapped in
    `open_register` and `close_register` and joined by `between_registers`.
    """
    n, registers, qwords = words.shape
    first = open_register + before
    literals = [b""]
    for _ in range(registers):
        literals[-1] += first
        literals += [between + before] * (qwords - 1)
        literals.append(close_register + between_registers)
    literals[-1] = literals[-1][: len(literals[-1]) - len(between_registers)]
    return Words(words.reshape(n, -1), literals)


def assemble(pieces: Iterable[Piece], n: int) -> U8:
    """Pieces side by side: uint8 [n, total width]. Around a PAD no byte of a row is 0."""
    out: list[Text] = []
    around: list[Piece] = []
    for piece in pieces:
        if not isinstance(piece, Pad) and _width(piece) >= _LONG and _whole(piece):
            out += _padded(around, n)
            out.append(piece)
            around = []
        else:
            around.append(piece)
    return _side_by_side(out + _padded(around, n), n)


def interleave(parts: Sequence[tuple[npt.NDArray[np.intp], U8]], n: int) -> U8:
    """Rows of several matrices put back in order: part k holds the rows parts[k][0]."""
    if len(parts) == 1:
        return parts[0][1]
    width = max((rows.shape[1] for _, rows in parts), default=0)
    out = np.zeros((n, width), np.uint8)
    for where, rows in parts:
        out[where, : rows.shape[1]] = rows
    return out


def squeeze(matrix: U8) -> memoryview:
    """The text of all rows: every byte that is not 0, row after row."""
    if _whole(matrix):
        return np.ascontiguousarray(matrix).reshape(-1).data
    zones = _zones(matrix)
    if 2 * sum(stop - start for start, stop, whole in zones if whole) < matrix.shape[1]:
        text: U8 = matrix[matrix != 0]
    else:
        text = _squeeze_zones(matrix, zones)
    return text.data


def _zones(matrix: U8) -> list[tuple[int, int, bool]]:
    """(start, stop, whole): columns by whether any row has a 0 there; short whole runs are not."""
    whole = matrix.min(axis=0) > 0
    edges = np.flatnonzero(np.diff(whole, prepend=False, append=False)).tolist()
    zones: list[tuple[int, int, bool]] = []
    at = 0
    for start, stop in zip(edges[::2], edges[1::2], strict=True):
        if stop - start >= _LONG // 2:
            if start > at:
                zones.append((at, start, False))
            zones.append((start, stop, True))
            at = stop
    if at < matrix.shape[1]:
        zones.append((at, matrix.shape[1], False))
    return zones


def _squeeze_zones(matrix: U8, zones: Sequence[tuple[int, int, bool]]) -> U8:
    """Whole columns are moved a row at a time, and only the others byte by byte."""
    there = {zone: matrix[:, zone[0] : zone[1]] != 0 for zone in zones if not zone[2]}
    lengths = {zone: _lengths(matrix[:, zone[0] : zone[1]]) for zone in there}
    row_bytes = sum((stop - start for start, stop, whole in zones if whole), sum(lengths.values()))
    ends = np.cumsum(row_bytes)
    out = np.empty(int(ends[-1]), np.uint8)
    place = ends - row_bytes
    for zone in zones:
        start, stop, whole = zone
        columns = matrix[:, start:stop]
        if whole:
            # Row k of this view is the text from its byte k on.
            width = stop - start
            view = np.ndarray((len(out) - width + 1, width), np.uint8, out, 0, (1, 1))
            view[place] = columns
            place = place + width
        else:
            length = lengths[zone]
            before = np.cumsum(length) - length
            out[np.repeat(place - before, length) + np.arange(int(length.sum()))] = columns[
                there[zone]
            ]
            place = place + length
    return out


def _padded(pieces: list[Piece], n: int) -> list[Text]:
    """The pieces as they are, or, where there is a PAD, as one matrix without 0 bytes."""
    plain = [piece for piece in pieces if not isinstance(piece, Pad)]
    if len(plain) == len(pieces) or all(_whole(piece) for piece in plain):
        return plain
    before = _side_by_side(plain, n)
    length = _lengths(before)
    longest = int(length.max()) if n else 0
    missing = longest - length
    place = next(k for k, piece in enumerate(pieces) if isinstance(piece, Pad))
    at = sum(_width(p) for p in pieces[:place] if not isinstance(p, Pad))
    blanks = np.arange(int(missing.max()) if n else 0) < missing[:, None]
    filled = np.concatenate(
        [before[:, :at], np.where(blanks, _BLANK, np.uint8(0)), before[:, at:]], axis=1
    )
    return [filled[filled != 0].reshape(n, longest)]


def _lengths(rows: U8) -> npt.NDArray[np.int64]:
    """How many bytes of each row are not 0."""
    there = (rows != 0).view(np.uint8)
    out = np.zeros(len(rows), np.int64)
    # einsum has the fastest sum of bytes along rows; it counts to 255.
    for at in range(0, rows.shape[1], 255):
        out += np.einsum("ij->i", there[:, at : at + 255])
    return out


def _side_by_side(pieces: Sequence[Text], n: int) -> U8:
    out = np.empty((n, sum(_width(piece) for piece in pieces)), np.uint8)
    # What is the same in all rows goes into all of them at once.
    row = np.zeros(out.shape[1], np.uint8)
    places: list[tuple[int, U8 | Words]] = []
    at = 0
    for piece in pieces:
        width = _width(piece)
        if isinstance(piece, bytes):
            row[at : at + width] = np.frombuffer(piece, np.uint8)
        elif isinstance(piece, Words):
            row[at : at + width] = np.frombuffer(piece.row, np.uint8)
            places.append((at, piece))
        elif n and piece.strides[0] == 0:
            row[at : at + width] = piece[0]
        else:
            places.append((at, piece))
        at += width
    out[:] = row
    for at, piece in places:
        if isinstance(piece, Words):
            piece.fill(out, at)
        else:
            out[:, at : at + piece.shape[1]] = piece
    return out


def _width(piece: Text) -> int:
    if isinstance(piece, bytes):
        return len(piece)
    return piece.width if isinstance(piece, Words) else int(piece.shape[1])


def _whole(piece: Text) -> bool:
    if isinstance(piece, bytes | Words):
        return True
    if piece.strides[0] == 0:  # the same in all rows
        piece = piece[:1]
    # min() has a vector loop for bytes, all() converts each of them to a truth value first.
    return piece.size == 0 or int(piece.min()) > 0


def runs(n: int, row_bytes: int) -> Iterator[slice]:
    """0..n cut into slices of about RUN_BYTES of text, at least 64 rows each."""
    step = max(64, RUN_BYTES // max(row_bytes, 1))
    for start in range(0, n, step):
        yield slice(start, min(start + step, n))


def _padded_digits(values: U64) -> U8:
    """Decimal digits with leading zeros, as few groups of four as the largest value needs."""
    largest = int(values.max()) if len(values) else 0
    groups = max(1, -(-len(str(largest)) // 4))
    out = np.empty((len(values), groups), np.uint32)
    rest = values.astype(np.uint64)
    for column in range(groups - 1, -1, -1):
        rest, low = np.divmod(rest, np.uint64(10_000))
        out[:, column] = _DEC_DIGITS[low]
    return out.view(np.uint8).reshape(len(values), groups * 4)


def _hex_digits(words: U64) -> npt.NDArray[np.intp]:
    """How many hexadecimal digits each word needs, 1..16."""
    # The exponent of a float64 is the bit length, unless rounding carries into the next power of
    # two: clearing every bit below a set one leaves nothing that could round up.
    exponent = (words & ~(words >> np.uint64(1))).astype(np.float64).view(np.uint64)
    bits = np.maximum((exponent >> np.uint64(52)).astype(np.intp) - 1022, 1)
    return (bits + 3) >> 2
