"""The whole story of one snapshot as text. Names from the recording are escaped."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import groupby
from typing import Any

from perfxmm.analysis.snapshotstory import Delivered, SetStory, SnapshotStory
from perfxmm.views.codestory import check_lines, code_lines, story_dict
from perfxmm.views.escape import escape_control

SCHEMA = "perfxmm.sample/1"
_UNKNOWN = "[unknown]"
_NS = 1_000_000_000
# PERF_SAMPLE_REGS_ABI_*, include/uapi/linux/perf_event.h and the merged SIMD series.
_ABI_WORDS = ((1, "32-bit task"), (2, "64-bit task"), (4, "SIMD"))


def story_text(story: SnapshotStory, attr: Mapping[str, Any]) -> Iterator[str]:
    """The story line by line. attr: the event's attribute (kernel.attrtext.describe)."""
    comm = escape_control(story.comm or _UNKNOWN)
    cpu = f" on CPU {story.cpu}" if story.cpu >= 0 else ""
    yield f"sample {story.index}: {_time(story.time_ns)}, {comm} {story.pid}/{story.tid}{cpu}"
    symbol = escape_control(story.symbol or _UNKNOWN)
    past = f"+{story.symbol_offset:#x}" if story.symbol else ""
    yield f"  at {symbol}{past} ({escape_control(story.dso or _UNKNOWN)})"
    exact = ", the instruction itself (exact_ip)" if story.exact_ip else ""
    yield f"  IP {story.ip:#x}, {story.cpumode.replace('_', ' ')} mode{exact}"
    place = f", byte {story.file_offset:,} of the file" if story.file_offset >= 0 else ""
    yield f"  source {story.source or 'perf'}{place}"
    yield ""
    yield from _asked(story, attr)
    for one in story.sets:
        yield ""
        yield from _delivered(one, story.ip)
        yield ""
        yield from _judged(one)
        yield ""
        yield from _code(one)


def _asked(story: SnapshotStory, attr: Mapping[str, Any]) -> Iterator[str]:
    event = story.event
    yield f"asked: event {escape_control(story.event_name)}, period {story.period:,}"
    yield f"  dialect {event.dialect or 'unknown'}, precise_ip {event.precise_ip}"
    for one in story.sets:
        yield f"  set {one.name}: {', '.join(one.asked) or 'nothing'}"
    flags = attr.get("flag_names", ())
    if flags:
        yield f"  {', '.join(flags)}"
    if "simd" in attr:
        numbers = ", ".join(f"{name} {value:#x}" for name, value in attr["simd"].items())
        yield f"  SIMD fields: {numbers}"


def _delivered(one: SetStory, sample_ip: int) -> Iterator[str]:
    found = one.delivered
    words = [word for bit, word in _ABI_WORDS if found.abi & bit] or ["no registers"]
    yield f"delivered, set {one.name}: abi {found.abi} ({', '.join(words)})"
    if found.header is not None:
        vectors, qwords, predicates, predicate_qwords = found.header
        yield (
            f"  header: {vectors} vectors of {qwords} qwords, {predicates} opmasks of "
            f"{predicate_qwords}"
        )
    if found.vectors:
        yield f"  vectors {_ranges(found.vectors)}, {found.vector_bits} bits"
    if found.opmasks:
        yield f"  opmasks {_ranges(found.opmasks)}"
    if found.gprs:
        yield f"  general registers {' '.join(found.gprs)}"
    if found.xstate_bv is not None:
        yield f"  XSTATE_BV {found.xstate_bv:#x}"
    if found.ip is not None:
        same = "the sample's" if found.ip == sample_ip else "not the sample's"
        yield f"  its own IP {found.ip:#x}, {same}"


def _judged(one: SetStory) -> Iterator[str]:
    yield f"rules that match, set {one.name} (a later one overrides an earlier one)"
    for fired in one.rules:
        says = ""
        if fired.classes and fired.rule.verdict is not None:
            says = f": {fired.rule.verdict.label} for {', '.join(fired.classes)}"
        yield f"  {fired.rule.name}{says}"
        yield f"    {fired.rule.text}"
        yield f"    ({fired.rule.reference})"
    yield f"verdicts, set {one.name}"
    for label, names in groupby(
        sorted(one.verdicts, key=lambda name: _order(one, name)), key=lambda n: one.verdicts[n]
    ):
        yield f"  {label}: {', '.join(names)}"
    if one.init:
        yield f"  in their initial state (zero): {', '.join(one.init)}"
    yield f"  reasons: {', '.join(one.reasons) or 'none'}"


def _order(one: SetStory, name: str) -> tuple[int, int]:
    labels = list(dict.fromkeys(one.verdicts.values()))
    return labels.index(one.verdicts[name]), list(one.verdicts).index(name)


def _code(one: SetStory) -> Iterator[str]:
    if one.code.silence:
        yield f"code, set {one.name}: not asked; {one.code.silence}"
        return
    counts = {
        result: sum(check.result == result for check in one.code.checks)
        for result in ("proved", "contradicted", "silent")
    }
    told = ", ".join(f"{count} {result}" for result, count in counts.items() if count)
    yield f"code, set {one.name}: {told or 'nothing is known here'}"
    yield from code_lines(one.code)
    yield from check_lines(one.code)
    if one.skid:
        many = f"{one.skid} instructions" if one.skid > 1 else "one instruction"
        yield f"  the registers fit {many} on"


def _ranges(numbers: Sequence[int]) -> str:
    """0-15,31 and the like."""
    parts: list[str] = []
    for _, run in groupby(enumerate(numbers), key=lambda pair: pair[1] - pair[0]):
        members = [number for _, number in run]
        low, high = members[0], members[-1]
        parts.append(f"{low}-{high}" if high > low else str(low))
    return ",".join(parts)


def _time(time_ns: int) -> str:
    return f"{time_ns // _NS}.{time_ns % _NS:09d} s" if time_ns else "no time recorded"


def story_json(story: SnapshotStory, attr: Mapping[str, Any]) -> dict[str, object]:
    """Schema perfxmm.sample/1. 64-bit values are hexadecimal strings."""
    return {
        "schema": SCHEMA, "sample": story.index, "time_ns": story.time_ns, "pid": story.pid,
        "tid": story.tid, "cpu": story.cpu if story.cpu >= 0 else None, "comm": story.comm or None,
        "ip": f"{story.ip:#x}", "cpumode": story.cpumode, "exact_ip": story.exact_ip,
        "symbol": story.symbol or None, "symbol_offset": story.symbol_offset,
        "dso": story.dso or None, "build_id": story.build_id or None,
        "source": story.source or None,
        "file_offset": story.file_offset if story.file_offset >= 0 else None,
        "event": {
            "name": story.event_name, "period": story.period, "dialect": story.event.dialect,
            "precise_ip": story.event.precise_ip, "attr": dict(attr),
        },
        "sets": {one.name: _set_dict(one) for one in story.sets},
    }  # fmt: skip


def _set_dict(one: SetStory) -> dict[str, object]:
    return {
        "asked": list(one.asked), "delivered": _delivered_dict(one.delivered),
        "rules": [
            {**fired.rule.to_dict(), "gave": list(fired.classes)} for fired in one.rules
        ],
        "verdict": one.verdicts, "reasons": list(one.reasons), "init": list(one.init),
        "skid": one.skid or None, "code": story_dict(one.code),
    }  # fmt: skip


def _delivered_dict(found: Delivered) -> dict[str, object]:
    names: Iterable[str] = ("nr_vectors", "vector_qwords", "nr_pred", "pred_qwords")
    return {
        "abi": found.abi,
        "header": None if found.header is None else dict(zip(names, found.header, strict=True)),
        "gprs": list(found.gprs), "vectors": list(found.vectors),
        "vector_bits": found.vector_bits, "opmasks": list(found.opmasks),
        "xstate_bv": None if found.xstate_bv is None else f"{found.xstate_bv:#x}",
        "ip": None if found.ip is None else f"{found.ip:#x}",
    }  # fmt: skip
