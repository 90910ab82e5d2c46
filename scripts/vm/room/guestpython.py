"""perfxmm itself in the guest: Debian's Python, what perfxmm depends on, and this checkout."""

from __future__ import annotations

import compileall
import hashlib
import py_compile
import shutil
import subprocess
import sys
import tempfile
import tomllib
from pathlib import Path

from .image import Archive, closure
from .packages import cache_folder
from .roots import Root
from .trouble import Unavailable

CHECKOUT = Path(__file__).resolve().parents[3]
PYTHON = "usr/bin/python3.11"
# What the recorder never imports, most of the standard library's and NumPy's size.
LEFT_OUT = ("test", "tests", "idlelib", "lib2to3", "ensurepip", "pydoc_data", "distutils",
            "turtledemo", "f2py", "_pyinstaller")
# Of the C library and the compiler: what wheels of the manylinux tags may need.
WHEEL_LIBRARIES = tuple(
    f"usr/lib/x86_64-linux-gnu/{name}"
    for name in ("librt.so.1", "libpthread.so.0", "libdl.so.2", "libutil.so.1", "libm.so.6",
                 "libgcc_s.so.1", "libstdc++.so.6")
)


def dependencies() -> list[str]:
    """perfxmm's own, as pyproject.toml names them."""
    with (CHECKOUT / "pyproject.toml").open("rb") as file:
        named: list[str] = tomllib.load(file)["project"]["dependencies"]
    return named


def site_packages(refresh: bool = False) -> Path:
    """The dependencies for the guest's Python 3.11, by pip into the cache folder.

    Raises:
        Unavailable: pip's own words.
    """
    wanted = dependencies()
    key = hashlib.sha256(repr(wanted).encode()).hexdigest()[:12]
    folder = cache_folder() / "built" / f"site-{key}"
    if (folder / ".complete").exists() and not refresh:
        return folder
    shutil.rmtree(folder, ignore_errors=True)
    words = [sys.executable, "-m", "pip", "install", "-q", "--disable-pip-version-check",
             "--target", folder, "--python-version", "3.11", "--implementation", "cp",
             "--platform", "manylinux_2_28_x86_64", "--platform", "manylinux2014_x86_64",
             "--only-binary=:all:", *wanted]
    done = subprocess.run(words, capture_output=True, text=True, check=False)
    if done.returncode:
        raise Unavailable(f"pip could not fetch perfxmm's dependencies: {done.stderr[-500:]}")
    (folder / ".complete").touch()
    return folder


def compile_below(folder: Path) -> None:
    """Byte code beside the sources of a folder: compiling them in Bochs takes minutes.

    Never checked against the sources, whose times the archive does not keep. Another Python than
    3.11 writes files that the guest's passes by, and the guest is only slower.
    """
    compileall.compile_dir(folder, quiet=2,
                           invalidation_mode=py_compile.PycInvalidationMode.UNCHECKED_HASH)


def add_tree(archive: Archive, folder: Path, inside: str) -> None:
    for path in sorted(folder.rglob("*")):
        parts = path.relative_to(folder).parts
        if path.is_file() and not set(parts) & set(LEFT_OUT):
            archive.file(f"{inside}/{'/'.join(parts)}", path.read_bytes(),
                         0o755 if ".so" in path.name else 0o644)


def python_archive(root: Root, refresh: bool = False) -> bytes:
    """Python, its standard library and perfxmm's dependencies; perfxmm is added in each run."""
    site = site_packages(refresh)
    archive = Archive()
    extensions = [f"usr/lib/python3.11/lib-dynload/{path.name}"
                  for path in (root.folder / "usr/lib/python3.11/lib-dynload").glob("*.so")]
    for name, path in closure(root, [PYTHON, *extensions, *WHEEL_LIBRARIES]):
        archive.file(name.replace("lib64/", "usr/lib64/", 1) if name.startswith("lib64/") else name,
                     path.read_bytes(), 0o755)
    stdlib = root.folder / "usr/lib/python3.11"
    for folder, inside in ((stdlib, "usr/lib/python3.11"), (site, "room/site")):
        compile_below(folder)
        add_tree(archive, folder, inside)
    return archive.bytes()


def add_perfxmm(archive: Archive) -> None:
    """This checkout's package, beside its dependencies."""
    with tempfile.TemporaryDirectory(prefix="perfxmm-vm-") as scratch:
        copy = Path(scratch) / "perfxmm"
        shutil.copytree(CHECKOUT / "perfxmm", copy,
                        ignore=shutil.ignore_patterns("__pycache__", "kmod"))
        compile_below(copy)
        add_tree(archive, copy, "room/site/perfxmm")
