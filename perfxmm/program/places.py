"""Where the files of a recording are looked for, and what is known about the recording itself."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True, slots=True)
class Places:
    """Where binaries are looked for.

    symfs: prefix for every recorded path (another machine's file system).
    archives: directories laid out as `.build-id/ab/cdef...` (perf's cache, or the archive kept
        beside a recording), used where the path fails and the build id was recorded.
    beside: the archive kept beside the recording, where maps of code made at run time may be too.
    kernel_root: prefix of /proc/kallsyms and /sys/kernel/notes.
    same_kernel: the caller knows that the recording was made under the kernel that is running.
        Without that, kernel and vDSO symbols need a recorded build id that matches.
    same_machine: whether the recording was made on this machine; None where it does not say.
        Binaries without a recorded build id are not taken from this machine for another's.
    recorded_until_ns: when the recording ended, in nanoseconds since 1970; None: not known. A
        file that was changed later is not what was mapped.
    monotonic_clock: the recording's times are of CLOCK_MONOTONIC, as those of jitdumps are.
    """

    symfs: Path = Path("/")
    archives: Sequence[Path] = ()
    beside: Path | None = None
    kernel_root: Path = Path("/")
    same_kernel: bool = False
    same_machine: bool | None = None
    recorded_until_ns: int | None = None
    monotonic_clock: bool = False

    @property
    def own_root(self) -> bool:
        """Paths mean this machine's own files."""
        return self.symfs == Path("/")
