"""What to tell a person about addresses that stayed numbers, and about names that may be wrong."""

from __future__ import annotations

from perfxmm.program.binaries import KERNEL_PATH
from perfxmm.program.timeline import Timeline

# One line each for so many; of the rest their number.
_MOST_LINES = 8
NUMBERS = "addresses in it stay numbers"
# Of memory that never has names there is nothing to say.
_NOTHING_TO_SAY = frozenset({"not a file"})


def remarks(timeline: Timeline) -> list[str]:
    """Lines for everything that samples fell into so far, what matters most first."""
    binaries = timeline.binaries
    lines = []
    missing: list[tuple[str, str]] = []
    for index, why in sorted(binaries.notes.items()):
        dso = binaries.dsos[index]
        if index in binaries.changed:
            lines.append(f"{dso.path}: {why}; {NUMBERS}")
        elif dso.jit_pid:
            lines.append(f"code made by process {dso.jit_pid}: {why}")
        elif dso.path == KERNEL_PATH:
            lines.append(f"kernel addresses stay numbers: {why}")
        elif why not in _NOTHING_TO_SAY:
            missing.append((dso.path, why))
    lines += [binaries.doubts[index] for index in sorted(binaries.doubts)]
    if len(lines) > _MOST_LINES:
        more = len(lines) - _MOST_LINES
        lines = [*lines[:_MOST_LINES], f"and {more:,} more binaries or processes like these"]
    if missing:
        path, why = missing[0]
        others = f" and {len(missing) - 1:,} more" if len(missing) > 1 else ""
        lines.append(
            f"no symbols for {path} ({why}){others}; --symfs DIR takes binaries from elsewhere"
        )
    if timeline.late:
        lines.append(
            f"{timeline.late:,} records of mappings and names came too late to be put where they "
            "belong, and were left out"
        )
    return lines
