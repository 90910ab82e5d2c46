"""Start-up: `perfxmm --help` against importing the two libraries that any such tool needs.

    python scripts/bench/startup.py [--json FILE]
"""

from __future__ import annotations

import functools
import subprocess
import sys

from common import Row, best_of, parser, report

RUNS = 15
VERBS = ("doctor", "list", "record", "script", "report", "export", "explain")


def run(command: list[str]) -> None:
    subprocess.run(command, stdout=subprocess.DEVNULL, check=True)


def main() -> int:
    arguments = parser(__doc__).parse_args()
    perfxmm = [sys.executable, "-m", "perfxmm"]
    works = [functools.partial(run, [sys.executable, "-c", "import typer, rich"])]
    helps = [[*perfxmm, "--help"], *([*perfxmm, verb, "--help"] for verb in VERBS)]
    works += [functools.partial(run, command) for command in helps]
    floor, whole, *verbs = best_of(RUNS, *works)
    rows = [Row("perfxmm --help / import typer, rich", whole / floor, at_most=2.5)]
    rows += [
        Row(f"perfxmm {verb} --help / import typer, rich", seconds / floor)
        for verb, seconds in zip(VERBS, verbs, strict=True)
    ]
    return report("start-up", rows, json_file=arguments.json)


if __name__ == "__main__":
    sys.exit(main())
