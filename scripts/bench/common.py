"""What the benchmarks share: figures as ratios against a limit, a table, and JSON.

Each script measures both sides of a ratio in one run, so that a figure means the same on a slow
machine and on a fast one.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path


@dataclass(frozen=True)
class Row:
    """One figure. limit: what it should be at least or at most; None where it is only told."""

    name: str
    value: float
    unit: str = "ratio"
    at_least: float | None = None
    at_most: float | None = None
    note: str = ""

    @property
    def met(self) -> bool | None:
        if self.at_least is None and self.at_most is None:
            return None
        return (self.at_least is None or self.value >= self.at_least) and (
            self.at_most is None or self.value <= self.at_most
        )


def parser(description: str | None) -> argparse.ArgumentParser:
    made = argparse.ArgumentParser(
        description=description, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    made.add_argument("--json", type=Path, metavar="FILE", help="write the figures there too")
    return made


def best_of(times: int, *works: Callable[[], object]) -> list[float]:
    """Least wall time of `times` runs of each, in seconds: the others were disturbed more.

    The works take turns, so that a busy moment of the machine meets them all.
    """
    found: list[list[float]] = [[] for _ in works]
    for _ in range(times):
        for work, seconds in zip(works, found, strict=True):
            begun = time.perf_counter()
            work()
            seconds.append(time.perf_counter() - begun)
    return [min(seconds) for seconds in found]


def report(name: str, rows: Sequence[Row], *, json_file: Path | None = None) -> int:
    """Prints the figures, writes them as JSON where asked; 1 if one is missed, else 0."""
    print(f"{name} ({platform.machine()}, {os.cpu_count()} CPUs, Linux {platform.release()})")
    for row in rows:
        limit = "" if row.met is None else (
            f"at least {row.at_least:g}" if row.at_least is not None else f"at most {row.at_most:g}"
        )  # fmt: skip
        verdict = {None: "", True: "met", False: "MISSED"}[row.met]
        print(f"  {row.name:<52} {row.value:>10.3f} {row.unit:<8} {limit:<16} {verdict:<7}"
              f"{row.note}".rstrip())  # fmt: skip
    if json_file is not None:
        figures = [{**asdict(row), "met": row.met} for row in rows]
        document = {"benchmark": name, "machine": platform.machine(), "cpus": os.cpu_count(),
                    "kernel": platform.release(), "python": sys.version.split()[0],
                    "figures": figures}  # fmt: skip
        json_file.write_text(json.dumps(document, indent=1) + "\n")
    return int(any(row.met is False for row in rows))
