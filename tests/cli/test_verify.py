"""perfxmm verify, on a written recording of a written program: exact counts."""

from __future__ import annotations

import json
from importlib.resources import files
from pathlib import Path

import jsonschema
import pytest
from support.inprocess import run
from support.witness_recording import Shot, write

SCHEMA = json.loads(files("perfxmm.exports").joinpath("schema/perfxmm.verify.1.json").read_text())


@pytest.fixture
def recording(tmp_path: Path) -> Path:
    """18 true samples, three of them where nothing is known, and three that contradict."""
    return write(tmp_path, [
        *([Shot(at) for at in range(6)] * 3), Shot(5, change={"ax": 1}),
        Shot(5, change={"ax": 2, "v0": [0, 1, 0, 0, 0, 0, 0, 0]}), Shot(2, change={"v0": [5] * 8}),
    ])  # fmt: skip


def test_the_tables_and_the_examples(recording: Path) -> None:
    done = run("verify", recording)
    assert done.code == 0
    assert done.out.splitlines() == [
        "Contradicted            95 % of Silent  Class",
        "     11.11 % 3.10 %..32.80 % 18      3  gpr",
        "     13.33 % 3.74 %..37.88 % 15      6  xmm",
        "      6.67 % 1.19 %..29.82 % 15      6  ymm",
        "      6.67 % 1.19 %..29.82 % 15      6  zmm",
        "           -               -  0     21  opmask",
        "",
        "Contradicted            95 % of Silent  Event",
        "     16.67 % 5.84 %..39.22 % 18      3  task-clock:u",
        "",
        "Contradicted            95 % of Silent  Symbol",
        "     16.67 % 5.84 %..39.22 % 18      3  work (app)",
        "",
        f"work+0x12 ({recording.parent}/app): 2 contradicted, such as sample 18",
        "  at 1.018000000, set user, fits nowhere near",
        "  contradicted rax = 0  (the word is 0x0000000000000001)",
        "   | +0x00000  xor eax,eax                                 rax = 0",
        "   | +0x00002  vxorps xmm0,xmm0,xmm0                       zmm0 = 0",
        "   | +0x00006  vmovaps xmm1,xmm0                           zmm1 = 0",
        "   | +0x0000a  vaddps ymm2,ymm1,ymm2                       zmm2[511:256] = 0",
        "   | +0x0000e  vmovups ymm2,[rdi]",
        "  => +0x00012  ret",
        "",
        f"work+0x6 ({recording.parent}/app): 1 contradicted, such as sample 20",
        "  at 1.020000000, set user, fits nowhere near",
        *(
            f"  contradicted {name} = 0  (the word is 0x0000000000000005)"
            for name in (
                "xmm0[63:0]", "xmm0[127:64]", "ymm0[191:128]", "ymm0[255:192]", "zmm0[319:256]",
                "zmm0[383:320]", "zmm0[447:384]", "zmm0[511:448]",
            )
        ),
        "   | +0x00000  xor eax,eax                                 rax = 0",
        "   | +0x00002  vxorps xmm0,xmm0,xmm0                       zmm0 = 0",
        "  => +0x00006  vmovaps xmm1,xmm0",
        "     +0x0000a  vaddps ymm2,ymm1,ymm2",
        "     +0x0000e  vmovups ymm2,[rdi]",
        "     +0x00012  ret",
    ]  # fmt: skip
    assert done.err.splitlines()[0] == (
        "perfxmm: 21 of 21 snapshots verified: the code proves 15, contradicts 3 and says nothing "
        "of 3"
    )
    assert done.err.splitlines()[1].startswith("perfxmm: silent in 3 snapshots: the code is known")


def test_json(recording: Path) -> None:
    done = run("verify", "--json", recording)
    found = json.loads(done.out)
    jsonschema.Draft202012Validator(SCHEMA).validate(found)
    assert {n: (t["proved"], t["contradicted"], t["silent"]) for n, t in found["classes"].items()} \
        == {
            "gpr": (16, 2, 3), "xmm": (13, 2, 6), "ymm": (14, 1, 6), "zmm": (14, 1, 6),
            "opmask": (0, 0, 21),
        }  # fmt: skip
    assert (found["samples"], found["asked"]) == (21, 21)
    assert found["total"]["rate"] == 3 / 18
    assert found["classes"]["opmask"]["rate"] is None
    assert [e["sample"] for e in found["examples"]] == [18, 20]
    assert [e["samples"] for e in found["examples"]] == [2, 1]
    contradicted = [c for c in found["examples"][0]["code"]["claims"]
                    if c["result"] == "contradicted"]  # fmt: skip
    assert contradicted == [
        {"claim": "rax = 0", "class": "gpr", "result": "contradicted",
         "found": "0x0000000000000001"},
    ]  # fmt: skip


def test_a_skid_is_told(tmp_path: Path) -> None:
    from support.assembled import Assembly

    body = Assembly().raw("b801000000").raw("90").raw("b802000000").raw("90").raw("c3")
    path = write(tmp_path, [Shot(1, 0, {"ax": 1}), Shot(1, 0, {"ax": 2})], body=body)
    done = run("verify", path)
    assert "  at 1.001000000, set user, fits 2 instructions on" in done.out.splitlines()
    assert done.err.splitlines()[0].endswith("1 of those contradicted fit a few instructions on "
                                             "(skid)")  # fmt: skip
    assert json.loads(run("verify", "--json", path).out)["skids"] == {"2": 1}


def test_code_that_is_not_proved(tmp_path: Path) -> None:
    path = write(tmp_path, [Shot(5, change={"ax": 1})], build_id=None)
    done = run("verify", path)
    assert done.code == 0
    assert done.err.splitlines()[1] == (
        "perfxmm: silent in 1 snapshots: neither build id nor inode proves that this is the file "
        "that was mapped"
    )


def test_filters_and_limits(recording: Path) -> None:
    found = json.loads(run("verify", "--json", "--time", "1.018,", recording).out)
    assert (found["samples"], found["total"]["contradicted"]) == (3, 3)
    found = json.loads(run("verify", "--json", "--examples", "1", "--limit", "0", recording).out)
    assert (len(found["examples"]), found["symbols"]) == (1, [])


def test_two_files_are_a_usage_error(recording: Path) -> None:
    assert run("verify", recording, "-i", "other").code == 2


def test_help_has_two_examples() -> None:
    done = run("verify", "--help")
    assert done.code == 0
    assert done.out.count("  perfxmm verify") == 2
