"""Small C programs of tests/workloads, compiled once per session."""

from __future__ import annotations

import atexit
import functools
import shutil
import subprocess
import tempfile
from pathlib import Path

import pytest

SOURCES = Path(__file__).resolve().parent.parent / "workloads"


@functools.cache
def _directory() -> Path:
    path = Path(tempfile.mkdtemp(prefix="perfxmm-workloads-"))
    path.chmod(0o755)  # another user runs them too
    atexit.register(shutil.rmtree, path, ignore_errors=True)
    return path


@functools.cache
def _compile(source: str, flags: tuple[str, ...]) -> tuple[str, str]:
    """(path, "") or ("", why not)."""
    compiler = shutil.which("gcc") or shutil.which("cc")
    if compiler is None:
        return "", "no C compiler here"
    name = source.replace(".", "_") + "".join(flags).replace("/", "_")
    out = _directory() / name
    command = [compiler, "-O2", "-g", "-pthread", str(SOURCES / source), "-o", str(out), *flags]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    return (str(out), "") if done.returncode == 0 else ("", done.stderr[-400:])


def workload(source: str, *flags: str) -> str:
    """Path of the compiled program; skips the test where it cannot be compiled."""
    path, why = _compile(source, flags)
    if not path:
        pytest.skip(f"{source} cannot be compiled here: {why}")
    return path


def symbol(program: str, name: str) -> int:
    """Value of a symbol in the program's own symbol table."""
    from elftools.elf.elffile import ELFFile

    with open(program, "rb") as file:
        table = ELFFile(file).get_section_by_name(".symtab")
        return int(table.get_symbol_by_name(name)[0]["st_value"])
