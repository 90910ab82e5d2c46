"""The closing line: how many snapshots were hidden, why, and how to see them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator

from perfxmm.analysis.account import Account
from perfxmm.analysis.filters import Filters
from perfxmm.analysis.shown import Policy

_BAR_WIDTH = 20
_MOST_REASONS = 4
# What is wrong with each, in the order in which it is told.
_ORDER = ("entry", "torn", "unknown", "foreign", "absent", "late", "coherent")


def closing_line(account: Account, policy: Policy, filters: Filters | None = None) -> str:
    """One line; "" where nothing was hidden, withheld, removed, lost or throttled."""
    parts = []
    by_verdict = filters is not None and bool(filters.verdicts)
    hidden = sum(account.hidden.values())
    if account.seen == 0:
        matches = "no snapshot matches the filters"
        parts.append(matches if account.read else "the recording holds no samples")
    elif hidden:
        what = "snapshots have other verdicts" if by_verdict else "snapshots hidden"
        parts.append(f"{hidden:,} of {account.seen:,} {what} ({_told(account.hidden)})")
    if account.withheld:
        told = _told(account.withheld)
        parts.append(f"register classes withheld in shown snapshots: {told}")
    if account.redacted:
        parts.append(
            f"values of {account.redacted:,} of {account.shown:,} snapshots removed (--redact)"
        )
    if account.lost:
        parts.append(f"{account.lost:,} records lost while recording")
    if account.throttled:
        parts.append(f"sampling throttled {account.throttled:,} times")
    how = _how(account, policy, by_verdict=by_verdict)
    line = "; ".join(parts)
    return f"{line}; {how}" if how and line else line


def account_lines(account: Account) -> Iterator[str]:
    """The account as a small bar chart: snapshots kept and withheld, by verdict, with the reasons
    of those that are withheld. Nothing where all were kept."""
    rows = [("kept", name, account.as_shown[name]) for name in reversed(_ORDER)]
    rows += [("withheld", name, account.hidden[name]) for name in _ORDER]
    rows = [row for row in rows if row[2]]
    if account.seen == account.shown or not rows:
        return
    digits = max(len(f"{count:,}") for _, _, count in rows)
    for what, name, count in rows:
        share = count / account.seen
        # Nothing that is there looks as if it were not.
        bar = "#" * max(1, round(_BAR_WIDTH * share))
        why = ""
        if what == "withheld" and (reasons := account.reasons(name)):
            why = ": " + ", ".join(f"{reason} {n:,}" for reason, n in reasons[:_MOST_REASONS])
            why += ", ..." if len(reasons) > _MOST_REASONS else ""
        yield f"  {what:<8} {bar:<{_BAR_WIDTH}} {count:>{digits},} {name}{why}"


def _told(counts: Counter[str]) -> str:
    return ", ".join(f"{counts[name]:,} {name}" for name in _ORDER if counts[name])


def _how(account: Account, policy: Policy, *, by_verdict: bool) -> str:
    """The options that would show more. by_verdict: what is hidden was filtered out on purpose."""
    names = {*account.withheld} if by_verdict else {*account.hidden, *account.withheld}
    keep = [name for name in _ORDER if name in names and name not in policy.keep]
    foreign = "foreign" in names and not policy.unsafe_foreign
    if foreign and keep == ["foreign"]:
        return "--keep foreign --unsafe-foreign shows them and their values"
    steps = []
    if keep:
        steps.append(f"--keep {','.join(keep)} shows them")
    if foreign:
        only = "their foreign values only with" if keep else "the foreign values need"
        steps.append(f"{only} --unsafe-foreign")
    return ", ".join(steps)
