"""What can be said of one register class of one snapshot."""

from __future__ import annotations

from collections.abc import Collection, Iterable
from enum import IntEnum


class Verdict(IntEnum):
    """Codes in the `verdict` column. UNKNOWN is 0: what no rule has judged is not believed."""

    UNKNOWN = 0
    COHERENT = 1
    LATE = 2
    ENTRY = 3
    TORN = 4
    FOREIGN = 5
    ABSENT = 6

    @property
    def label(self) -> str:
        """The name as people and JSON see it: `coherent`, `late`, ..."""
        return self.name.lower()


# What is shown without --keep.
SHOWN_BY_DEFAULT: frozenset[Verdict] = frozenset({Verdict.COHERENT, Verdict.LATE})

# One sentence a verdict; printed by `perfxmm explain` and put into the documentation.
VERDICT_TEXT: dict[Verdict, str] = {
    Verdict.UNKNOWN: "The evidence does not decide, so nothing is claimed.",
    Verdict.COHERENT: "The sampled thread's own user registers, at the sampled IP.",
    Verdict.LATE: (
        "The thread's own user registers, coherent with their own IP, which is not the IP of "
        "the event. Attributed to the registers' own IP."
    ),
    Verdict.ENTRY: (
        "User registers as of kernel entry: they belong together, but not to the sample's IP."
    ),
    Verdict.TORN: (
        "Parts of the register were taken at different instants; the reasons name the part "
        "that can be trusted."
    ),
    Verdict.FOREIGN: (
        "May belong to the kernel, another task or a guest. Values are withheld unless "
        "--unsafe-foreign is given."
    ),
    Verdict.ABSENT: "Not delivered: not asked for, or the kernel had nothing to give.",
}


def parse_verdicts(names: Iterable[str]) -> frozenset[Verdict]:
    """Verdicts by their labels; `all` stands for every one. Raises KeyError with the bad name."""
    chosen: set[Verdict] = set()
    for name in names:
        word = name.strip().lower()
        if word == "all":
            return frozenset(Verdict)
        try:
            chosen.add(Verdict[word.upper()])
        except KeyError:
            raise KeyError(name) from None
    return frozenset(chosen)


def labels(verdicts: Collection[Verdict]) -> list[str]:
    """Labels in code order."""
    return [verdict.label for verdict in sorted(verdicts)]
