"""The closing line: how many snapshots were hidden, why, and how to see them."""

from __future__ import annotations

from collections import Counter

from perfxmm.analysis.account import Account
from perfxmm.analysis.shown import Policy

# What is wrong with each, in the order in which it is told.
_ORDER = ("entry", "torn", "unknown", "foreign", "absent", "late", "coherent")


def closing_line(account: Account, policy: Policy) -> str:
    """One line; "" where nothing was hidden, withheld, lost or throttled."""
    parts = []
    hidden = sum(account.hidden.values())
    if hidden:
        told = _told(account.hidden)
        parts.append(f"{hidden:,} of {account.seen:,} snapshots hidden ({told})")
    if account.withheld:
        told = _told(account.withheld)
        parts.append(f"register classes withheld in shown snapshots: {told}")
    how = _how(account, policy)
    if account.lost:
        parts.append(f"{account.lost:,} records lost while recording")
    if account.throttled:
        parts.append(f"sampling throttled {account.throttled:,} times")
    line = "; ".join(parts)
    return f"{line}; {how}" if how and line else line


def _told(counts: Counter[str]) -> str:
    return ", ".join(f"{counts[name]:,} {name}" for name in _ORDER if counts[name])


def _how(account: Account, policy: Policy) -> str:
    names = {*account.hidden, *account.withheld}
    keep = [name for name in _ORDER if name in names and name not in policy.keep]
    steps = []
    if keep:
        steps.append(f"--keep {','.join(keep)} shows them")
    if "foreign" in names and not policy.unsafe_foreign:
        only = "their foreign values only with" if keep else "the foreign values need"
        steps.append(f"{only} --unsafe-foreign")
    return ", ".join(steps)
