"""perfxmm inspect on recordings with a damaged head: what is left is told, and where it breaks."""

from __future__ import annotations

import json
import struct
from pathlib import Path

import pytest
from support import inprocess
from support import perfdata_writer as w
from support.perfdata_writer import PerfFile

from perfxmm.perfdata.blocks import Damage
from perfxmm.perfdata.damagelog import MOST_LISTED, DamageLog

RECORDS = [w.comm(1), *(w.sample(t) for t in range(1, 30))]
FILE = PerfFile(records=RECORDS, features={3: w.string("host")}).build()
PIPE = PerfFile(records=RECORDS).build_pipe()
ATTRS_AT, DATA_AT = 112, 232
RECORD_BYTES = 40 + 29 * 32
END = DATA_AT + RECORD_BYTES
LOST = "the data section lies outside the file"
FOUND = f"{LOST}; records are looked for from {DATA_AT:#x} on"
TABLE = [END, "record of size 0; 84 bytes from here on are not read"]  # of features
OUTSIDE = "the attrs section lies outside the file"
CUT = "the file is cut off before its first record"


def put(data: bytes, at: int, number: int, form: str = "<Q") -> bytes:
    out = bytearray(data)
    struct.pack_into(form, out, at, number)
    return bytes(out)


# Name -> (the file, events, samples, damage)
CASES: dict[str, tuple[bytes, int, int, list[list[object]]]] = {
    "cut in the magic's word": (FILE[:12], 0, 0, [[0, CUT]]),
    "cut in the sections": (FILE[:50], 0, 0, [[0, CUT]]),
    "cut in the bitmap": (FILE[:103], 0, 0, [[0, CUT]]),
    "cut behind the header": (FILE[:104], 0, 0, [
        [24, OUTSIDE], [40, LOST],
    ]),
    "cut in the attrs": (FILE[:150], 0, 0, [
        [40, LOST],
        [104, "record of size 0; 46 bytes from here on are not read"], [112, CUT],
    ]),
    "size of attr entries": (
        put(FILE, 16, 10), 0, 29, [[16, "the header gives an impossible size for attr entries"]],
    ),
    "size of attr entries, huge": (
        put(FILE, 16, 1 << 50), 0, 29,
        [[16, "the header gives an impossible size for attr entries"]],
    ),
    "place of the attrs": (put(FILE, 24, 1 << 50), 0, 29, [[24, OUTSIDE]]),
    "size of the attrs": (put(FILE, 32, 1 << 50), 0, 29, [
        [24, "the attrs section overlaps the data section"], [112, CUT],
    ]),
    "no attrs": (
        put(FILE, 32, 0), 0, 29, [[32, "the file has 0 events: a recording has at least one"]],
    ),
    "no whole attr": (put(FILE, 32, 100), 0, 29, [
        [32, "the file has 0 events: a recording has at least one, and not that many"],
    ]),
    "an attr's size": (put(FILE, ATTRS_AT + 4, 7, "<I"), 0, 29, [
        [ATTRS_AT, "event 0 cannot be read: an event attribute has an impossible size"],
    ]),
    "place of the data": (
        put(FILE, 40, 1 << 50), 1, 29, [[40, FOUND], TABLE],
    ),
    "data inside the header": (
        put(FILE, 40, 3), 1, 29, [[40, FOUND], TABLE],
    ),
    "size of the data": (put(FILE, 48, 1 << 50), 1, 29, [
        TABLE, [len(FILE), f"the file ends {(1 << 50) + DATA_AT - len(FILE)} bytes before its data "
                           "section does"],
    ]),
    "no size of the data": (put(FILE, 48, 0), 1, 29, [TABLE]),
    "size of the header": (
        put(FILE, 8, 99), 1, 29, [[8, "the header says that it has 99 bytes, not 104"]],
    ),
    "a feature outside": (put(FILE, END, 1 << 50), 1, 29, [
        [END, "feature 3 of 68 bytes lies outside the file"],
    ]),
    "the table of features cut": (FILE[: END + 8], 1, 29, [
        [END, "the table of features is cut short at bit 3"],
    ]),
    "a stream of 12 bytes": (PIPE[:12], 0, 0, [[0, CUT]]),
    "a stream of a header": (PIPE[:16], 0, 0, [
        [16, "the stream has no events: it ends, or is damaged, before the first of them"],
    ]),
    "a stream's only attr": (put(PIPE, 28, 7, "<I"), 0, 29, [
        [16, "a HEADER_ATTR record of 120 bytes makes no sense"],
        [16, "the stream has no events: it ends, or is damaged, before the first of them"],
    ]),
}  # fmt: skip


@pytest.mark.parametrize("name", CASES)
def test_what_is_left_is_told(name: str, tmp_path: Path) -> None:
    data, events, samples, damage = CASES[name]
    path = tmp_path / "perf.data"
    path.write_bytes(data)
    ran = inprocess.run("inspect", "--json", path)
    found = json.loads(ran.out)
    assert ran.code == 5
    assert found["damage"] == [{"offset": at, "what": what} for at, what in damage]
    assert found["damage_count"] == len(damage)
    assert found["records"].get("SAMPLE", 0) == samples
    assert found["records"].get("COMM", 0) == (samples > 0)
    assert len(found["events"]) == events
    assert found["header"]["magic"] == "PERFILE2"
    assert found["header"]["file_bytes"] == len(data)
    assert not found["complete"]
    text = inprocess.run("inspect", path)
    assert text.code == 5
    assert f"\nRecords: {found['record_total']}, " in text.out
    assert f"\nDamage: {len(damage)}\n" in text.out
    for at, what in damage:
        assert f"{at:#x}  {what}\n" in text.out
    first = f"{damage[0][1]}"
    if len(damage) > 1:
        first += f" (and {len(damage) - 1} more)"
    assert text.err.startswith(f"perfxmm: {first} (")
    lines = inprocess.run("inspect", "--records", path)
    assert lines.code == 5
    assert len(lines.out.splitlines()) == found["record_total"]


@pytest.mark.parametrize("name", ["place of the data", "size of the data", "no size of the data"])
def test_samples_are_read_wherever_they_are_found(name: str, tmp_path: Path) -> None:
    path = tmp_path / "perf.data"
    path.write_bytes(CASES[name][0])
    ran = inprocess.run("script", "--keep", "all", "-F", "time,ip", "-i", path)
    assert ran.code == 5
    assert len(ran.out.splitlines()) == 29


def test_the_numbers_of_a_header_that_is_cut(tmp_path: Path) -> None:
    path = tmp_path / "perf.data"
    path.write_bytes(FILE[:50])
    header = json.loads(inprocess.run("inspect", "--json", path).out)["header"]
    assert header["attrs"] == {"offset": ATTRS_AT, "size": 120}
    assert header["data"] == {"offset": DATA_AT, "size": 0}, "its size is not there"


@pytest.mark.parametrize("count", [1, 999, 1000, 1001, 3000])
def test_damage_is_counted_to_the_end(count: int, tmp_path: Path) -> None:
    """Every second sample too short for its event: the first thousand are listed."""
    good, bad = w.sample(5), w.record(w.SAMPLE, bytes(8))
    path = tmp_path / "perf.data"
    path.write_bytes(PerfFile(records=[good, bad] * count).build())
    found = json.loads(inprocess.run("inspect", "--json", path).out)
    assert found["damage_count"] == count
    assert len(found["damage"]) == min(count, 1000)
    ran = inprocess.run("inspect", path)
    assert f"\nDamage: {count:,}\n" in ran.out
    assert (f"  and {count - 1000:,} more that are not listed\n" in ran.out) == (count > 1000)
    more = f" (and {count - 1:,} more)" if count > 1 else ""
    for one in (ran, inprocess.run("script", "--keep", "all", "-F", "ip", "-i", path)):
        assert one.code == 5
        assert one.err.splitlines()[-2].split("(/")[0].rstrip().endswith(more)
    # The same where the reader finds the records damaged, not the decoder.
    path.write_bytes(PerfFile(records=[good, good, bytes(8)] * count + [good]).build())
    found = json.loads(inprocess.run("inspect", "--json", path).out)
    assert found["damage_count"] == count
    assert found["records"] == {"SAMPLE": 2 * count + 1}
    ran = inprocess.run("script", "--keep", "all", "-F", "ip", "-i", path)
    assert ran.err.splitlines()[-2].split("(/")[0].rstrip().endswith(more)


def test_damage_that_is_told_again_is_counted_once() -> None:
    places = [Damage(8 * n, "bad") for n in range(70_000)]
    log = DamageLog()
    for _ in range(2):
        for place in places:
            log.add(place)
    assert log.count == 70_000
    assert log.listed == places[:MOST_LISTED]
