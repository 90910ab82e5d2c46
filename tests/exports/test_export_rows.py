"""JSON lines, CSV and Parquet of hand-made batches: the same fields, exact values."""

from __future__ import annotations

import csv
import io
import json
from importlib.resources import files
from pathlib import Path

import jsonschema
import numpy as np
import pyarrow.parquet as pq
import pytest
from support.fake_batches import VERDICT, batch, f64, names, register_set

from perfxmm.analysis.shown import Policy
from perfxmm.coherence.reasons import REASONS
from perfxmm.errors import OutputError
from perfxmm.exports.arrow import record_batch, table_of, write_parquet
from perfxmm.exports.csvfile import CsvLines, csv_field
from perfxmm.exports.jsonl import JsonLines, json_string
from perfxmm.exports.output import open_output
from perfxmm.exports.redaction import Redaction

SCHEMA = json.loads(
    files("perfxmm.exports").joinpath("schema/perfxmm.snapshot.1.json").read_text()
)
VALIDATOR = jsonschema.Draft202012Validator(SCHEMA)


def objects(writer: JsonLines, made) -> list[dict]:
    text = b"".join(writer.lines(made))
    found = [json.loads(line) for line in text.splitlines()]
    for one in found:
        VALIDATOR.validate(one)
    return found


def one_ymm(**change) -> object:
    vectors = np.zeros((1, 16, 4), np.uint64)
    vectors[0, 0] = f64(1.0)
    vectors[0, 15, 3] = 0xABCDEF
    gprs = np.array([[0, 2**64 - 1, 0x10, 0x401136, 1]], np.uint64)
    settings = {
        "gprs": gprs, "verdict": {"ymm": "coherent"},
        "reason": REASONS["user-mode"].mask | REASONS["ip-match"].mask,
    }  # fmt: skip
    return register_set("user", vectors, **(settings | change))


def test_one_snapshot_exactly() -> None:
    (found,) = objects(JsonLines(names(), Policy()), batch(one_ymm()))
    zero = "0x" + "0" * 16
    vector = [[zero] * 4 for _ in range(16)]
    vector[0] = ["0x3ff0000000000000"] * 4
    vector[15][3] = "0x0000000000abcdef"
    assert found == {
        "schema": "perfxmm.snapshot/1", "time_ns": 1_000_000_000, "pid": 7, "tid": 7, "cpu": 0,
        "comm": "app", "event": "task-clock:u", "period": 1000, "ip": "0x401000",
        "cpumode": "user", "exact_ip": False, "symbol": "axpy", "symbol_offset": 0,
        "dso": "/usr/bin/app", "build_id": "00ff", "source": "sigtrap",
        "sets": {"user": {
            "ip": "0x401136",
            "gpr": {"AX": "0x0", "BX": "0xffffffffffffffff", "SP": "0x10", "IP": "0x401136",
                    "R8": "0x1"},
            "vector_bits": 256, "vector": vector, "opmask": [],
            "verdict": {"gpr": "coherent", "xmm": "coherent", "ymm": "coherent", "zmm": "absent",
                        "opmask": "absent"},
            "reasons": ["user-mode", "ip-match"], "init": [],
        }},
    }  # fmt: skip


def test_what_is_not_known_is_null() -> None:
    made = batch(one_ymm())
    made.pid[:] = made.tid[:] = made.cpu[:] = -1
    made.comm[:] = made.symbol[:] = made.dso[:] = -1
    made.period[:] = 0
    (found,) = objects(JsonLines(names(source=""), Policy()), made)
    unknown = ("pid", "tid", "cpu", "comm", "period", "symbol", "symbol_offset", "dso", "build_id",
               "source")  # fmt: skip
    assert [found[key] for key in unknown] == [None] * 10


def test_torn_keeps_the_low_words_and_foreign_nothing() -> None:
    torn = one_ymm(verdict={"ymm": "torn"})
    (found,) = objects(JsonLines(names(), Policy()), batch(torn))
    assert found["sets"]["user"]["vector"][0] == ["0x3ff0000000000000"] * 2 + [None] * 2
    assert found["sets"]["user"]["vector_bits"] == 256
    foreign = one_ymm(verdict=dict.fromkeys(("gpr", "xmm", "ymm"), "foreign"))
    (found,) = objects(JsonLines(names(), Policy.of(["all"])), batch(foreign))
    own = found["sets"]["user"]
    assert (own["ip"], own["gpr"], own["vector"]) == (None, {}, [None] * 16)
    (found,) = objects(JsonLines(names(), Policy.of(["all"], unsafe_foreign=True)), batch(foreign))
    assert found["sets"]["user"]["gpr"]["SP"] == "0x10"


def test_registers_that_were_not_delivered_are_null() -> None:
    partial = one_ymm()
    partial.vector_mask[:] = 0x8001
    (found,) = objects(JsonLines(names(), Policy()), batch(partial))
    vector = found["sets"]["user"]["vector"]
    assert [i for i, v in enumerate(vector) if v is not None] == [0, 15]
    nothing = one_ymm(abi=0, verdict=dict.fromkeys(("gpr", "xmm", "ymm"), "absent"))
    nothing.vector_mask[:] = nothing.delivered_qwords[:] = nothing.gpr_mask[:] = 0
    (found,) = objects(JsonLines(names(), Policy.of(["all"])), batch(nothing))
    own = found["sets"]["user"]
    assert (own["vector_bits"], own["vector"], own["gpr"]) == (0, [], {})


def test_zmm_opmasks_and_two_sets() -> None:
    vectors = np.arange(2 * 32 * 8, dtype=np.uint64).reshape(2, 32, 8)
    verdict = {"ymm": "coherent", "zmm": "coherent", "opmask": "coherent"}
    predicates = np.arange(16, dtype=np.uint64).reshape(2, 8)
    made = batch(
        register_set("intr", vectors, predicates=predicates, verdict=verdict),
        register_set("user", vectors + np.uint64(1), verdict=verdict | {"opmask": "absent"}),
    )
    first, second = objects(JsonLines(names(), Policy()), made)
    assert first["sets"]["intr"]["vector"][31][7] == f"0x{255:016x}"
    assert second["sets"]["user"]["vector"][0][0] == f"0x{257:016x}"
    assert second["sets"]["intr"]["opmask"] == [f"0x{k:016x}" for k in range(8, 16)]
    assert second["sets"]["user"]["opmask"] == []


def test_lanes_stand_beside_the_words() -> None:
    vectors = np.zeros((1, 16, 2), np.uint64)
    vectors[0, 0] = [0x3FF0000000000000, 0x7FF8000000000000]
    made = batch(register_set("user", vectors))
    (found,) = objects(JsonLines(names(), Policy(), view="f64"), made)
    own = found["sets"]["user"]
    assert own["vector"][0] == ["0x3ff0000000000000", "0x7ff8000000000000"]
    assert own["lanes"]["vector"][0] == [1.0, "nan(0x8000000000000)"]
    (found,) = objects(
        JsonLines(names(), Policy(), view="auto", element_of=lambda b: np.array([10])), made
    )
    assert found["sets"]["user"]["lanes"]["view"] == "u16"
    assert found["sets"]["user"]["lanes"]["vector"][0] == [0, 0, 0, 16368, 0, 0, 0, 32760]


def test_initial_state_is_listed() -> None:
    made = batch(
        one_ymm(xstate_bv=0b011, reason=REASONS["init-state"].mask)
    )
    (found,) = objects(JsonLines(names(), Policy()), made)
    assert found["sets"]["user"]["init"] == ["ymm"]


def test_redaction_of_all_values_keeps_statistics() -> None:
    writer = JsonLines(names(), Policy(), redaction=Redaction("values"))
    (found,) = objects(writer, batch(one_ymm()))
    own = found["sets"]["user"]
    assert (own["ip"], own["gpr"], own["vector"]) == (None, {}, [None] * 16)
    assert own["stats"] == {
        "view": "f64", "lanes": 64, "nan": 0, "inf": 0, "subnormal": 1, "zero": 59,
        "negative_zero": 0, "widest": "ymm",
    }  # fmt: skip
    assert own["verdict"]["ymm"] == "coherent"


def test_csv_and_parquet_keep_the_same_statistics() -> None:
    vectors = np.ones((3, 16, 4), np.uint64)
    vectors[0, 0, :2] = f64(float("nan"), -0.0)
    vectors[1] = 0
    user = register_set("user", vectors, verdict={"ymm": "coherent"})
    user.verdict[2, :] = VERDICT["foreign"]
    made, policy, redaction = batch(user), Policy.of(["all"]), Redaction("values")
    told = [one["sets"]["user"]["stats"]
            for one in objects(JsonLines(names(), policy, redaction=redaction), made)]  # fmt: skip
    assert [one["widest"] for one in told] == ["ymm", "none", None]
    assert told[0]["nan"] == told[0]["negative_zero"] == 1
    table = record_batch(made, names(), policy, redaction).to_pylist()
    assert [row["sets"]["user"]["stats"] for row in table] == told
    assert [row["sets"]["user"]["vector"] for row in table] == [[None] * 16] * 3
    writer = CsvLines(names(), policy, redaction)
    text = (writer.header(made) + b"".join(writer.lines(made))).decode()
    for row, one in zip(csv.DictReader(io.StringIO(text)), told, strict=True):
        assert None not in row
        assert {key: row[f"user.stats.{key}"] for key in one} == {
            key: "" if value is None else str(value) for key, value in one.items()
        }
        assert row["user.vector[0][0]"] == ""
    assert "stats" not in CsvLines(names(), policy).header(made).decode()


def test_samples_that_lose_values_are_counted() -> None:
    vectors = np.ones((3, 16, 2), np.uint64)
    user = register_set("user", vectors)
    user.verdict[2, :] = VERDICT["foreign"]  # has no value to lose
    for redaction, removed in (
        (Redaction(""), 0), (Redaction("values"), 2), (Redaction("crypto"), 2),
        (Redaction("crypto", lambda b: np.array([True, False, True])), 1),
    ):  # fmt: skip
        (one,) = redaction.noted(iter([batch(user)]), Policy())
        assert redaction.removed == removed
        rows = redaction.rows(one)
        assert (rows is None) == (redaction.mode == "")
        if redaction.crypto_at:
            assert rows is not None
            assert rows.tolist() == [True, False, True]


def test_redaction_of_cryptography_goes_by_sample_and_fails_closed() -> None:
    vectors = np.full((2, 16, 2), 0x5EC2E7, np.uint64)
    made = batch(register_set("user", vectors))
    guess = Redaction("crypto", lambda b: np.array([True, False]))
    first, second = objects(JsonLines(names(), Policy(), redaction=guess), made)
    assert first["sets"]["user"]["vector"] == [None] * 16
    assert second["sets"]["user"]["vector"][3] == ["0x00000000005ec2e7"] * 2
    text = b"".join(JsonLines(names(), Policy(), redaction=Redaction("crypto")).lines(made))
    assert b"5ec2e7" not in text


@pytest.mark.parametrize(
    ("name", "json_text", "csv_text"),
    [
        ("plain", b'"plain"', b"plain"), ('a"b', b'"a\\"b"', b'"a""b"'),
        ("\x1b[2J", b'"\\u001b[2J"', b"\\x1b[2J"), ("a,b\n", b'"a,b\\n"', b'"a,b\\n"'),
        ("caf\u00e9", b'"caf\\u00e9"', "caf\u00e9".encode()), ("x\udcff", b'"x\\\\xff"', b"x\\xff"),
        ("=1+1", b'"=1+1"', b"'=1+1"), ("-x", b'"-x"', b"'-x"), ("@x", b'"@x"', b"'@x"),
        ("\u202eb", b'"\\u202eb"', b"\\u202eb"),
    ],
)  # fmt: skip
def test_hostile_names(name: str, json_text: bytes, csv_text: bytes) -> None:
    assert json_string(name) == json_text
    assert csv_field(name) == csv_text
    (found,) = objects(JsonLines(names(comms=[name]), Policy()), batch(one_ymm()))
    assert found["comm"] == json.loads(json_text)


def test_csv_has_the_same_fields() -> None:
    made = batch(one_ymm(verdict={"ymm": "torn"}))
    writer = CsvLines(names(), Policy())
    text = (writer.header(made) + b"".join(writer.lines(made))).decode()
    (row,) = csv.DictReader(io.StringIO(text))
    assert row["schema"] == "perfxmm.snapshot/1"
    assert row["user.gpr.BX"] == "0xffffffffffffffff"
    assert row["user.vector[0][1]"] == "0x3ff0000000000000"
    assert row["user.vector[0][2]"] == ""
    assert row["user.verdict.ymm"] == "torn"
    assert row["user.reasons"] == "user-mode ip-match"
    assert (row["symbol"], row["symbol_offset"], row["ip"]) == ("axpy", "0", "0x401000")
    assert None not in row
    assert None not in row.values()


def test_csv_rows_of_all_shapes_have_as_many_columns_as_the_header() -> None:
    user = register_set(
        "user", np.ones((3, 32, 8), np.uint64), predicates=np.ones((3, 8)),
        verdict={"ymm": "coherent", "zmm": "coherent", "opmask": "coherent"},
    )
    user.verdict[1, 3] = VERDICT["torn"]
    user.verdict[2, :] = VERDICT["foreign"]
    made = batch(user)
    writer = CsvLines(names(), Policy())
    rows = list(csv.reader(io.StringIO(
        (writer.header(made) + b"".join(writer.lines(made))).decode()
    )))  # fmt: skip
    assert [len(row) for row in rows] == [len(rows[0])] * 4
    at = rows[0].index("user.vector[16][0]")
    assert [row[at] for row in rows[1:]] == ["0x0000000000000001", "", ""]


def test_parquet_reads_back(tmp_path: Path) -> None:
    made = batch(one_ymm(verdict={"ymm": "torn"}))
    path = tmp_path / "a.parquet"
    with open_output(str(path)) as file:
        assert write_parquet(file, [made, made], names(), Policy()) == 2
    table = pq.read_table(path)
    assert table.schema.metadata == {b"schema": b"perfxmm.snapshot/1"}
    row = table.to_pylist()[1]
    assert row["ip"] == 0x401000
    assert row["comm"] == "app"
    own = row["sets"]["user"]
    assert own["gpr"]["BX"] == 2**64 - 1
    assert own["vector"][0] == [0x3FF0000000000000, 0x3FF0000000000000, None, None]
    assert own["verdict"]["ymm"] == "torn"
    assert own["reasons"] == ["user-mode", "ip-match"]
    assert table_of([], names(), Policy()).num_rows == 0


def test_parquet_and_json_agree_on_every_shape() -> None:
    user = register_set(
        "user", np.arange(4 * 32 * 8).reshape(4, 32, 8), predicates=np.ones((4, 8)),
        verdict={"ymm": "coherent", "zmm": "coherent", "opmask": "coherent"},
    )
    user.verdict[1, 3] = VERDICT["torn"]
    user.verdict[2, :] = VERDICT["foreign"]
    user.delivered_qwords[3], user.vector_mask[3] = 4, 0xFFFF
    made = batch(user)
    policy = Policy.of(["all"])
    rows = table_of([made], names(), policy).to_pylist()
    for row, one in zip(rows, objects(JsonLines(names(), policy), made), strict=True):
        own, told = row["sets"]["user"], one["sets"]["user"]
        as_words = [
            None if r is None else [None if w is None else f"0x{w:016x}" for w in r]
            for r in own["vector"]
        ]
        assert as_words == told["vector"]
        assert {k: hex(v) for k, v in own["gpr"].items() if v is not None} == told["gpr"]
        assert own["verdict"] == told["verdict"]
        assert own["vector_bits"] == told["vector_bits"]


def test_output_is_private_and_never_follows_a_link(tmp_path: Path) -> None:
    path = tmp_path / "out"
    with open_output(str(path)) as file:
        file.write(b"1")
    assert path.stat().st_mode & 0o777 == 0o600
    with pytest.raises(OutputError, match="File exists"), open_output(str(path)):
        pass
    path.chmod(0o644)
    with open_output(str(path), force=True) as file:
        file.write(b"2")
    assert path.read_bytes() == b"2"
    assert path.stat().st_mode & 0o777 == 0o600
    link = tmp_path / "link"
    link.symlink_to(path)
    for force in (False, True):
        with pytest.raises(OutputError), open_output(str(link), force=force):
            pass
    assert path.read_bytes() == b"2"


def test_a_full_disk_is_one_clear_error() -> None:
    with (
        pytest.raises(OutputError, match="No space left on device"),
        open_output("/dev/full") as file,
    ):
        file.write(b"x" * 100)
