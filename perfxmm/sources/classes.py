"""Register classes as a user writes them: `xmm,ymm,opmask`, `r16`, `ssp`, `auto`."""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable

from perfxmm.errors import NotSupported, UsageError
from perfxmm.kernel.registers import CLASS_NAMES, GPR_ID

# A wider class holds the narrower ones: a sample has one width, and perf asks for the widest.
WIDENING: dict[str, tuple[str, ...]] = {
    "ymm": ("xmm",),
    "zmm": ("xmm", "ymm"),
}
# What the everyday form stands for on a machine that has all of it.
EVERYDAY = ("gpr", "xmm", "ymm", "zmm", "opmask")
_SINGLE_VECTOR = re.compile(r"(x|y|z)mm\d+|k[0-7]")


def parse_classes(text: str) -> tuple[str, ...] | None:
    """Classes named in `text`, in CLASS_NAMES order; None for "auto".

    General registers by name (`ax`, `r8`) stand for the class gpr, `r16`..`r31` for egpr: whole
    classes are sampled. gpr is always among the result: without IP no snapshot can be placed.
    Raises UsageError for a name that is no class.
    """
    names = [name.strip().lower() for name in text.split(",") if name.strip()]
    if names in ([], ["auto"]):
        return None
    found = {"gpr"}
    for name in names:
        if name in CLASS_NAMES:
            found.update((name, *WIDENING.get(name, ())))
        elif name == "auto":
            raise UsageError("'auto' cannot be joined with other register classes")
        elif re.fullmatch(r"r(1[6-9]|2\d|3[01])", name):
            found.add("egpr")
        elif name.upper() in GPR_ID:
            found.add("gpr")
        elif _SINGLE_VECTOR.fullmatch(name):
            whole = "opmask" if name.startswith("k") else name[:3]
            raise UsageError(
                f"single vector registers cannot be sampled: '{name}'",
                why="the kernel takes whole classes only",
                next_step=f"Sample '{whole}' and choose registers when looking: "
                f"perfxmm script --regs {name}",
            )
        else:
            near = difflib.get_close_matches(name, CLASS_NAMES, n=1)
            hint = f"Did you mean '{near[0]}'? " if near else ""
            raise UsageError(
                f"unknown register class '{name}'",
                next_step=f"{hint}Classes are {', '.join(CLASS_NAMES)}; see 'perfxmm list regs'.",
            )
    return in_order(found)


def in_order(names: Iterable[str]) -> tuple[str, ...]:
    wanted = set(names)
    return tuple(name for name in CLASS_NAMES if name in wanted)


def widest(available: Iterable[str]) -> tuple[str, ...]:
    """What "auto" means where `available` classes can be delivered: all everyday ones of them."""
    there = set(available)
    return in_order(name for name in EVERYDAY if name == "gpr" or name in there)


def require(asked: Iterable[str], available: Iterable[str], *, where: str) -> None:
    """Raises NotSupported where a class was asked for that `where` cannot deliver."""
    there = {"gpr", *available}
    missing = [name for name in asked if name not in there]
    if missing:
        raise NotSupported(
            f"register class{'es' if len(missing) > 1 else ''} {', '.join(missing)} "
            f"cannot be sampled",
            where=where,
            why=f"available here: {', '.join(in_order(there))}",
            next_step="'perfxmm doctor' shows what was tried; '--regs auto' takes the widest.",
        )
