"""A C program whose lines and inlined functions are known, compiled when a test asks for it.

Each MARK is one instruction on a line of its own, whose address stands in a section of that name:
a label would be taken for a function.
"""

from __future__ import annotations

import shutil
import struct
import subprocess
from pathlib import Path

import pytest
from elftools.elf.elffile import ELFFile

HEADER = """\
static inline __attribute__((always_inline)) int innermost(int x)
{
    MARK(in_innermost);
    return x + 1;
}
"""
SOURCE = """\
#define MARK(name) __asm__ volatile( \\
    "1:\\tnop\\n" \\
    "\\t.pushsection .mark." #name ",\\"\\",@progbits\\n" \\
    "\\t.quad 1b\\n" \\
    "\\t.popsection")
#include "inner.h"

static inline __attribute__((always_inline)) int middle(int x)
{
    MARK(in_middle);
    return 2 * innermost(x);
}

__attribute__((noinline)) int outer(int x)
{
    MARK(in_outer);
    return middle(x) + 3;
}

int main(void)
{
    MARK(in_main);
    return outer(1) != 7;
}
"""
MACRO = SOURCE[: SOURCE.index("#include")]
MARKS = ("in_innermost", "in_middle", "in_outer", "in_main")


def line_of(fragment: str, text: str = SOURCE) -> int:
    """Number of the one line that has `fragment`."""
    (number,) = (n for n, line in enumerate(text.splitlines(), 1) if fragment in line)
    return number


def expected(mark: str) -> list[tuple[str, str, int]]:
    """(function, last part of the file's name, line), innermost first."""
    outer = ("outer", "main.c", line_of("return middle(x)"))
    middle = ("middle", "main.c", line_of("return 2 * innermost"))
    return {
        "in_innermost": [("innermost", "inner.h", line_of("MARK", HEADER)), middle, outer],
        "in_middle": [("middle", "main.c", line_of("MARK(in_middle)")), outer],
        "in_outer": [("outer", "main.c", line_of("MARK(in_outer)"))],
        "in_main": [("main", "main.c", line_of("MARK(in_main)"))],
    }[mark]


def build(directory: Path, *options: str, name: str = "program") -> Path:
    """The program, compiled in `directory`. Skips the test where there is no gcc."""
    directory.mkdir(exist_ok=True)
    (directory / "inner.h").write_text(HEADER)
    return compile_c(directory, SOURCE, *options, name=name)


def compile_c(directory: Path, source: str, *options: str, name: str = "program") -> Path:
    if shutil.which("gcc") is None:
        pytest.skip("no gcc to build the program with")
    (directory / "main.c").write_text(source)
    subprocess.run(
        ["gcc", "-O2", "-g", *options, "main.c", "-o", name], cwd=directory, check=True, timeout=60
    )
    return directory / name


def split(binary: Path, *, link: bool) -> Path:
    """Moves the debug information of a binary to `NAME.debug` beside it."""
    if shutil.which("objcopy") is None:
        pytest.skip("no objcopy to split debug information off with")
    debug = binary.with_name(f"{binary.name}.debug")
    commands = [["--only-keep-debug", binary.name, debug.name], ["--strip-debug", binary.name]]
    if link:
        commands.append([f"--add-gnu-debuglink={debug.name}", binary.name])
    for command in commands:
        subprocess.run(["objcopy", *command], cwd=binary.parent, check=True, timeout=60)
    return debug


def addresses(binary: Path) -> dict[str, int]:
    """Virtual address of each mark."""
    with binary.open("rb") as file:
        elf = ELFFile(file)
        found = {}
        for name in MARKS:
            section = elf.get_section_by_name(f".mark.{name}")
            if section is not None:
                (found[name],) = struct.unpack("<Q", section.data())
        return found


def offsets(binary: Path) -> dict[str, int]:
    """File offset of each mark."""
    with binary.open("rb") as file:
        elf = ELFFile(file)
        loads = [s.header for s in elf.iter_segments("PT_LOAD")]
        return {
            name: next(
                vaddr - load["p_vaddr"] + load["p_offset"] for load in loads
                if load["p_vaddr"] <= vaddr < load["p_vaddr"] + load["p_filesz"]
            )
            for name, vaddr in addresses(binary).items()
        }  # fmt: skip
