"""Exports of real recordings follow the schema, and no secret is in any of them."""

from __future__ import annotations

import csv
import gzip
import io
import json
import re
import subprocess
import sys
from importlib.resources import files
from pathlib import Path

import jsonschema
import pyarrow.parquet as pq
import pytest
from support.command import PERFXMM
from support.inprocess import run
from support.written_recording import AXPY, DOT, Sample, program, write

VALIDATOR = jsonschema.Draft202012Validator(
    json.loads(files("perfxmm.exports").joinpath("schema/perfxmm.snapshot.1.json").read_text())
)
RECORDINGS = (
    "a-xmm-intr", "f-mixed-modes", "g-two-events", "i-o1-zmm-opmask-egpr-ssp",
    "j-r2-zmm-opmask-egpr-ssp", "kernel-cpu-wide-idle", "kernel-kernel-fpu-section",
    "kernel-not-in-nmi", "kernel-perf-record-ymm-kernel", "kernel-perf-record-zmm",
    "kernel-syscalls-kernel-allowed", "kernel-syscalls-skid-exclude-kernel",
    "kernel-zmm-opmask-both-user",
)  # fmt: skip


@pytest.fixture
def recording(tmp_path: Path) -> Path:
    secret = 0x5EC2E75EC2E75EC2
    samples = [Sample(AXPY), Sample(DOT, words=(secret,) * 4), Sample(DOT + 5, words=(secret,) * 4),
               Sample(0x900000, words=(secret,) * 4)]  # fmt: skip
    return write(tmp_path / "perf.data", samples, binary=program(tmp_path / "app"))


@pytest.mark.parametrize("name", RECORDINGS)
def test_every_recording_follows_the_schema(shared_data: Path, name: str) -> None:
    path = shared_data / "simd" / f"{name}.data"
    expected = _expected(path)
    done = run("export", "-i", path, "--keep", "all")
    assert done.code == 0, done.err
    found = [json.loads(line) for line in done.out.splitlines()]
    assert len(found) == len(expected)
    for one in found:
        VALIDATOR.validate(one)
    assert sorted((o["time_ns"], int(o["ip"], 16)) for o in found) == sorted(
        (row["time"], int(row["ip"], 16)) for row in expected
    )


def test_shown_values_are_the_recordings_own(shared_data: Path) -> None:
    path = shared_data / "simd" / "kernel-perf-record-zmm.data"
    expected = {row["time"]: row for row in _expected(path)}
    checked = 0
    for line in run("export", "-i", path).out.splitlines():
        one = json.loads(line)
        for name, own in one["sets"].items():
            wanted = expected[one["time_ns"]][name]["vectors"]
            assert [[w[2:] for w in r] for r in own["vector"]] == wanted
            checked += 1
    assert checked == 2 * 37


# Outside user mode the first holds random words in every register; the second the kernel's own
# (all ones, from inside kernel_fpu_begin), next to the task's.
@pytest.mark.parametrize(
    ("name", "count"), [("f-mixed-modes", 1000), ("kernel-kernel-fpu-section", 1)]
)
def test_no_foreign_value_leaves_without_asking(
    shared_data: Path, tmp_path: Path, name: str, count: int
) -> None:
    path = shared_data / "simd" / f"{name}.data"
    secrets = _only_in_kernel_sets(path)
    assert len(secrets) >= count
    outputs = {}
    for verb in (["export"], ["export", "-f", "csv"], ["export", "--view", "u8"],
                 ["script", "-F", "ip,iregs,uregs,vec,regs"], ["script", "--json"],
                 ["script", "--view", "i64"], ["report"], ["report", "--json"]):  # fmt: skip
        outputs[tuple(verb)] = run(*verb, "-i", path, "--keep", "all").out
    done = run("export", "-i", path, "--keep", "all", "-o", tmp_path / "a.parquet")
    assert done.code == 0, done.err
    outputs[("parquet",)] = json.dumps(pq.read_table(tmp_path / "a.parquet").to_pylist())
    for verb, text in outputs.items():
        words = set(re.findall(r"-?\b(?:0x)?[0-9a-f]+\b", text))
        for spelt in ("{:x}", "0x{:x}", "{:016x}", "0x{:016x}", "{}"):
            assert not words & {spelt.format(secret) for secret in secrets}, verb
        assert not words & {str(secret - (1 << 64)) for secret in secrets}, verb
    unsafe = run("export", "-i", path, "--keep", "all", "--unsafe-foreign").out
    assert any(f"{secret:016x}" in unsafe for secret in secrets)


def test_the_idle_tasks_registers_are_another_tasks(shared_data: Path) -> None:
    path = shared_data / "simd" / "kernel-cpu-wide-idle.data"
    foreign = 0
    for line in run("export", "-i", path, "--keep", "all").out.splitlines():
        own = json.loads(line)["sets"]["intr"]
        if own["verdict"]["zmm"] == "foreign":
            foreign += 1
            assert own["ip"] is None
            assert own["gpr"] == {}
            assert own["vector_bits"] == 512
            assert own["vector"] == [None] * 32
            assert own["opmask"] == [None] * 8
    assert foreign == 6


def test_not_collected_is_absent_and_not_zero(shared_data: Path) -> None:
    path = shared_data / "simd" / "kernel-not-in-nmi.data"
    for line in run("export", "-i", path, "--keep", "all").out.splitlines():
        for own in json.loads(line)["sets"].values():
            assert own["vector_bits"] == 0
            assert own["vector"] == []
            assert own["verdict"]["zmm"] == "absent"


def test_redaction_of_cryptography(recording: Path) -> None:
    text = run("export", "-i", recording, "--redact", "crypto").out
    # The instruction itself, the function around it, and code that cannot be read.
    assert "5ec2e75ec2e75ec2" not in text
    found = [json.loads(line) for line in text.splitlines()]
    assert found[0]["sets"]["user"]["vector"][0] == ["0x3ff0000000000000"] * 4
    assert [one["sets"]["user"]["gpr"] for one in found[1:]] == [{}] * 3


def test_redaction_of_all_values(recording: Path) -> None:
    text = run("export", "-i", recording, "--redact", "values").out
    assert "5ec2e75ec2e75ec2" not in text
    assert "3ff0000000000000" not in text
    for line in text.splitlines():
        VALIDATOR.validate(json.loads(line))
        assert json.loads(line)["sets"]["user"]["stats"]["widest"] == "ymm"


@pytest.mark.parametrize(("mode", "count"), [("values", 4), ("crypto", 3)])
@pytest.mark.parametrize("kind", ["jsonl", "csv", "parquet"])
def test_how_many_lost_their_values_is_told(
    recording: Path, tmp_path: Path, mode: str, count: int, kind: str
) -> None:
    done = run("export", "-i", recording, "--redact", mode, "-o", tmp_path / f"out.{kind}")
    assert done.err == f"perfxmm: values of {count} of 4 snapshots removed (--redact)\n"


def test_the_format_follows_the_name(recording: Path, tmp_path: Path) -> None:
    for ending in ("jsonl", "csv", "parquet"):
        done = run("export", "-i", recording, "-o", tmp_path / f"x.{ending}")
        assert done.code == 0, done.err
    assert len((tmp_path / "x.jsonl").read_text().splitlines()) == 4
    rows = list(csv.DictReader(io.StringIO((tmp_path / "x.csv").read_text())))
    assert [row["symbol"] for row in rows] == ["axpy", "dot", "dot", ""]
    assert pq.read_table(tmp_path / "x.parquet").num_rows == 4
    assert {p.stat().st_mode & 0o777 for p in tmp_path.glob("x.*")} == {0o600}


def test_an_output_that_is_there_is_kept(recording: Path, tmp_path: Path) -> None:
    target = tmp_path / "out.jsonl"
    target.write_text("mine")
    done = run("export", "-i", recording, "-o", target)
    assert done.code == 1
    assert done.err.splitlines()[1].strip() == "--force overwrites it"
    assert target.read_text() == "mine"
    assert run("export", "-i", recording, "-o", target, "--force").code == 0
    assert len(target.read_text().splitlines()) == 4


@pytest.mark.parametrize(
    ("options", "first"),
    [
        (["-f", "xml"], "perfxmm: no such format: xml"),
        (["--redact", "all"], "perfxmm: no such redaction: all"),
        (["-f", "csv", "--view", "f64"], "perfxmm: --view goes with jsonl, not with csv"),
    ],
)
def test_wrong_options(recording: Path, options: list[str], first: str) -> None:
    done = run("export", "-i", recording, *options)
    assert (done.code, done.err.splitlines()[0]) == (2, first)


def test_a_full_disk_behind_stdout_is_one_clear_error(recording: Path) -> None:
    with Path("/dev/full").open("wb") as full:
        done = subprocess.run(
            [*PERFXMM, "export", "-i", str(recording)], stdout=full, stderr=subprocess.PIPE,
            check=False, text=True,
        )  # fmt: skip
    assert done.returncode == 1
    assert done.stderr == "perfxmm: No space left on device\n"


def test_parquet_without_pyarrow_says_what_to_install(
    recording: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    done = run("export", "-i", recording, "-o", tmp_path / "x.parquet")
    assert done.code == 4
    assert "pip install 'perfxmm[parquet]'" in done.err


def _expected(path: Path) -> list[dict]:
    plain = path.with_suffix(".expected.jsonl")
    if plain.exists():
        text = plain.read_text()
    else:
        text = gzip.decompress(plain.with_name(plain.name + ".gz").read_bytes()).decode()
    return [json.loads(line) for line in text.splitlines()][1:]


def _only_in_kernel_sets(path: Path) -> set[int]:
    """Vector words of intr sets outside user mode that no user set and no user-mode set holds."""
    kernel: set[int] = set()
    known: set[int] = set()
    for row in _expected(path):
        for name in ("intr", "user"):
            own = row.get(name) or {}
            words = {int(w, 16) for register in own.get("vectors") or [] for w in register}
            (kernel if name == "intr" and row["cpumode"] != "USER" else known).update(words)
    # Small numbers would be found in counts and times by chance.
    return {word for word in kernel - known if word.bit_length() > 40}
