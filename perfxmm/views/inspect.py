"""How an inspected recording looks: plain lines, a fact each, all that is the file's escaped."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from perfxmm.analysis.inspection import Inspection
from perfxmm.views.escape import escape_control

MOST_THREADS = 25
MOST_BUILD_IDS = 25
MOST_IDS = 8
_NS = 10**9
# Told in other lines of the event, or part of them.
_TOLD = {
    "type", "type_name", "config", "config_name", "size", "sample_type", "read_format", "flags",
    "sample_period", "sample_freq", "precise_ip_meaning", "branch_sample_type", "clockid_name",
    "sample_regs_user", "sample_regs_intr", "simd", "unknown_tail", "unknown_tail_bytes",
}  # fmt: skip


def text(found: Inspection) -> Iterator[str]:
    """The whole of it, line by line, without line ends."""
    yield escape_control(found.file)
    for part in (
        _header, _events, _records, _span, _threads, _losses, _build_ids, _features, _metadata,
        _unknown, _damage, _notes,
    ):  # fmt: skip
        for line in part(found):
            yield escape_control(line)


def _header(found: Inspection) -> Iterator[str]:
    said = found.header
    yield ""
    yield "Header"
    yield f"  magic          {said['magic']}, {said['byte_order']}-endian, {said['mode']} mode"
    yield f"  file           {said['file_bytes']:,} bytes"
    size = f"{said['header_bytes']} bytes"
    if "attr_entry_bytes" in said:
        size += f", {said['attr_entry_bytes']} for each attr with its ids"
    yield f"  header         {size}"
    for name in ("attrs", "data", "event_types"):
        if name in said:
            section = said[name]
            yield f"  {name:<14} {section['size']:,} bytes at {section['offset']:#x}"
    state = "finished" if said["finished"] else "not finished: the recorder did not get that far"
    packed = "; has compressed records" if said["compressed"] else ""
    yield f"  state          {state}{packed}"


def _events(found: Inspection) -> Iterator[str]:
    for event in found.events:
        attr = event["attr"]
        yield ""
        yield f"Event {event['index']}: {event['name']}, {event['samples']:,} samples"
        yield f"  type           {attr['type']} ({attr['type_name']})"
        named = "" if attr["config_name"] == f"{attr['config']:#x}" else f" ({attr['config_name']})"
        yield f"  config         {attr['config']:#x}{named}"
        rate = "sample_freq" if "sample_freq" in attr else "sample_period"
        yield f"  {rate:<14} {attr[rate]:,}"
        yield f"  sample_type    {'|'.join(attr['sample_type_names']) or 'none'}"
        if "read_format" in attr:
            yield f"  read_format    {'|'.join(attr['read_format_names'])}"
        yield f"  flags          {', '.join(attr['flag_names']) or 'none'}"
        for name, value in attr.items():
            if name not in _TOLD and not name.endswith("_names"):
                yield f"  {name:<14} {_value(attr, name, value)}"
        if "branch_sample_type_names" in attr:
            yield f"  branch_sample_type {'|'.join(attr['branch_sample_type_names'])}"
        for which in ("user", "intr"):
            mask = attr.get(f"sample_regs_{which}")
            if mask:
                names = " ".join(_runs(attr.get(f"sample_regs_{which}_names", ())))
                yield f"  sample_regs_{which} {mask:#x}{names and f' ({names})'}"
        if "simd" in attr:
            said = ", ".join(f"{name} {value:#x}" for name, value in attr["simd"].items())
            yield f"  simd           {said}"
        yield f"  size           {attr['size']}{_tail(attr)}"
        yield f"  ids            {_ids(event['ids'])}"
        dialect = event["dialect"]
        yield f"  dialect        {dialect['name']} ({dialect['title']})"
        yield f"                 because {dialect['evidence']}"
        if "confirmation" in dialect:
            yield f"                 {dialect['confirmation']}"


def _value(attr: dict[str, Any], name: str, value: Any) -> str:
    if name == "precise_ip":
        return f"{value} ({attr['precise_ip_meaning']})"
    if name == "clockid":
        return f"{value} ({attr['clockid_name']})"
    if name in ("config1", "config2", "config3", "config4", "sig_data", "aux_action"):
        return f"{value:#x}"
    return str(value)


def _tail(attr: dict[str, Any]) -> str:
    count = attr.get("unknown_tail_bytes")
    if not count:
        return ""
    told = f": {attr['unknown_tail']}" if "unknown_tail" in attr else ", all zero"
    return f", {count} bytes beyond what is known here{told}"


def _ids(ids: Sequence[int]) -> str:
    if not ids:
        return "none"
    more = f", ... {len(ids):,} in all" if len(ids) > MOST_IDS else ""
    return ", ".join(str(number) for number in ids[:MOST_IDS]) + more


def _records(found: Inspection) -> Iterator[str]:
    yield ""
    yield f"Records: {found.record_total:,}, {found.record_bytes:,} bytes"
    width = max((len(f"{count:,}") for count in found.records.values()), default=0)
    for name, count in found.records.items():
        yield f"  {count:>{width},}  {name}"
    checked = found.checked
    if checked["samples"] < checked["of_samples"]:
        yield (
            f"  only the first {checked['samples']:,} samples were decoded, so damage inside of "
            "others is not seen here (--records decodes all)"
        )


def _span(found: Inspection) -> Iterator[str]:
    yield ""
    span = found.time_span
    if span is None:
        yield "Time: the records have none"
    else:
        yield f"Time: {_from_to(span)}"
        if span["samples"]["first_ns"] is not None:
            yield f"  samples        {_from_to(span['samples'])}"
    if found.cpus:
        said = ", ".join(f"{one['cpu']} ({one['samples']:,})" for one in found.cpus)
        yield f"CPUs of samples: {said}"
    else:
        yield "CPUs of samples: the samples do not say"


def _from_to(span: dict[str, int]) -> str:
    first, last = span["first_ns"], span["last_ns"]
    return f"{_seconds(first)} to {_seconds(last)}, {_seconds(last - first)} s"


def _seconds(time_ns: int) -> str:
    return f"{time_ns // _NS}.{time_ns % _NS:09d}"


def _threads(found: Inspection) -> Iterator[str]:
    yield ""
    processes = len({one["pid"] for one in found.threads})
    yield f"Threads: {len(found.threads):,} of {processes:,} processes"
    shown = found.threads[:MOST_THREADS]
    for one in shown:
        comm = "(no name)" if one["comm"] is None else one["comm"]
        yield f"  {one['samples']:>10,} samples  {one['pid']}/{one['tid']} {comm}"
    if len(found.threads) > len(shown):
        rest = sum(one["samples"] for one in found.threads[len(shown) :])
        yield f"  {rest:>10,} samples  in {len(found.threads) - len(shown):,} more (--json has all)"


def _losses(found: Inspection) -> Iterator[str]:
    yield ""
    yield (
        f"Lost: {found.lost_records:,} records (LOST), {found.lost_samples:,} samples "
        "(LOST_SAMPLES)"
    )
    yield f"Throttled: {found.throttled:,} times, and {found.unthrottled:,} times no longer"


def _build_ids(found: Inspection) -> Iterator[str]:
    yield ""
    yield f"Build ids: {len(found.build_ids):,}"
    for one in found.build_ids[:MOST_BUILD_IDS]:
        yield f"  {one['build_id']} {one['path']}"
    if len(found.build_ids) > MOST_BUILD_IDS:
        yield f"  and {len(found.build_ids) - MOST_BUILD_IDS:,} more (--json has all)"


def _features(found: Inspection) -> Iterator[str]:
    yield ""
    yield f"Features: {len(found.features)}"
    for name, one in found.features.items():
        for at, line in enumerate(one["text"] or ["empty"]):
            yield f"  {name if at == 0 else '':<16} {line}"


def _metadata(found: Inspection) -> Iterator[str]:
    if found.metadata is None:
        return
    yield ""
    yield "perfxmm's own description"
    for name, value in found.metadata.items():
        if value not in ("", 0, {}, [], False):
            yield f"  {name:<16} {value}"


def _unknown(found: Inspection) -> Iterator[str]:
    unknown = found.unknown
    lines = [f"{count:,} records of type {name}" for name, count in
             unknown["record_types"].items()]  # fmt: skip
    lines += [f"feature bit {one['bit']}, {one['bytes']:,} bytes" for one in unknown["features"]]
    lines += [
        f"{one['bytes']} bytes at the end of event {one['event']}'s attr"
        + (", all zero" if one["zero"] else "")
        for one in unknown["attr_tails"]
    ]
    lines += [f"bit {bit} of sample_type" for bit in unknown["sample_type_bits"]]
    if unknown["samples_without_event"]:
        lines.append(f"{unknown['samples_without_event']:,} samples with an id that is no event's")
    yield ""
    yield f"Unknown: {'nothing' if not lines else ''}".rstrip()
    for line in lines:
        yield f"  {line}"


def _damage(found: Inspection) -> Iterator[str]:
    yield ""
    yield f"Damage: {f'{found.damage_count:,}' if found.damage else 'none found'}"
    for one in found.damage:
        place = f"{one['offset']:#x}" if one["offset"] >= 0 else "?"
        yield f"  {place:>10}  {one['what']}"
    if found.damage_count > len(found.damage):
        yield f"  and {found.damage_count - len(found.damage):,} more that are not listed"


def _notes(found: Inspection) -> Iterator[str]:
    for note in found.notes:
        yield f"note: {note}"


def _runs(names: Sequence[str]) -> Iterator[str]:
    """Runs of numbered registers drawn together: R8..R15."""
    run: list[str] = []
    for name in names:
        if run and _follows(run[-1], name):
            run.append(name)
            continue
        yield from _one_run(run)
        run = [name]
    yield from _one_run(run)


def _one_run(run: list[str]) -> Iterator[str]:
    if len(run) > 2:
        yield f"{run[0]}..{run[-1]}"
    else:
        yield from run


def _follows(before: str, name: str) -> bool:
    stem = before.rstrip("0123456789")
    if stem == before or name.rstrip("0123456789") != stem or name == stem:
        return False
    return int(name[len(stem) :]) == int(before[len(stem) :]) + 1
