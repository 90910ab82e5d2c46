"""The guest's initial file system: a cpio archive in the `newc` form, and a boot medium with it.

The archive's form is Documentation/driver-api/early-userspace/buffer-format.rst of the kernel.
Several archives one after the other are one file system, so what never changes is written once.
"""

from __future__ import annotations

import os
import shutil
import stat
from collections.abc import Iterable, Iterator
from pathlib import Path

from elftools.elf.dynamic import DynamicSection
from elftools.elf.elffile import ELFFile

from .roots import Root
from .trouble import Trouble

TRAILER = "TRAILER!!!"


class Archive:
    """A cpio archive in memory. Folders above a file are added by themselves."""

    def __init__(self) -> None:
        self._parts: list[bytes] = []
        self._names: set[str] = set()
        self._inode = 0

    def _entry(self, name: str, mode: int, body: bytes, device: tuple[int, int] = (0, 0)) -> None:
        self._inode += 1
        encoded = name.encode() + b"\0"
        fields = (self._inode, mode, 0, 0, 1, 0, len(body), 0, 0, *device, len(encoded), 0)
        header = b"070701" + b"".join(b"%08X" % field for field in fields)
        part = header + encoded
        part += b"\0" * (-len(part) % 4) + body
        self._parts.append(part + b"\0" * (-len(part) % 4))
        self._names.add(name)

    def folder(self, name: str) -> None:
        name = name.strip("/")
        if name and name not in self._names:
            self.folder(os.path.dirname(name))   # noqa: PTH120 (a name in the archive, no path here)
            self._entry(name, stat.S_IFDIR | 0o755, b"")

    def file(self, name: str, body: bytes, mode: int = 0o644) -> None:
        name = name.strip("/")
        self.folder(os.path.dirname(name))   # noqa: PTH120
        self._entry(name, stat.S_IFREG | mode, body)

    def link(self, name: str, target: str) -> None:
        name = name.strip("/")
        self.folder(os.path.dirname(name))   # noqa: PTH120
        self._entry(name, stat.S_IFLNK | 0o777, target.encode())

    def device(self, name: str, major: int, minor: int) -> None:
        self.folder(os.path.dirname(name.strip("/")))   # noqa: PTH120
        self._entry(name.strip("/"), stat.S_IFCHR | 0o600, b"", (major, minor))

    def __contains__(self, name: str) -> bool:
        return name.strip("/") in self._names

    def bytes(self) -> bytes:
        """The archive with its trailer, padded to 512 bytes."""
        encoded = TRAILER.encode() + b"\0"
        fields = (0, 0, 0, 0, 1, 0, 0, 0, 0, 0, 0, len(encoded), 0)
        trailer = b"070701" + b"".join(b"%08X" % field for field in fields) + encoded
        whole = b"".join(self._parts) + trailer
        return whole + b"\0" * (-len(whole) % 512)


def needed(path: Path) -> tuple[list[str], str]:
    """The shared libraries an ELF file names, and its interpreter ("" for none)."""
    with path.open("rb") as file:
        elf = ELFFile(file)
        interpreter = next((segment.get_interp_name() for segment in elf.iter_segments()
                            if segment.header.p_type == "PT_INTERP"), "")
        names = [tag.needed for section in elf.iter_sections()
                 if isinstance(section, DynamicSection)
                 for tag in section.iter_tags() if tag.entry.d_tag == "DT_NEEDED"]
    return names, interpreter


LIBRARY_FOLDERS = ("usr/lib/x86_64-linux-gnu", "usr/lib", "usr/lib64",
                   "usr/lib/x86_64-linux-gnu/perl/5.36/CORE")


def closure(root: Root, programs: Iterable[str]) -> Iterator[tuple[str, Path]]:
    """The programs of a root with every library they need: (name inside, file here).

    Raises:
        Trouble: a library that no package of the root brings.
    """
    wanted = list(programs)
    seen: set[str] = set()
    while wanted:
        name = wanted.pop()
        if name in seen:
            continue
        seen.add(name)
        path = resolve(root.folder, name)
        yield name, path
        libraries, interpreter = needed(path)
        if interpreter:
            wanted.append(interpreter.lstrip("/"))
        for library in libraries:
            for folder in LIBRARY_FOLDERS:
                if (root.folder / folder / library).exists():
                    wanted.append(f"usr/lib/x86_64-linux-gnu/{library}"
                                  if folder != "usr/lib64" else f"{folder}/{library}")
                    break
            else:
                raise Trouble(f"{name} needs {library}, which no package of {root.folder} brings")


def resolve(folder: Path, name: str) -> Path:
    """A file of a root, absolute symbolic links taken inside the root."""
    path = folder / name
    for base in LIBRARY_FOLDERS:
        if not path.exists() and not path.is_symlink() and "/" in name:
            path = folder / base / Path(name).name
    for _ in range(8):
        if not path.is_symlink():
            break
        target = os.readlink(path)   # noqa: PTH115
        path = folder / target.lstrip("/") if target.startswith("/") else path.parent / target
    return path


BUSYBOX = (
    "sh", "mount", "umount", "mkdir", "cat", "echo", "sleep", "usleep", "insmod", "rmmod", "dmesg",
    "ls", "kill", "grep", "sed", "head", "tail", "wc", "seq", "true", "false", "rm", "cp", "mv",
    "ps", "stat", "dd", "date", "chmod", "test", "printf", "nproc", "awk", "tr", "cut", "timeout",
    "uname", "env", "id", "su",
)


def base_archive(root: Root) -> bytes:
    """What every run has: busybox, perf, their libraries, devices."""
    archive = Archive()
    for name in ("proc", "sys", "dev", "tmp", "out", "etc", "root", "usr/bin", "usr/lib"):
        archive.folder(name)
    for link in ("bin", "sbin"):
        archive.link(link, "usr/bin")
    archive.link("lib", "usr/lib")
    archive.link("lib64", "usr/lib64")
    archive.link("usr/sbin", "bin")
    archive.device("dev/console", 5, 1)
    archive.device("dev/null", 1, 3)
    archive.file("etc/passwd", b"root:x:0:0::/root:/bin/sh\nnobody:x:65534:65534::/:/bin/sh\n")
    archive.file("etc/ld.so.conf", b"/usr/lib/x86_64-linux-gnu\n")
    busybox = root.folder / "usr/bin/busybox"
    archive.file("usr/bin/busybox", busybox.read_bytes(), 0o755)
    for name in BUSYBOX:
        archive.link(f"usr/bin/{name}", "busybox")
    perf = sorted(path.name for path in (root.folder / "usr/bin").glob("perf_[0-9]*"))
    program = f"usr/bin/{perf[-1]}" if perf else "usr/bin/perf"
    for name, path in closure(root, [program]):
        inside = "usr/bin/perf" if name == program else name
        if inside.startswith("lib64/"):
            inside = "usr/" + inside
        if inside not in archive:
            archive.file(inside, path.read_bytes(), 0o755)
    return archive.bytes()


def iso(root: Root, work: Path, kernel: Path, initrds: Iterable[Path], arguments: str,
        syslinux: str = "usr/lib") -> Path:
    """A CD image that isolinux boots, written by the root's xorriso into work/boot.iso."""
    tree = work / "iso"
    shutil.rmtree(tree, ignore_errors=True)
    tree.mkdir(parents=True)
    shutil.copy(root.folder / syslinux / "ISOLINUX/isolinux.bin", tree / "isolinux.bin")
    shutil.copy(root.folder / syslinux / "syslinux/modules/bios/ldlinux.c32", tree / "ldlinux.c32")
    shutil.copy(kernel, tree / "linux")
    names = []
    for number, initrd in enumerate(initrds):
        shutil.copy(initrd, tree / f"initrd{number}")
        names.append(f"/initrd{number}")
    (tree / "isolinux.cfg").write_text(
        "DEFAULT room\nPROMPT 0\nTIMEOUT 0\nLABEL room\n KERNEL /linux\n"
        f" INITRD {','.join(names)}\n APPEND {arguments}\n")
    root.check(
        ["xorriso", "-as", "mkisofs", "-quiet", "-o", "/room/boot.iso", "-b", "isolinux.bin",
         "-no-emul-boot", "-boot-load-size", "4", "-boot-info-table", "/room/iso"],
        "xorriso", bind={work: "/room"}, log=work / "xorriso.log")
    return work / "boot.iso"
