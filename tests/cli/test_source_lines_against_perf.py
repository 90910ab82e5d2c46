"""Source lines of every sample of a compiled program, beside those that perf script prints."""

from __future__ import annotations

import re
import shutil
import subprocess
from collections import Counter
from pathlib import Path

import pytest
from support.inprocess import run
from support.lines_program import compile_c, line_of

from perfxmm.program.lines_tools import available

SOURCE = """\
volatile double sink;
static inline __attribute__((always_inline)) double square(double x)
{
    double y = x * x;
    for (int i = 0; i < 5; i++)
        y += x / (y + i);
    return y;
}
__attribute__((noinline)) double sum(double x)
{
    double r = 0;
    for (int i = 0; i < 100; i++)
        r += square(x + i);
    return r;
}
int main(void)
{
    for (int i = 0; i < 60000; i++)
        sink = sum(i);
    return 0;
}
"""
_SAMPLE = re.compile(r"\s*([0-9a-f]+) \((.*)\)")


def lines_by_address(text: str, dso: str) -> Counter[tuple[str, str]]:
    """(address, source line) of the samples in one object."""
    found: Counter[tuple[str, str]] = Counter()
    rows = [row for row in text.splitlines() if row.strip()]
    for row, below in zip(rows, [*rows[1:], ""], strict=True):
        if (match := _SAMPLE.fullmatch(row)) and match[2] == dso:
            found[match[1], below.strip()] += 1
    return found


@pytest.mark.parametrize("options", [["-no-pie"], ["-pie", "-fPIE"]], ids=" ".join)
def test_every_sample_has_the_line_that_perf_prints(options: list[str], tmp_path: Path) -> None:
    perf = shutil.which("perf")
    if perf is None or not available():
        pytest.skip("no perf, or no tool that reads debug information is here")
    # DWARF 4: of files in DWARF 5, binutils 2.40 (which perf may ask) confuses some.
    binary = compile_c(tmp_path, SOURCE, "-gdwarf-4", *options)
    done = subprocess.run(
        [perf, "record", "-q", "-e", "cpu-clock:u", "-F", "5000", "-o", "perf.data", binary],
        cwd=tmp_path, capture_output=True, text=True, timeout=60,
    )  # fmt: skip
    if done.returncode:
        pytest.skip(f"perf record is refused here: {done.stderr.strip()[:200]}")
    theirs = subprocess.run(
        [perf, "script", "-i", "perf.data", "-F", "ip,dso,srcline"], cwd=tmp_path, check=True,
        capture_output=True, text=True, timeout=120,
    ).stdout  # fmt: skip
    ours = run("script", "-i", tmp_path / "perf.data", "-F", "ip,dso,srcline", cwd=tmp_path).out
    expected = lines_by_address(theirs, str(binary))
    assert sum(expected.values()) > 20
    assert lines_by_address(ours, str(binary)) == expected
    dear = f"main.c:{line_of('y += x / (y + i)', SOURCE)}"
    assert dear in {line for _, line in expected}
