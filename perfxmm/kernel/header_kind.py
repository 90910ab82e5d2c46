"""Which header stands in front of a sample's vector registers: four u64, or four u16 in one.

An attr alone does not prove its dialect (`dialects.detect`), so the first samples are asked too.
Inferred from the sample layouts of the merged series, of the overlay for 6.18 and of the postings.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from perfxmm.kernel.dialects import HeaderKind
from perfxmm.kernel.registers import OPMASK, ZMM

VECTOR_QWORDS = (0, 2, 4, 8)
PRED_QWORDS = (0, 1)


@dataclass(frozen=True, slots=True)
class SimdHeader:
    """The four numbers in front of a register set's vectors, and the header's kind.

    block_bytes: header, vectors and predicates together.
    """

    kind: HeaderKind
    nr_vectors: int
    vector_qwords: int
    nr_pred: int
    pred_qwords: int

    @property
    def header_bytes(self) -> int:
        return 32 if self.kind == "u64" else 8

    @property
    def block_bytes(self) -> int:
        return self.header_bytes + block_data_bytes(
            self.nr_vectors, self.vector_qwords, self.nr_pred, self.pred_qwords
        )

    @property
    def plausible(self) -> bool:
        return (
            0 <= self.nr_vectors <= ZMM.registers and self.vector_qwords in VECTOR_QWORDS
            and 0 <= self.nr_pred <= OPMASK.registers and self.pred_qwords in PRED_QWORDS
        )  # fmt: skip


def block_data_bytes(nr_vectors: int, vector_qwords: int, nr_pred: int, pred_qwords: int) -> int:
    """Bytes of vectors and predicates that follow a header with these numbers."""
    return 8 * (nr_vectors * vector_qwords + nr_pred * pred_qwords)


def read_header(words: Sequence[int], kind: HeaderKind) -> SimdHeader:
    """The header at the start of `words` (u64, the ones that follow regs[]), read as `kind`.

    Raises ValueError where there are too few words, or for kind "none".
    """
    if kind == "u64" and len(words) >= 4:
        return SimdHeader("u64", *words[:4])
    if kind == "u16" and words:
        slot = words[0]
        return SimdHeader("u16", *(slot >> shift & 0xFFFF for shift in (0, 16, 32, 48)))
    raise ValueError(f"{len(words)} words hold no {kind} header")


def confirm_header(
    words: Sequence[int], *, following_bytes: int = 0, last: bool = False
) -> SimdHeader | None:
    """Tells the header's kind from one sample; None where this sample does not decide.

    words: the u64 values from the one after regs[] to the end of the record.
    following_bytes: bytes that fields after this register set need at least (0 if not known).
    last: nothing follows this set, so the block must end exactly with the record.
    """
    room = 8 * len(words) - following_bytes

    def fits(header: SimdHeader) -> bool:
        if not header.plausible:
            return False
        # A first word of 1..32 read as four u16 would be vectors without a width, which no kernel
        # with that header writes.
        if header.kind == "u16" and header.nr_vectors and not header.vector_qwords:
            return False
        return header.block_bytes == room if last else header.block_bytes <= room

    candidates = []
    kinds: tuple[HeaderKind, ...] = ("u64", "u16")
    for kind in kinds:
        try:
            header = read_header(words, kind)
        except ValueError:
            continue
        if fits(header):
            candidates.append(header)
    if len(candidates) == 1:
        return candidates[0]
    # Both fit only where the first word is 0: an empty header of either kind, unless the words
    # after it speak for four u64.
    if len(candidates) == 2 and any(words[1:4]):
        return candidates[0]
    return None
