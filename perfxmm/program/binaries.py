"""Finds the binary that was mapped, and refuses one that only has the same name.

A file whose build id differs from the recorded one is never used: its addresses stay numbers and
the reason is noted.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from perfxmm.errors import DamagedInput
from perfxmm.program import buildid, kallsyms, symbols, vdso
from perfxmm.program.elf import ElfImage, open_elf
from perfxmm.program.symbols import EMPTY, SymbolTable

KERNEL_PATH = "[kernel.kallsyms]"
VDSO_PATH = "[vdso]"
VDSO32_PATH = "[vdso32]"  # perf's name for what 32-bit processes get; it is another image
_DEBUG_DIRECTORY = Path("usr/lib/debug/.build-id")
_DELETED = " (deleted)"
# Names that the kernel or perf gives to memory that is backed by no ELF file.
_NOT_FILES = ("//anon", "/memfd:", "/SYSV")


@dataclass(frozen=True, slots=True)
class Dso:
    """What was mapped: the path as recorded, and the build id if the recording has one."""

    path: str
    build_id: bytes | None = None


@dataclass(frozen=True, slots=True)
class Places:
    """Where binaries are looked for.

    symfs: prefix for every recorded path (another machine's file system).
    archives: directories laid out as `.build-id/ab/cdef...` (perf's cache, or the archive kept
        beside a recording), used where the path fails and the build id was recorded.
    kernel_root: prefix of /proc/kallsyms and /sys/kernel/notes.
    same_kernel: the caller knows that the recording was made under the kernel that is running.
        Without that, kernel and vDSO symbols need a recorded build id that matches.
    """

    symfs: Path = Path("/")
    archives: Sequence[Path] = ()
    kernel_root: Path = Path("/")
    same_kernel: bool = False


def default_archives() -> tuple[Path, ...]:
    """The cache that perf record fills by itself."""
    try:
        return (Path.home() / ".debug",)
    except RuntimeError:
        return ()


@dataclass(slots=True)
class _Loaded:
    image: ElfImage | None
    table: SymbolTable | None = None


@dataclass
class Binaries:
    """All DSOs of a recording, their files opened when first asked for.

    dsos: grows only; indices are stable. notes: why a DSO has no symbols, by index.
    """

    places: Places = field(default_factory=Places)
    capacity: int = 128
    dsos: list[Dso] = field(default_factory=list)
    notes: dict[int, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self._index: dict[Dso, int] = {}
        self._build_ids: dict[str, bytes] = {}
        self._loaded: OrderedDict[int, _Loaded] = OrderedDict()
        self._kernel: SymbolTable | None = None

    def note_build_id(self, path: str, build_id: bytes) -> None:
        """A build id that the recording gives for a path as a whole (its build-id table)."""
        self._build_ids[path] = build_id

    def intern(self, path: str, build_id: bytes | None) -> int:
        """Index of a DSO in `dsos`. Path and build id together are its identity."""
        dso = Dso(path, build_id or self._build_ids.get(path))
        found = self._index.get(dso)
        if found is None:
            found = self._index[dso] = len(self.dsos)
            self.dsos.append(dso)
        return found

    def image(self, index: int) -> ElfImage | None:
        """The verified file of a DSO, None (and a note) where there is none to be trusted."""
        return self._load(index).image

    def symbols(self, index: int) -> SymbolTable:
        """Symbols of a DSO by file offset; empty (and a note) where there are none."""
        loaded = self._load(index)
        if loaded.table is None:
            loaded.table = EMPTY
            if loaded.image is not None:
                try:
                    loaded.table = symbols.from_elf(loaded.image, self._debug_file(loaded.image))
                except DamagedInput as error:
                    self.notes[index] = str(error)
                # Offsets and counts of a hostile file may overflow numpy's integers.
                except (ValueError, OverflowError, IndexError, MemoryError) as error:
                    self.notes[index] = f"symbol table cannot be read: {error}"
                else:
                    if not len(loaded.table):
                        self.notes[index] = "the file has no symbols"
        return loaded.table

    def kernel_symbols(self, index: int, reference: tuple[str, int] | None) -> SymbolTable:
        """Symbols of the running kernel by address, moved to where the recorded kernel lay.

        index: the kernel's DSO. reference: name and recorded address of a kernel symbol, as
        perf writes it into the kernel's own mapping.
        """
        if self._kernel is None:
            self._kernel = self._load_kernel(index, reference)
        return self._kernel

    def _load_kernel(self, index: int, reference: tuple[str, int] | None) -> SymbolTable:
        recorded = self.dsos[index].build_id
        places = self.places
        if recorded:
            if not buildid.same(recorded, buildid.of_running_kernel(places.kernel_root)):
                self.notes[index] = "the running kernel is not the recorded one (build id differs)"
                return EMPTY
        elif not places.same_kernel:
            self.notes[index] = "nothing shows that the running kernel is the recorded one"
            return EMPTY
        table, why = kallsyms.read(places.kernel_root)
        if why:
            self.notes[index] = why
            return EMPTY
        if reference is None:
            return table
        name, address = reference
        here = kallsyms.address_of(table, name)
        if here is None or here == address:
            return table
        # The same kernel after a reboot lies elsewhere (KASLR); modules move on their own, so
        # only the kernel image can be shifted.
        shift = np.uint64((address - here) % (1 << 64))
        return SymbolTable(
            table.starts + shift, table.ends + shift, table.names, table.strings,
            table.reach + shift,
        )

    def _load(self, index: int) -> _Loaded:
        loaded = self._loaded.get(index)
        if loaded is not None:
            self._loaded.move_to_end(index)
            return loaded
        loaded = _Loaded(self._find(index))
        self._loaded[index] = loaded
        while len(self._loaded) > self.capacity:
            self._loaded.popitem(last=False)
        return loaded

    def _find(self, index: int) -> ElfImage | None:
        dso = self.dsos[index]
        if dso.path == VDSO_PATH:
            return self._find_vdso(index, dso)
        if not dso.path.startswith("/") or dso.path.startswith(_NOT_FILES):
            self.notes[index] = "not a file"
            return None
        reasons = []
        for path in self._candidates(dso):
            try:
                image = open_elf(path)
            except DamagedInput as error:
                reasons.append(error.why or error.what)
                continue
            if dso.build_id and not buildid.same(dso.build_id, image.build_id):
                found = image.build_id.hex() if image.build_id else "none"
                reasons.append(
                    f"{path} is another build (build id {found}, recorded {dso.build_id.hex()})"
                )
                continue
            return image
        self.notes[index] = reasons[0] if reasons else "no such file"
        return None

    def _debug_file(self, image: ElfImage) -> ElfImage | None:
        """Where the distribution put the symbols of a stripped file, if they are installed."""
        if image.section_of_kind("SHT_SYMTAB") is not None:
            return None
        for debug in self.debug_files(image):
            if debug.section_of_kind("SHT_SYMTAB") is not None:
                return debug
        return None

    def debug_files(self, image: ElfImage) -> Iterator[ElfImage]:
        """Files that were split off this one, each known to belong to it, the likeliest first."""
        if image.build_id is None:
            return
        name = image.build_id.hex()
        path = self.places.symfs / _DEBUG_DIRECTORY / name[:2] / f"{name[2:]}.debug"
        try:
            debug = open_elf(path)
        except DamagedInput:
            return
        if debug.build_id == image.build_id:
            yield debug

    def _candidates(self, dso: Dso) -> Iterable[Path]:
        # A deleted file may have been replaced under the same name: only its build id can tell.
        name = dso.path.removesuffix(_DELETED)
        if name == dso.path or dso.build_id:
            yield self.places.symfs / name.lstrip("/")
        if dso.build_id:
            for directory in self.places.archives:
                for path in buildid.archive_paths(directory, dso.build_id):
                    if path.is_file():
                        yield path

    def _find_vdso(self, index: int, dso: Dso) -> ElfImage | None:
        image = vdso.read_own()
        if image is None:
            self.notes[index] = "the vDSO of this process cannot be read"
        elif dso.build_id and not buildid.same(dso.build_id, image.build_id):
            self.notes[index] = "the running kernel's vDSO is another build"
        elif not dso.build_id and not self.places.same_kernel:
            self.notes[index] = "nothing shows that the running kernel is the recorded one"
        else:
            return image
        return None
