"""Records of a file, many at a time: places and headers as columns, the bytes as a view."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

HEADER_BYTES = 8
# A block ends at whichever comes first.
BLOCK_RECORDS = 65_536
BLOCK_BYTES = 8 * 1024 * 1024

U8 = npt.NDArray[np.uint8]
U16 = npt.NDArray[np.uint16]
U32 = npt.NDArray[np.uint32]
U64 = npt.NDArray[np.uint64]
I64 = npt.NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class Damage:
    """Something in the input that is not as it should be. offset: byte in the file."""

    offset: int
    what: str


@dataclass(frozen=True, slots=True)
class RecordBlock:
    """Some records of a file, k of them.

    buffer: bytes of the file, a view; file_base: file offset of buffer[0], a multiple of 8.
    offsets int64 [k]: where each record's header begins in `buffer`; ascending in file order,
    any order in time order. sizes uint32 [k]: header.size, at least 8, inside the buffer; less
    than that where it reaches into records that are known to follow.
    types uint32 [k], misc uint16 [k]: as in the header.
    """

    buffer: U8
    offsets: I64
    sizes: U32
    types: U32
    misc: U16
    file_base: int = 0

    def __len__(self) -> int:
        return len(self.offsets)

    def select(self, rows: npt.NDArray[np.bool_] | I64) -> RecordBlock:
        """The same buffer with only the records of a mask or index array."""
        return RecordBlock(
            self.buffer, self.offsets[rows], self.sizes[rows], self.types[rows], self.misc[rows],
            self.file_base,
        )  # fmt: skip

    def headers(self) -> U64:
        """uint64 [k]: each record's header as one word, with the size that it has here."""
        upper = self.sizes.astype(np.uint64) << np.uint64(16) | self.misc
        return upper << np.uint64(32) | self.types

    def record(self, row: int) -> bytes:
        """One record's bytes, header included; for the few that are read one by one."""
        start = int(self.offsets[row])
        return self.buffer[start : start + int(self.sizes[row])].tobytes()


def gather_u64(buffer: U8, positions: I64) -> U64:
    """The little-endian u64 at each byte position of `buffer`; any alignment.

    Every position must have 8 bytes behind it.
    """
    whole = len(buffer) // 8
    aligned = (
        buffer.ctypes.data % 8 == 0
        and len(positions) > 0
        and not int(np.bitwise_or.reduce(positions)) & 7
    )
    if aligned:
        words: U64 = buffer[: whole * 8].view("<u8")
        taken: U64 = words[positions >> 3]
        return taken
    spread = buffer[positions[:, None] + np.arange(8)]
    return np.ascontiguousarray(spread).view("<u8").reshape(-1)

def header_sizes(headers: U64) -> I64:
    """int64 [k] bytes: header.size out of header words."""
    return (headers >> np.uint64(48)).astype(np.int64)


def block_of(data: U8, offsets: I64, headers: U64, begin: int, end: int) -> RecordBlock:
    """A block over data[begin:end] of records at the given file offsets, in their given order.

    headers: uint64 [k], each record's header as one word.
    """
    base = begin & ~7
    return RecordBlock(
        data[base:end], offsets - base, (headers >> np.uint64(48)).astype(np.uint32),
        (headers & np.uint64(0xFFFFFFFF)).astype(np.uint32),
        (headers >> np.uint64(32)).astype(np.uint16), base,
    )  # fmt: skip
