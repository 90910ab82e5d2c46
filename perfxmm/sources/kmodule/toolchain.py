"""What a build for a kernel takes: its headers, the compiler it was built with, make.

A module that another compiler built may lack what the kernel expects of its code (retpolines,
function padding), or not build at all: headers pass options that older compilers do not know.
"""

from __future__ import annotations

import re
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from perfxmm.errors import NotSupported
from perfxmm.sources.kmodule.distribution import Distribution
from perfxmm.sources.kmodule.place import headers_folder

Which = Callable[[str], str | None]
# "gcc-12 (Debian 12.2.0-14) 12.2.0", "gcc (GCC) 14.2.1 20240912", "Debian clang version 19.1.7":
# CONFIG_CC_VERSION_TEXT of init/Kconfig, which is the compiler's own first line.
_CLANG = re.compile(r"clang version (\d+)")
_GCC = re.compile(r"gcc.*\) (\d+)\.\d+")


@dataclass(frozen=True, slots=True)
class Compiler:
    """The compiler a kernel was built with. family: gcc or clang."""

    family: str
    major: int
    text: str

    @property
    def versioned(self) -> str:
        return f"{self.family}-{self.major}"


@dataclass(frozen=True, slots=True)
class Toolchain:
    """All that a build takes. remark: what is not as it was when the kernel was built."""

    release: str
    headers: Path
    compiler: Compiler | None
    make_arguments: tuple[str, ...]
    remark: str = ""


def kernel_compiler(headers: Path) -> Compiler | None:
    """The compiler of the kernel with these `headers`; None where they do not say."""
    try:
        text = (headers / "include/config/auto.conf").read_text(errors="replace")
    except OSError:
        return None
    # In quotes up to Linux 5.10 or so, without them in 6.1.
    found = re.search(r'^CONFIG_CC_VERSION_TEXT="?(.*?)"?$', text, re.MULTILINE)
    return parse_compiler(found[1]) if found else None


def parse_compiler(text: str) -> Compiler | None:
    for family, pattern in (("clang", _CLANG), ("gcc", _GCC)):
        found = pattern.search(text)
        if found:
            return Compiler(family, int(found[1]), text)
    return None


def find_toolchain(
    release: str, distribution: Distribution, *, root: Path = Path("/"),
    headers: Path | None = None, which: Which = shutil.which,
    version_of: Callable[[str], str] | None = None,
) -> Toolchain:
    """What a build for `release` uses.

    headers: where they are, if not below /lib/modules. which, version_of: finding a program and
    its first line of --version. Raises NotSupported, naming the package that is missing.
    """
    folder = headers or headers_folder(release, root)
    if folder is None or not (folder / "Makefile").is_file():
        raise missing_headers(release, distribution, folder)
    if which("make") is None:
        raise _missing("make is not installed", "make", distribution)
    compiler = kernel_compiler(folder)
    if compiler is None:
        return Toolchain(release, folder, None, (), "the headers do not say which compiler")
    program = _program(compiler, which, version_of or first_line)
    if program is None:
        package = distribution.compiler_package(compiler.versioned)
        raise _missing(f"this kernel was built with {compiler.text}, and {compiler.versioned} "
                       "is not installed", package, distribution)  # fmt: skip
    arguments = [f"CC={program}"]
    if compiler.family == "clang":
        # Documentation/kbuild/llvm.rst: the linker and the rest as well, of the same release.
        suffix = "1" if program == "clang" else f"-{compiler.major}"
        arguments.append(f"LLVM={suffix}")
    return Toolchain(release, folder, compiler, tuple(arguments))


def missing_headers(
    release: str, distribution: Distribution, folder: Path | None = None
) -> NotSupported:
    """The error for headers that are not there."""
    package = distribution.headers_package(release)
    command = distribution.install(package) if package else ""
    if command:
        step = f"{command}, then perfxmm module build"
    else:
        step = f"install the package with the headers of kernel {release}"
    where = str(folder) if folder else f"/lib/modules/{release}/build"
    return NotSupported(
        f"the headers of kernel {release} are not installed", where=where,
        why="a module is built against the headers of the kernel it is for", next_step=step,
    )  # fmt: skip


def first_line(program: str) -> str:
    """The first line of `program --version`, "" if it does not run."""
    import subprocess

    try:
        ran = subprocess.run([program, "--version"], capture_output=True, text=True,
                             errors="replace", timeout=30, check=False)  # fmt: skip
    except (OSError, subprocess.TimeoutExpired):
        return ""
    return ran.stdout.partition("\n")[0]


def _program(
    compiler: Compiler, which: Which, version_of: Callable[[str], str]
) -> str | None:
    if which(compiler.versioned):
        return compiler.versioned
    if which(compiler.family):
        here = parse_compiler(version_of(compiler.family))
        if here and (here.family, here.major) == (compiler.family, compiler.major):
            return compiler.family
    return None


def _missing(what: str, package: str, distribution: Distribution) -> NotSupported:
    command = distribution.install(package)
    return NotSupported(what, next_step=command or f"install {package}")
