"""Finds the binary that was mapped, and refuses one that only has the same name.

A file whose build id differs from the recorded one is never used: its addresses stay numbers and
the reason is noted.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from perfxmm.errors import DamagedInput
from perfxmm.program import buildid, debugfiles, kallsyms, symbols, vdso
from perfxmm.program.elf import ElfImage, open_elf
from perfxmm.program.places import Places as Places
from perfxmm.program.symbols import EMPTY, SymbolTable

KERNEL_PATH = "[kernel.kallsyms]"
VDSO_PATH = "[vdso]"
VDSO32_PATH = "[vdso32]"  # perf's name for what 32-bit processes get; it is another image
_DELETED = " (deleted)"
# Names that the kernel or perf gives to memory that is backed by no ELF file.
_NOT_FILES = ("//anon", "/memfd:", "/SYSV")


@dataclass(frozen=True, slots=True)
class Dso:
    """What was mapped: the path as perf would print it, and the build id if the recording has
    one.

    jit_pid: the process that made this code while it ran, 0 where it lies in a file.
    file: the recorded path, where `path` is another name for it (kernel modules).
    """

    path: str
    build_id: bytes | None = None
    jit_pid: int = 0
    file: str = ""


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
    changed: those of them whose file is another one than was mapped. doubts: DSOs whose file is
    used although nothing shows that it is the one that was mapped, and why.
    """

    places: Places = field(default_factory=Places)
    capacity: int = 128
    dsos: list[Dso] = field(default_factory=list)
    notes: dict[int, str] = field(default_factory=dict)
    changed: set[int] = field(default_factory=set)
    doubts: dict[int, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self._index: dict[Dso, int] = {}
        self._build_ids: dict[str, bytes] = {}
        self._loaded: OrderedDict[int, _Loaded] = OrderedDict()
        self._inodes: dict[int, int] = {}
        self._kernel: SymbolTable | None = None

    def note_build_id(self, path: str, build_id: bytes) -> None:
        """A build id that the recording gives for a path as a whole (its build-id table)."""
        self._build_ids[path] = build_id

    def has_build_id(self, path: str) -> bool:
        """Whether the recording's build-id table has this path."""
        return path in self._build_ids

    def note_inode(self, index: int, inode: int) -> None:
        """The inode of the file that was mapped, where nothing else tells it from others."""
        self._inodes[index] = inode

    def intern(
        self, path: str, build_id: bytes | None, *, jit_pid: int = 0, file: str = "",
    ) -> int:
        """Index of a DSO in `dsos`. Path and build id together are its identity."""
        dso = Dso(path, build_id or self._build_ids.get(file or path), jit_pid, file)
        found = self._index.get(dso)
        if found is None:
            found = self._index[dso] = len(self.dsos)
            self.dsos.append(dso)
        return found

    def image(self, index: int) -> ElfImage | None:
        """The verified file of a DSO, None (and a note) where there is none to be trusted."""
        return self._load(index).image

    def unproved(self, index: int) -> str:
        """"" where a DSO's file is proved to be what was mapped: the same build id, or this
        machine's same inode, unchanged since the recording. Else why it is not.

        Names may be taken from a file that only is not known to be another one (`image`, `doubts`);
        what is concluded from its bytes may not.
        """
        dso = self.dsos[index]
        if dso.path in (VDSO_PATH, VDSO32_PATH):
            return "the vDSO's code is not looked at"
        if dso.jit_pid:
            return "the process made this code while it ran"
        if self.image(index) is None:
            return self.notes.get(index, "its file is not known")
        if dso.build_id:
            return ""
        places = self.places
        if not places.own_root or not places.same_machine or places.recorded_until_ns is None:
            return "no build id proves that this is the file that was mapped"
        if index not in self._inodes:
            return "neither build id nor inode proves that this is the file that was mapped"
        # That the inode is the same and nothing was changed since was checked when it was opened.
        return self.doubts.get(index, "")

    def symbols(self, index: int) -> SymbolTable:
        """Symbols of a DSO by file offset; empty (and a note) where there are none."""
        loaded = self._load(index)
        if loaded.table is None:
            loaded.table = EMPTY
            if loaded.image is not None:
                try:
                    loaded.table = self._table_of(index, loaded.image)
                except DamagedInput as error:
                    self.notes[index] = str(error)
                # Offsets and counts of a hostile file may overflow numpy's integers.
                except (ValueError, OverflowError, IndexError, MemoryError) as error:
                    self.notes[index] = f"symbol table cannot be read: {error}"
                else:
                    if not len(loaded.table):
                        self.notes[index] = "the file has no symbols"
        return loaded.table

    def _table_of(self, index: int, image: ElfImage) -> SymbolTable:
        dso = self.dsos[index]
        path = (dso.file or dso.path).removesuffix(_DELETED)
        return symbols.from_elf(image, debugfiles.find(image, self.places, path))

    def debug_files(self, image: ElfImage) -> Iterator[ElfImage]:
        """Files that were split off this one, each known to belong to it, the likeliest first."""
        return debugfiles.split_off(image, self.places)

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
        if dso.path in (VDSO_PATH, VDSO32_PATH):
            return self._find_vdso(index, dso)
        if dso.jit_pid:
            return None  # its names and notes come from elsewhere
        path = dso.file or dso.path
        if not path.startswith("/") or path.startswith(_NOT_FILES):
            self.notes[index] = "not a file"
            return None
        reasons = []
        changed = False
        for candidate in self._candidates(dso):
            try:
                image = open_elf(candidate)
            except DamagedInput as error:
                reasons.append(error.why or error.what)
                continue
            if dso.build_id:
                why = _other_build(candidate, dso.build_id, image.build_id)
            else:
                why = self._distrust(index, candidate)
            if why:
                reasons.insert(0, why)
                changed = True
                continue
            return image
        if changed:
            self.changed.add(index)
        self.notes[index] = reasons[0] if reasons else "no such file"
        return None

    def _distrust(self, index: int, path: Path) -> str:
        """Why a file must not be used for a DSO without a build id; "" where it may.

        perf uses any file of that name. What is known here beyond the name: the machine, the
        inode, and whether the file was changed after the recording had ended.
        """
        places = self.places
        if not places.own_root:
            return ""  # given by the user for this recording
        if places.same_machine is False:
            return (
                f"{path} is this machine's, the recording is another's and has no build id for it"
            )
        try:
            status = path.stat()
        except OSError as error:
            return str(error)
        inode = self._inodes.get(index)
        other = inode is not None and inode != status.st_ino
        until_ns = places.recorded_until_ns
        if until_ns is not None and (
            status.st_mtime_ns > until_ns or (other and status.st_ctime_ns > until_ns)
        ):
            return f"{path} was changed after the recording, which has no build id for it"
        if other:
            self.doubts[index] = (
                f"{path} may be another file than the one that was mapped: its inode is "
                f"{status.st_ino}, {inode} was recorded, and no build id"
            )
        elif places.same_machine is None and until_ns is not None:
            self.doubts[index] = (
                f"nothing shows that {path} is the file that was mapped: the recording names "
                "neither its build id nor the machine"
            )
        return ""

    def _candidates(self, dso: Dso) -> Iterable[Path]:
        # A deleted file may have been replaced under the same name: only its build id can tell.
        path = dso.file or dso.path
        name = path.removesuffix(_DELETED)
        if name == path or dso.build_id:
            yield self.places.symfs / name.lstrip("/")
        if dso.build_id:
            for directory in self.places.archives:
                for kept in buildid.archive_paths(directory, dso.build_id):
                    if kept.is_file():
                        yield kept

    def _find_vdso(self, index: int, dso: Dso) -> ElfImage | None:
        image = vdso.read_own() if dso.path == VDSO_PATH else None
        if image is None:
            self.notes[index] = "the vDSO of this process cannot be read"
        elif dso.build_id and not buildid.same(dso.build_id, image.build_id):
            self.notes[index] = "the running kernel's vDSO is another build"
        elif not dso.build_id and not self.places.same_kernel:
            self.notes[index] = "nothing shows that the running kernel is the recorded one"
        else:
            return image
        return None


def _other_build(path: Path, recorded: bytes, found: bytes | None) -> str:
    if buildid.same(recorded, found):
        return ""
    shown = found.hex() if found else "none"
    return f"{path} is another build (build id {shown}, recorded {recorded.hex()})"
