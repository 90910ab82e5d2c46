"""From places in unpacked bytes back to places in the file that they came from."""

from __future__ import annotations

from array import array
from bisect import bisect_right
from collections.abc import Iterator


class Origins:
    """Stretches of unpacked bytes and where each came from, added in ascending order.

    Two numbers for each compressed record and for each stretch of plain ones.
    """

    def __init__(self) -> None:
        self._unpacked = array("q")
        self._file = array("q")
        self._copied = bytearray()

    def add(self, unpacked: int, file: int, *, copied: bool) -> None:
        """From `unpacked` on, bytes are those from `file` on (copied), or came out of one record
        that begins there.
        """
        self._unpacked.append(unpacked)
        self._file.append(file)
        self._copied.append(copied)

    def packed(self) -> Iterator[tuple[int, int]]:
        """Of each compressed record: where its contents begin in the unpacked bytes, and where it
        stands in the file.
        """
        for unpacked, file, copied in zip(self._unpacked, self._file, self._copied, strict=True):
            if not copied:
                yield unpacked, file

    def of(self, unpacked: int) -> int:
        """Byte of the file; -1 where nothing is known."""
        row = bisect_right(self._unpacked, unpacked) - 1
        if row < 0:
            return -1
        return self._file[row] + (unpacked - self._unpacked[row] if self._copied[row] else 0)
