"""The kernel modules and the guest's programs, built in a kernel's own root and kept by content."""

from __future__ import annotations

import hashlib
import shutil
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from .kernels import Boot, Kernel
from .packages import cache_folder
from .roots import Root
from .trouble import Trouble

GUEST = Path(__file__).resolve().parent.parent / "guest"
KMOD = Path(__file__).resolve().parents[3] / "perfxmm" / "kmod"
SOURCES = ("*.c", "*.h", "*.S", "Kbuild", "Makefile")

PROGRAMS = {
    "holder": ("holder.c", "hold.S"),
    "send": ("send.c",),
    "shadow": ("shadow.c",),
    "listen": ("listen.c",),
}


@dataclass(frozen=True)
class Built:
    """modules and programs by name, as files on the host; warnings: what the compiler said."""

    modules: dict[str, Path]
    programs: dict[str, Path]
    warnings: tuple[str, ...]


def sources_of(folder: Path) -> list[Path]:
    return sorted(path for pattern in SOURCES for path in folder.glob(pattern)
                  if not path.name.endswith(".mod.c"))


def content_key(files: Iterable[Path], *more: str) -> str:
    digest = hashlib.sha256("\0".join(more).encode())
    for path in files:
        digest.update(path.name.encode() + b"\0" + path.read_bytes() + b"\0")
    return digest.hexdigest()[:16]


def build(kernel: Kernel, root: Root, boot: Boot) -> Built:
    """Module, marker and programs for one kernel.

    Raises:
        Trouble: with the end of the compiler's output.
    """
    base = cache_folder() / "built" / boot.release
    modules, said = {}, []
    for name, folder in (("xsaves_nmi", KMOD), ("marker", GUEST / "marker")):
        module, warnings = build_module(name, folder, base, kernel, root, boot)
        modules[name] = module
        said += warnings
    return Built(modules, build_programs(base, kernel, root), tuple(said))


def build_module(name: str, folder: Path, base: Path, kernel: Kernel, root: Root,
                 boot: Boot) -> tuple[Path, list[str]]:
    files = sources_of(folder)
    if not files:
        raise Trouble(f"no sources of {name} in {folder}")
    work = base / f"{name}-{content_key(files, boot.release, kernel.compiler)}"
    module, log = work / f"{name}.ko", work / "build.log"
    if not module.exists():
        shutil.rmtree(work, ignore_errors=True)
        work.mkdir(parents=True)
        for path in files:
            shutil.copy(path, work / path.name)
        # Type information of modules needs pahole and the kernel's own image; nobody reads it here.
        words = ["make", "-C", boot.headers, "M=/room", "-j2", "CONFIG_DEBUG_INFO_BTF_MODULES=",
                 f"CC={kernel.compiler}", "modules"]
        root.check(words,
                   f"building {name} for {boot.release}", bind={work: "/room"}, nice=10, log=log)
        if not module.exists():
            raise Trouble(f"building {name} for {boot.release} left no {name}.ko: see {log}")
    return module, [f"{name}: {line.strip()}" for line in log.read_text().splitlines()
                    if "warning:" in line]


def build_programs(base: Path, kernel: Kernel, root: Root) -> dict[str, Path]:
    files = sources_of(GUEST)
    work = base / f"guest-{content_key(files, kernel.compiler)}"
    if not all((work / name).exists() for name in PROGRAMS):
        shutil.rmtree(work, ignore_errors=True)
        work.mkdir(parents=True)
        for path in files:
            shutil.copy(path, work / path.name)
        for name, parts in PROGRAMS.items():
            words = [kernel.compiler, "-O2", "-Wall", "-Wextra", "-static", "-pthread",
                     "-o", name, *parts]
            root.check(words, f"building {name}", bind={work: "/room"}, cwd="/room", nice=10)
    return {name: work / name for name in PROGRAMS}
