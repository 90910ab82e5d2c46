"""perfxmm inspect: every part of what it says, of files written for it."""

from __future__ import annotations

import json
import struct
import subprocess
import sys
from collections.abc import Mapping
from contextlib import suppress
from importlib.resources import files
from pathlib import Path
from typing import Any

import jsonschema
import pytest
from support import inprocess
from support import perfdata_writer as pw
from support.written_recording import Sample, program, write

from perfxmm.perfdata.featuretext import decode as decode_feature

SCHEMA = json.loads(files("perfxmm.exports").joinpath("schema/perfxmm.inspect.1.json").read_text())
HOSTNAME, NRCPUS, GROUP_DESC, UNHEARD_OF = 3, 7, 17, 200
LOST_SAMPLES, THROTTLE, UNTHROTTLE = 13, 5, 6


def inspect_json(path: Path, *, code: int = 0) -> dict[str, Any]:
    ran = inprocess.run("inspect", "--json", path)
    assert ran.code == code, ran.err
    found: dict[str, Any] = json.loads(ran.out)
    jsonschema.validate(found, SCHEMA)
    return found


def put(folder: Path, data: bytes, name: str = "perf.data") -> Path:
    path = folder / name
    path.write_bytes(data)
    return path


def trailer(time: int, tid: int = 1) -> bytes:
    return struct.pack("<IIQ", 1, tid, time)


def comm(time: int, tid: int, name: bytes) -> bytes:
    body = struct.pack("<II", 1, tid) + name.ljust(8, b"\0") + trailer(time)
    return pw.record(pw.COMM, body)


def sample(time: int, tid: int) -> bytes:
    return pw.record(pw.SAMPLE, struct.pack("<QIIQ", 0x1000, 1, tid, time), misc=2)


@pytest.fixture
def busy(tmp_path: Path) -> Path:
    """Three threads, one of them named by its maker; lost, throttled, an unknown type."""
    fork = struct.pack("<IIIIQ", 1, 1, 12, 11, 25) + trailer(25)
    records = [
        comm(10, 11, b"maker"), sample(30, 11), sample(20, 11), pw.record(pw.FORK, fork),
        sample(40, 12), sample(41, 12), sample(42, 12), sample(43, 13),
        pw.record(pw.LOST, struct.pack("<QQ", 7, 5) + trailer(50)),
        pw.record(pw.LOST, struct.pack("<QQ", 7, 2**63) + trailer(50)),
        pw.record(LOST_SAMPLES, struct.pack("<Q", 3) + trailer(51)),
        pw.record(THROTTLE, struct.pack("<QQQ", 52, 7, 7) + trailer(52)),
        pw.record(UNTHROTTLE, struct.pack("<QQQ", 53, 7, 7) + trailer(53)),
        pw.record(pw.FINISHED_ROUND), pw.record(99, b"\0" * 8), pw.record(99, b"\0" * 8),
    ]  # fmt: skip
    features = {
        HOSTNAME: pw.string("here"), NRCPUS: struct.pack("<II", 4, 2), UNHEARD_OF: b"\1\2\3\4",
    }
    return put(tmp_path, pw.PerfFile(records=records, features=features).build())


def test_counts_times_threads_and_losses(busy: Path) -> None:
    found = inspect_json(busy)
    assert found["records"] == {
        "LOST": 2, "COMM": 1, "THROTTLE": 1, "UNTHROTTLE": 1, "FORK": 1, "SAMPLE": 6,
        "LOST_SAMPLES": 1, "FINISHED_ROUND": 1, "UNKNOWN_99": 2,
    }  # fmt: skip
    assert found["record_total"] == 16
    assert found["time_span"] == {
        "first_ns": 10, "last_ns": 53, "samples": {"first_ns": 20, "last_ns": 43}
    }
    assert found["threads"] == [
        {"pid": 1, "tid": 12, "comm": "maker", "samples": 3},
        {"pid": 1, "tid": 11, "comm": "maker", "samples": 2},
        {"pid": 1, "tid": 13, "comm": None, "samples": 1},
    ]
    assert (found["lost_records"], found["lost_samples"]) == (5 + 2**63, 3)
    assert found["lost"] == 8 + 2**63
    assert (found["throttled"], found["unthrottled"]) == (1, 1)
    assert found["cpus"] == []
    assert found["damage"] == []
    assert found["complete"]
    assert found["checked"]["samples"] == found["checked"]["of_samples"] == 6
    assert found["metadata"] is None


def test_header_features_and_what_is_unknown(busy: Path) -> None:
    found = inspect_json(busy)
    raw = busy.read_bytes()
    header = found["header"]
    attrs, data = struct.unpack_from("<QQ", raw, 24), struct.unpack_from("<QQ", raw, 40)
    assert header == {
        "magic": "PERFILE2", "byte_order": "little", "mode": "file", "file_bytes": len(raw),
        "header_bytes": 104, "attr_entry_bytes": 120,
        "attrs": {"offset": attrs[0], "size": attrs[1]},
        "data": {"offset": data[0], "size": data[1]}, "event_types": {"offset": 0, "size": 0},
        "finished": True, "compressed": False,
    }  # fmt: skip
    assert found["record_bytes"] == data[1]
    features = found["features"]
    assert list(features) == ["hostname", "nrcpus", "bit 200"]
    assert (features["hostname"]["value"], features["hostname"]["bit"]) == ("here", 3)
    assert features["hostname"]["text"] == ["hostname : here"]
    at = features["nrcpus"]["offset"]
    assert raw[at : at + 8] == struct.pack("<II", 4, 2)
    assert features["nrcpus"]["text"] == ["nrcpus online : 2", "nrcpus avail : 4"]
    assert features["bit 200"]["value"] is None
    assert features["bit 200"]["text"] == ["bit 200 : 4 bytes"]
    assert found["unknown"] == {
        "record_types": {"UNKNOWN_99": 2}, "features": [{"bit": 200, "bytes": 4}],
        "attr_tails": [], "sample_type_bits": [], "samples_without_event": 0,
    }  # fmt: skip


def test_events_in_words_and_by_count(tmp_path: Path) -> None:
    """Two events told apart by id; an attr that is longer than what is known, and set there."""
    kind = pw.IP | pw.TID | pw.TIME | pw.ID | 1 << 40

    def one(time: int, number: int) -> bytes:
        return pw.record(pw.SAMPLE, struct.pack("<QIIQQQ", 1, 1, 1, time, number, 0))

    long = pw.attr(kind, size=200, kind=3, config=0x10002)
    long = long[:192] + b"\5" + long[193:]
    first = pw.attr(kind, size=200)
    made = pw.PerfFile(
        attrs=[(first, (7, 8)), (long, (9,))], records=[one(1, 8), one(2, 9), one(3, 7), one(4, 99)]
    )
    found = inspect_json(put(tmp_path, made.build()), code=5)
    events = found["events"]
    assert [e["samples"] for e in events] == [2, 1]
    assert [e["ids"] for e in events] == [[7, 8], [9]]
    attr = events[1]["attr"]
    assert (attr["type_name"], attr["config_name"]) == ("HW_CACHE", "LLC-load-misses")
    assert attr["sample_type_names"] == ["IP", "TID", "TIME", "ID", "bit 40"]
    assert attr["flag_names"] == ["sample_id_all"]
    assert attr["sample_period"] == 1000
    assert (attr["size"], attr["unknown_tail_bytes"]) == (200, 56)
    assert bytes.fromhex(attr["unknown_tail"])[48] == 5
    assert "unknown_tail" not in events[0]["attr"]
    unknown = found["unknown"]
    assert unknown["sample_type_bits"] == [40]
    assert unknown["samples_without_event"] == 1
    assert [t["zero"] for t in unknown["attr_tails"]] == [True, False]
    (damage,) = found["damage"]
    assert damage["what"] == "the sample's id is no event's"
    at = damage["offset"]
    raw = (tmp_path / "perf.data").read_bytes()
    assert raw[at : at + 4] == struct.pack("<I", pw.SAMPLE)
    assert struct.unpack_from("<Q", raw, at + 32) == (99,)


def test_the_dialect_and_its_evidence(tmp_path: Path) -> None:
    """Confirmed by the samples' own headers; perfxmm's own description is told."""
    path = write(tmp_path / "perf.data", [Sample(), Sample(tid=101)],
                 binary=program(tmp_path / "app"))  # fmt: skip
    found = inspect_json(path)
    (event,) = found["events"]
    assert event["dialect"] == {
        "name": "M", "title": "merged SIMD sampling (expected in 7.4)",
        "evidence": "u16 at 144 is 1, pred_qwords 0 at 146", "confirmed": True,
        "confirmation": "2 samples have u64 SIMD headers that fit",
    }  # fmt: skip
    assert event["attr"]["simd"] == {"enabled": 1, "vec_qwords": 4, "vec_user": 0xFFFF}
    names = event["attr"]["sample_regs_user_names"]
    assert (names[0], names[-1], len(names)) == ("AX", "R15", 20)
    assert found["metadata"]["source"] == "sigtrap"
    text = inprocess.run("inspect", path).out
    assert "  sample_regs_user 0xff0fff (AX BX CX DX SI DI BP SP IP FLAGS CS SS R8..R15)\n" in text
    assert "perfxmm's own description\n" in text


def test_without_a_sample_nothing_is_confirmed(tmp_path: Path) -> None:
    path = write(tmp_path / "perf.data", [], binary=program(tmp_path / "app"))
    said = inspect_json(path)["events"][0]["dialect"]
    assert said["confirmed"] is None


def test_a_stream_counts_its_own_records(tmp_path: Path) -> None:
    made = pw.PerfFile(features={HOSTNAME: pw.string("there")}, records=[sample(5, 1)])
    found = inspect_json(put(tmp_path, made.build_pipe()))
    assert found["records"] == {"SAMPLE": 1, "HEADER_ATTR": 1, "HEADER_FEATURE": 1}
    assert found["header"]["mode"] == "pipe"
    assert found["header"]["data"] == {"offset": 16, "size": found["record_bytes"]}
    assert found["features"]["hostname"]["value"] == "there"


def test_the_end_mark_of_a_streams_features_is_none_of_them(tmp_path: Path) -> None:
    made = pw.PerfFile(features={HOSTNAME: pw.string("x"), 40: b""}, records=[sample(5, 1)])
    found = inspect_json(put(tmp_path, made.build_pipe()))
    assert list(found["features"]) == ["hostname"]
    assert found["unknown"]["features"] == []
    assert found["records"]["HEADER_FEATURE"] == 2


def compressed(records: bytes, kind: int = pw.COMPRESSED2) -> bytes:
    zstd = pytest.importorskip("backports.zstd")
    packed = zstd.compress(records)
    if kind == pw.COMPRESSED:
        return pw.record(kind, packed)
    body = struct.pack("<Q", len(packed)) + packed
    return pw.record(kind, body + b"\0" * (-len(body) % 8))


def test_compressed_records_and_what_is_in_them(tmp_path: Path) -> None:
    inside = sample(1, 1) + sample(2, 2)
    made = pw.PerfFile(
        records=[comm(1, 1, b"a"), compressed(inside), pw.record(pw.FINISHED_ROUND)],
        features={27: struct.pack("<5I", 1, 1, 1, 2, 4096)},
    )
    path = put(tmp_path, made.build())
    found = inspect_json(path)
    assert found["records"] == {"COMM": 1, "SAMPLE": 2, "FINISHED_ROUND": 1, "COMPRESSED2": 1}
    assert found["header"]["compressed"]
    assert found["features"]["compressed"]["text"] == ["compressed : Zstd, level = 1, ratio = 2"]
    lines = inprocess.run("inspect", "--records", path).out.splitlines()
    at = struct.unpack_from("<Q", path.read_bytes(), 40)[0]
    heads = [line.partition(" PERF_RECORD_")[::2] for line in lines]
    begin = at + len(comm(1, 1, b"a"))
    assert [head for head, _ in heads] == [
        f"{at:#x} [0x28]:", f"{begin:#x} [{len(made.records[1]):#x}]:", f"{begin:#x} [0x20]:",
        f"{begin:#x} [0x20]:", f"{begin + len(made.records[1]):#x} [0x8]:",
    ]
    assert [rest.split()[0].strip(":") for _, rest in heads] == [
        "COMM", "COMPRESSED2", "SAMPLE", "SAMPLE", "FINISHED_ROUND"
    ]


def test_damage_inside_compressed_records_is_told_by_their_place(tmp_path: Path) -> None:
    short = pw.record(pw.SAMPLE, b"\0" * 8)
    made = pw.PerfFile(records=[sample(1, 1), compressed(sample(2, 1) + short)],
                       features={27: struct.pack("<5I", 1, 1, 1, 2, 4096)})  # fmt: skip
    path = put(tmp_path, made.build())
    (damage,) = inspect_json(path, code=5)["damage"]
    assert damage["offset"] == struct.unpack_from("<Q", path.read_bytes(), 40)[0] + 32


def test_a_directory_of_recordings(tmp_path: Path) -> None:
    """perf record --threads: the parts' records are counted, and it is said whose they are."""
    folder = tmp_path / "perf.data"
    folder.mkdir()
    put(folder, pw.PerfFile(records=[comm(1, 1, b"a"), sample(9, 1)],
                            features={24: struct.pack("<Q", 1)}).build(), "data")  # fmt: skip
    put(folder, sample(2, 1) + sample(4, 2), "data.0")
    put(folder, sample(3, 1), "data.1")
    found = inspect_json(folder)
    assert found["records"] == {"COMM": 1, "SAMPLE": 4}
    assert found["notes"] == [
        "a directory of perf record --threads: records of 3 files, read as one; rounds are left "
        "out, and no record has one place"
    ]
    lines = inprocess.run("inspect", "--records", folder).out.splitlines()
    assert sorted(line.split()[:3] for line in lines) == [
        ["?", "[0x20]:", "PERF_RECORD_SAMPLE"]] * 4 + [["?", "[0x28]:", "PERF_RECORD_COMM"]]


DAMAGES: Mapping[str, tuple[list[bytes], int]] = {
    "zero size": ([sample(1, 1), pw.record(pw.COMM, b"\0" * 8, size=0)], 32),
    "cut": ([sample(1, 1), sample(2, 1)[:20]], 32),
    "short sample": ([pw.record(pw.SAMPLE, b"\0" * 16), sample(2, 1)], 0),
    "odd size": ([sample(1, 1), pw.record(pw.SAMPLE, b"\0" * 27), sample(2, 1)], 32),
}


@pytest.mark.parametrize("name", DAMAGES)
def test_damage_by_its_byte(tmp_path: Path, name: str) -> None:
    records, inside = DAMAGES[name]
    path = put(tmp_path, pw.PerfFile(records=records).build())
    begin = struct.unpack_from("<Q", path.read_bytes(), 40)[0]
    found = inspect_json(path, code=5)
    assert [d["offset"] for d in found["damage"]] == [begin + inside]
    assert not found["complete"]
    ran = inprocess.run("inspect", path)
    assert ran.code == 5
    assert f"{begin + inside:#x}" in ran.out.partition("Damage: 1\n")[2]
    assert f"offset {begin + inside:#x}" in ran.err.splitlines()[0]
    lines = inprocess.run("inspect", "--records", path)
    assert lines.code == 5
    assert len(lines.out.splitlines()) == sum(found["records"].values())


def test_a_feature_that_makes_no_sense_is_damage(tmp_path: Path) -> None:
    body = struct.pack("<I", 70_000)
    path = put(tmp_path, pw.PerfFile(records=[sample(1, 1)], features={GROUP_DESC: body}).build())
    found = inspect_json(path, code=5)
    (damage,) = found["damage"]
    assert damage["offset"] == found["features"]["group_desc"]["offset"]
    assert damage["what"].startswith("feature group_desc cannot be read: 70000 entries")


def test_a_recorder_that_was_killed(tmp_path: Path) -> None:
    made = pw.PerfFile(records=[sample(1, 1)], data_size=0).build()
    path = put(tmp_path, made)
    found = inspect_json(path)
    assert (found["header"]["finished"], found["complete"]) == (False, False)
    assert found["records"] == {"SAMPLE": 1}
    assert "did not finish" in inprocess.run("inspect", path).err


HOSTILE = b"\x1b]0;x\x07\xff\n\xe2\x80\xae"


def test_hostile_text_reaches_neither_terminal_nor_json(tmp_path: Path) -> None:
    name = HOSTILE.ljust(16, b"\0")
    mmap = struct.pack("<iiQQQ", 1, 1, 0, 1, 0) + HOSTILE.ljust(16, b"\0") + trailer(1)
    body = struct.pack("<II", 1, 1) + name + trailer(1)
    features = {HOSTNAME: struct.pack("<I", 16) + name, GROUP_DESC: struct.pack("<II", 1, 16)
                + name + struct.pack("<II", 0, 1)}  # fmt: skip
    path = put(tmp_path, pw.PerfFile(
        records=[pw.record(pw.COMM, body), pw.record(1, mmap)], features=features
    ).build(), "a\x1b[2Jb")  # fmt: skip
    for arguments in ((), ("--records",), ("--json",)):
        ran = inprocess.run("inspect", *arguments, path)
        assert ran.code == 0, ran.err
        for sign in ("\x1b", "\x07", "\u202e", "\udcff", "\ufffd"):
            assert sign not in ran.out
    found = inspect_json(path)
    assert found["threads"][0]["comm"] == "\x1b]0;x\x07\\xff\n\u202e"
    assert len(inprocess.run("inspect", "--records", path).out.splitlines()) == 2


def test_hostile_metadata_is_told_all_the_same(tmp_path: Path) -> None:
    """NaN, infinity and nesting are JSON of Python's own, which the file may hold."""
    nested: Any = 1
    for _ in range(60):
        nested = [nested]
    described = json.dumps({
        "schema": "perfxmm.recording/1", "result": {"hz": float("nan"), "deep": nested},
        "options": {"x\ud800": float("-inf")},
    }).encode()  # fmt: skip
    path = put(tmp_path, pw.PerfFile(records=[sample(1, 1)], features={248: described}).build())
    found = inspect_json(path)["metadata"]
    assert found["result"]["hz"] == "nan"
    assert found["options"] == {"x\\ud800": "-inf"}
    assert "nested too deeply" in json.dumps(found)
    assert inprocess.run("inspect", path).code == 0


def test_records_stop_where_nobody_reads(tmp_path: Path) -> None:
    path = put(tmp_path, pw.PerfFile(records=[sample(n, 1) for n in range(30_000)]).build())
    command = f"{sys.executable} -m perfxmm inspect --records '{path}' | head -n 3"
    done = subprocess.run(["bash", "-o", "pipefail", "-c", command], capture_output=True,
                          text=True, timeout=60, check=False)  # fmt: skip
    assert (done.returncode, done.stderr) == (141, "")
    assert len(done.stdout.splitlines()) == 3


def test_from_a_pipe_and_by_option(busy: Path) -> None:
    """A recording on stdin; -i as other verbs have it."""
    with busy.open("rb") as stream:
        done = subprocess.run(
            [sys.executable, "-m", "perfxmm", "inspect", "--json", "-"], stdin=stream,
            capture_output=True, timeout=60, check=True,
        )  # fmt: skip
    asked = json.loads(done.stdout)
    assert asked.pop("file") == "stdin"
    named = json.loads(inprocess.run("inspect", "--json", "-i", busy).out)
    assert named.pop("file") == str(busy)
    assert asked == named


@pytest.mark.parametrize("arguments", [
    ("a.data", "-i", "b.data"), ("--records", "--json"), ("-i", "not/there"), ("not/there",),
])  # fmt: skip
def test_usage(arguments: tuple[str, ...], tmp_path: Path) -> None:
    ran = inprocess.run("inspect", *arguments, cwd=tmp_path)
    assert (ran.code, ran.out) == (2, "")


def test_what_is_no_recording(tmp_path: Path) -> None:
    ran = inprocess.run("inspect", put(tmp_path, b"\x1f\x8b\x08\0"))
    assert (ran.code, ran.out) == (5, "")
    assert "gunzip" in ran.err


def test_large_files_are_only_counted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Behind what is decoded, ids and sizes of samples are looked at, and that is said."""
    import perfxmm.inspector as module
    from perfxmm.perfdata.reader import Reader

    usual = Reader.blocks
    monkeypatch.setattr(module, "CHECK_BYTES", 64)
    monkeypatch.setattr(
        Reader, "blocks", lambda self, **said: usual(self, **{**said, "block_records": 4})
    )
    records = [sample(n, 1) for n in range(1, 11)]
    records[9] = pw.record(pw.SAMPLE, b"\0" * 16)
    path = put(tmp_path, pw.PerfFile(records=records).build())
    found = inspect_json(path, code=5)
    assert found["checked"] == {
        "samples": 4, "of_samples": 10, "bytes": 128, "of_bytes": 312,
    }  # fmt: skip
    assert found["damage"][0]["what"] == "the sample is shorter than its event's samples can be"
    begin = found["header"]["data"]["offset"]
    assert found["damage"][0]["offset"] == begin + 9 * 32
    assert found["notes"][0].startswith("only the first 4 of 10 samples were decoded")
    assert "only the first 4 samples were decoded" in inprocess.run("inspect", path).out


def test_decoders_of_features_bound_what_they_believe() -> None:
    for bit in range(1, 35):
        for body in (b"", b"\xff" * 3, b"\xff" * 64, b"\xff" * 4096, b"\0" * 64):
            with suppress(ValueError, struct.error):  # and nothing else, in no time
                decode_feature(bit, body, "<", 4)
