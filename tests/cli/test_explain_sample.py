"""perfxmm explain SAMPLE: the story of one snapshot of a written recording."""

from __future__ import annotations

import json
from importlib.resources import files
from pathlib import Path

import jsonschema
import pytest
from support import written_recording
from support.inprocess import run
from support.witness_recording import Shot, write

SCHEMA = json.loads(files("perfxmm.exports").joinpath("schema/perfxmm.sample.1.json").read_text())


@pytest.fixture
def recording(tmp_path: Path) -> Path:
    return write(tmp_path, [
        Shot(0), Shot(3), Shot(5, change={"ax": 1}), Shot(0, 3, own_at=3),
    ])  # fmt: skip


def test_by_index(recording: Path) -> None:
    done = run("explain", "2", "-i", recording)
    assert done.code == 0
    lines = done.out.splitlines()
    assert lines[:12] == [
        "sample 2: 1.002000000 s, app 100/100 on CPU 0",
        f"  at work+0x12 ({recording.parent}/app)",
        "  IP 0x401012, user mode",
        lines[3],
        "",
        "asked: event task-clock:u, period 1,000,000",
        "  dialect M, precise_ip 0",
        "  set user: gpr, xmm, ymm, zmm, opmask",
        "  exclude_kernel, sample_id_all",
        "  SIMD fields: enabled 0x1, pred_qwords 0x1, vec_qwords 0x8, pred_user 0xff, "
        "vec_user 0xffffffff",
        "",
        "delivered, set user: abi 6 (64-bit task, SIMD)",
    ]  # fmt: skip
    assert lines[3].startswith("  source sigtrap, byte ")
    assert lines[12:19] == [
        "  header: 32 vectors of 8 qwords, 8 opmasks of 1",
        "  vectors 0-31, 512 bits",
        "  opmasks 0-7",
        "  general registers AX BX CX DX SI DI BP SP IP FLAGS CS SS R8 R9 R10 R11 R12 R13 R14 R15",
        "  XSTATE_BV 0xe7",
        "  its own IP 0x401012, the sample's",
        "",
    ]
    rules = [line for line in lines[19:] if line.startswith("  ") and not line.startswith("   ")]
    assert rules[:3] == [
        "  stopped-in-user-mode: coherent for gpr, xmm, ymm, zmm, opmask",
        "  stop-ip-match",
        "  code-contradicted: unknown for gpr, xmm, ymm, zmm, opmask",
    ]
    assert "  unknown: gpr, xmm, ymm, zmm, opmask" in lines
    assert "  reasons: user-mode, ip-match, code-contradicted" in lines
    at = lines.index("code, set user: 20 proved, 1 contradicted")
    assert lines[at + 1 : at + 7] == [
        "   | +0x00000  xor eax,eax                                 rax = 0",
        "   | +0x00002  vxorps xmm0,xmm0,xmm0                       zmm0 = 0",
        "   | +0x00006  vmovaps xmm1,xmm0                           zmm1 = 0",
        "   | +0x0000a  vaddps ymm2,ymm1,ymm2                       zmm2[511:256] = 0",
        "   | +0x0000e  vmovups ymm2,[rdi]",
        "  => +0x00012  ret",
    ]
    assert "  contradicted rax = 0  (the word is 0x0000000000000001)" in lines


@pytest.mark.parametrize(("time", "index"), [("1.001", 1), ("1.001000000", 1), ("1.0", 0)])
def test_by_time(recording: Path, time: str, index: int) -> None:
    found = json.loads(run("explain", time, "-i", recording, "--json").out)
    assert (found["sample"], found["time_ns"]) == (index, 1_000_000_000 + index * 1_000_000)


@pytest.mark.parametrize("index", range(4))
def test_json(recording: Path, index: int) -> None:
    found = json.loads(run("explain", str(index), "-i", recording, "--json").out)
    jsonschema.Draft202012Validator(SCHEMA).validate(found)
    own = found["sets"]["user"]
    assert found["sample"] == index
    assert own["delivered"]["header"] == {
        "nr_vectors": 32, "vector_qwords": 8, "nr_pred": 8, "pred_qwords": 1,
    }  # fmt: skip
    results = [claim["result"] for claim in own["code"]["claims"]]
    assert (results.count("proved"), results.count("contradicted")) == [
        (0, 0), (17, 0), (20, 1), (17, 0),
    ][index]
    assert own["verdict"]["xmm"] == ["coherent", "coherent", "unknown", "late"][index]
    # The late one counts for its registers' IP.
    assert found["symbol_offset"] == [0, 10, 18, 10][index]


def test_a_sample_that_is_not_there(recording: Path) -> None:
    done = run("explain", "4", "-i", recording)
    assert done.code == 2
    assert done.err.splitlines()[0] == (
        f"perfxmm: there is no sample 4 ({recording}): the recording has 4 samples, from 0"
    )
    assert run("explain", "0.5", "-i", recording).code == 2


def test_names_still_are_explained_without_a_recording(tmp_path: Path) -> None:
    done = run("explain", "foreign", cwd=tmp_path)
    assert done.code == 0
    assert done.out.startswith("foreign: a verdict")


def test_a_set_that_was_not_delivered_and_a_hostile_name(tmp_path: Path) -> None:
    hostile = "a\x1b[31mb\n"
    path = written_recording.write(
        tmp_path / "perf.data", [written_recording.Sample(abi=0)], comm=hostile
    )
    done = run("explain", "0", "-i", path)
    assert done.code == 0
    assert "\x1b" not in done.out
    assert "delivered, set user: abi 0 (no registers)" in done.out.splitlines()
    assert "code, set user: not asked; no class is believed without it: there is nothing to ask" \
        in done.out.splitlines()  # fmt: skip
    found = json.loads(run("explain", "0", "-i", path, "--json").out)
    jsonschema.Draft202012Validator(SCHEMA).validate(found)
    assert found["sets"]["user"]["delivered"]["header"] is None


def test_help_names_both() -> None:
    out = run("explain", "--help").out
    assert "perfxmm explain foreign" in out
    assert "perfxmm explain 17 -i app.perf.data" in out
