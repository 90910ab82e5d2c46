from __future__ import annotations

import numpy as np
import pytest
from support.fake_batches import VERDICT, batch, f64, names, register_set

from perfxmm.analysis.instructions import FACTS, Uses, facts_of, use_of
from perfxmm.analysis.shown import Policy
from perfxmm.analysis.shown import select as select_rows
from perfxmm.coherence.reasons import REASONS
from perfxmm.kernel.registers import GPR_NAMES
from perfxmm.program.code import decode
from perfxmm.views.lanes import Selection, mask_text
from perfxmm.views.script import FIELDS, ScriptText


def text_of(made, fields: str, **settings) -> list[str]:
    writer = ScriptText(
        names(**settings.pop("names", {})), settings.pop("policy", Policy()), fields.split(","),
        **settings,
    )
    return b"".join(writer.lines(made)).decode().splitlines()


def select(*wanted: str) -> Selection:
    return Selection.of(wanted, GPR_NAMES)


def ymm_batch(**change):
    vectors = np.zeros((2, 16, 4), np.uint64)
    vectors[0, 0] = f64(1.0, -0.0, float("inf"), 2.5)
    vectors[0, 1, 0] = 0x7FF8000000000001
    vectors[0, 2, 0] = 1
    gprs = np.array([[1, 2, 3, 0x401136, 5]] * 2, np.uint64)
    settings = {"verdict": {"ymm": "coherent"}} | change
    return batch(register_set("user", vectors, gprs=gprs, **settings))


def test_the_line_is_laid_out_as_perf_does_it() -> None:
    first, second = text_of(
        ymm_batch(), "comm,pid,tid,cpu,time,period,event,ip,sym,symoff,dso,verdict"
    )
    assert first == (
        "             app       7/7       [000]     1.000000000:       1000 task-clock:u: "
        "          401000 axpy+0x0 (/usr/bin/app) user:coherent"
    )
    assert second == (
        "             app       7/8       [000]     1.001000000:       1000 task-clock:u: "
        "          401004 dot+0x4 (/usr/bin/app) user:coherent"
    )


def test_a_line_does_not_depend_on_other_rows() -> None:
    """Neither on longer names in the batch, nor on how many rows are printed with it."""
    made = ymm_batch()
    made.cpu[1], made.pid[1], made.ip[1] = 1234, 1 << 30, 2**64 - 4096
    made.symbol_offset[1] = 1 << 60
    tables = {"symbols": ["axpy", "x" * 300], "events": ["task-clock:u", "cycles"]}
    fields = ",".join(set(FIELDS) - {"vec", "regs", "insn", "chain"})
    both = text_of(made, fields, names=tables)
    each = [
        row for keep in ([True, False], [False, True])
        for row in text_of(select_rows(made, np.array(keep)), fields, names=tables)
    ]  # fmt: skip
    assert both == each
    assert "[000]" in both[0]
    assert "[1234]" in both[1]
    # Events are aligned to the longest name of the recording.
    made.event[:] = 1
    assert text_of(made, "event,ip", names=tables)[0] == "      cycles:           401000"


@pytest.mark.parametrize(
    "fields", ["comm,pid,tid", "pid", "tid", "time", "event", "verdict", "ip,sym,dso", "reason",
               "comm,uregs", "ip,sym,symoff", "build_id", "cpu", "pid,tid,vec,regs"],
)  # fmt: skip
def test_no_blanks_end_a_line(fields: str) -> None:
    for view in ("hex", "auto"):
        for line in text_of(ymm_batch(), fields, view=view):
            assert line == line.rstrip()


def test_samples_without_registers_have_no_verdict() -> None:
    lines = text_of(batch(n=1), "ip,sym,verdict,reason,iregs,uregs,regs,vec")
    assert lines == ["          401000 axpy"]


class FakeCode:
    """Instructions by sample; None: not known."""

    def __init__(self, *codes: str | None) -> None:
        operations = [code and decode(bytes.fromhex(code)) for code in codes]
        self._uses = [use_of(operation) if operation else None for operation in operations]
        self.texts = [use.text if use else "" for use in self._uses]

    def uses(self, made) -> Uses:
        facts = np.array([facts_of(use) for use in self._uses], FACTS)
        columns = ("known", "element", "scalar", "operands", "results", "words")
        return Uses(np.arange(len(facts)), *(facts[name] for name in columns))

    def use(self, number: int):
        return self._uses[number]


def used(made, code: FakeCode, fields: str = "ip,insn,vec", view: str = "auto") -> list[str]:
    return text_of(made, fields, view=view, code=code, regs_used=True,
                   element_of=lambda b: code.uses(b).element)  # fmt: skip


def own_ips(made):
    made.sets["user"].gprs[:, 3] = made.ip
    return made


def test_only_the_registers_that_the_instruction_uses() -> None:
    # vaddpd ymm1,ymm0,[rax]; the second is not known.
    assert used(own_ips(ymm_batch()), FakeCode("c5fd5808", None)) == [
        "          401000 lanes:f64(by instruction) insn: vaddpd ymm1,ymm0,[rax]",
        "    ymm0   1.0 -0.0 inf 2.5", "    ymm1   nan(0x8000000000001) 0.0 0.0 0.0",
        "          401004 regs:none(instruction not known) insn: [unknown]",
    ]  # fmt: skip


def test_used_registers_have_the_width_of_the_operand() -> None:
    # cvtps2pd xmm2,xmm0; add rax,rbx.
    lines = used(own_ips(ymm_batch()), FakeCode("0f5ad0", "4801d8"), "ip,insn,vec,regs", "hex")
    assert lines == [
        "          401000 insn: cvtps2pd xmm2,xmm0",
        "    xmm0   0x3ff0000000000000 0x8000000000000000",
        "    xmm2   0x0000000000000001 0x0000000000000000",
        "          401004 insn: add rax,rbx",
        "    AX    0x0000000000000001  BX    0x0000000000000002",
    ]  # fmt: skip
    (line,) = used(own_ips(ymm_batch()), FakeCode("0f5ad0", "4801d8"), "ip,uregs", "hex")[:1]
    assert line == (
        "          401000 ABI:6 YMM[0][0]:0x3ff0000000000000 "
        "YMM[0][1]:0x8000000000000000 YMM[2][0]:0x0000000000000001 YMM[2][1]:0x0000000000000000"
    )


def test_its_opmask_too() -> None:
    masks = register_set(
        "user", np.ones((1, 32, 8), np.uint64), predicates=np.full((1, 8), 5),
        verdict={"ymm": "coherent", "zmm": "coherent", "opmask": "coherent"},
        gprs=np.array([[0, 0, 0, 0x401000, 0]]),
    )
    lines = used(batch(masks), FakeCode("62f17c4958d1"), view="hex")  # vaddps zmm2{k1},zmm0,zmm1
    assert [line.split()[0] for line in lines[1:]] == ["zmm0", "zmm1", "zmm2", "k1"]


def test_registers_of_another_ip_are_not_the_instructions() -> None:
    made = own_ips(ymm_batch())
    made.sets["user"].gprs[0, 3] = 0x999
    lines = used(made, FakeCode("c5fd5808", "c5fd5808"))
    assert "user:none(of another instruction)" in lines[0]
    assert len(lines) == 1 + 3


def test_registers_in_the_line_read_as_perf_prints_them() -> None:
    line = text_of(ymm_batch(), "ip,sym,uregs", selection=select("ax", "ip", "ymm0"))[0]
    assert line.split() == [
        "401000", "axpy", "ABI:6", "AX:0x1", "IP:0x401136", "YMM[0][0]:0x3ff0000000000000",
        "YMM[0][1]:0x8000000000000000", "YMM[0][2]:0x7ff0000000000000",
        "YMM[0][3]:0x4004000000000000",
    ]  # fmt: skip


def test_lanes_of_chosen_registers_below_the_line() -> None:
    lines = text_of(
        ymm_batch(), "ip,vec,regs", view="f64", selection=select("ymm0", "xmm1", "ymm2", "r8", "ip")
    )
    assert lines[1:5] == [
        "    xmm1   nan(0x8000000000001) 0.0",
        "    ymm0   1.0 -0.0 inf 2.5",
        "    ymm2   5e-324d 0.0 0.0 0.0",
        "    IP    0x0000000000401136  R8    0x0000000000000005",
    ]


def test_lanes_turned_round() -> None:
    lines = text_of(ymm_batch(), "ip,vec", view="f64", msb_first=True, selection=select("ymm0"))
    assert lines[1] == "    ymm0   2.5 inf -0.0 1.0"


@pytest.mark.parametrize(
    ("view", "text"),
    [
        ("hex", "0x3ff0000000000000 0x8000000000000000"), ("i32", "0 1072693248 0 -2147483648"),
        ("u8", "0 0 0 0 0 0 240 63 0 0 0 0 0 0 0 128"), ("f32", "0.0 1.875 0.0 -0.0"),
        ("bf16", "0.0 0.0 0.0 1.875 0.0 0.0 0.0 -0.0"),
        ("i64", "4607182418800017408 -9223372036854775808"),
    ],
)  # fmt: skip
def test_views(view: str, text: str) -> None:
    assert text_of(ymm_batch(), "ip,vec", view=view, selection=select("xmm0"))[1] == (
        f"    xmm0   {text}"
    )


def test_states_are_said_and_not_shown_as_zeros() -> None:
    torn = text_of(ymm_batch(verdict={"ymm": "torn"}), "vec", selection=select("ymm0"))
    assert torn[1] == "    ymm0   0x3ff0000000000000 0x8000000000000000 withheld"
    init = text_of(
        ymm_batch(xstate_bv=0b011, reason=REASONS["init-state"].mask,
                  verdict={"ymm": "coherent"}),
        "vec", selection=select("ymm0"),
    )  # fmt: skip
    assert init[1] == "    ymm0   0x3ff0000000000000 0x8000000000000000 init"
    everything = text_of(
        ymm_batch(xstate_bv=0b001, reason=REASONS["init-state"].mask), "vec",
    )  # fmt: skip
    assert everything[1] == "    ymm0..15  init"
    assert text_of(ymm_batch(), "vec", selection=select("zmm17")) == ["", ""]


def test_opmasks_are_bits_lane_0_first_and_a_count() -> None:
    assert mask_text(0b1011, False) == "11010000 (3 active)"
    assert mask_text(0b1011, True) == "00001011 (3 active)"
    assert mask_text(0x8001, False) == "1000000000000001 (2 active)"
    assert mask_text(0, False) == "00000000 (0 active)"
    masks = register_set(
        "user", np.ones((1, 32, 8), np.uint64), predicates=np.full((1, 8), 5),
        verdict={"ymm": "coherent", "zmm": "coherent", "opmask": "coherent"},
    )
    assert text_of(batch(masks), "vec", selection=select("k1"))[1] == (
        "    k1     10100000 (2 active)"
    )
    masks.verdict[:, 4] = VERDICT["entry"]
    assert text_of(batch(masks), "vec", selection=select("k1"))[1] == "    k1  withheld"


def test_two_sets_are_told_apart_and_verdicts_told_by_class_where_they_differ() -> None:
    vectors = np.ones((1, 16, 2), np.uint64)
    made = batch(
        register_set("intr", vectors, verdict={"gpr": "foreign", "xmm": "foreign"}),
        register_set("user", vectors, verdict={"gpr": "entry"}),
    )
    lines = text_of(made, "verdict,vec", selection=select("xmm0"))
    assert lines == [
        "intr:foreign user:gpr=entry,xmm=coherent",
        "  intr:", "    xmm0   withheld",
        "  user:", "    xmm0   0x0000000000000001 0x0000000000000001",
    ]  # fmt: skip


def test_auto_says_what_it_took() -> None:
    made = ymm_batch()
    lines = text_of(
        made, "ip,vec", view="auto", selection=select("xmm0"),
        element_of=lambda b: np.array([2, -1]),
    )
    assert "lanes:f32(by instruction)" in lines[0]
    assert lines[1] == "    xmm0   0.0 1.875 0.0 -0.0"
    assert "lanes:hex(no one element type known)" in lines[2]


def test_names_cannot_touch_the_terminal() -> None:
    hostile = {"comms": ["\x1b[2Jevil\x07"], "symbols": ["a\nb", "\u202e"], "dsos": ["/x\udcff"]}
    lines = text_of(ymm_batch(), "comm,ip,sym,dso", names=hostile)
    assert len(lines) == 2
    assert "\\x1b[2Jevil\\x07" in lines[0]
    assert "a\\x0ab (/x\\xff)" in lines[0]
    assert "\\u202e" in lines[1]


def test_call_chains_stand_below_the_line() -> None:
    made = ymm_batch()
    made.chain = np.array([2**64 - 512, 0x401000, 0x402001, 2**64 - 512, 0x401004], np.uint64)
    made.chain_start = np.array([0, 3, 5])

    def resolve(b):
        n = len(b.chain)
        zeros = np.zeros(n, np.int32)
        return np.full(n, 1, np.int32), np.full(n, 16, np.uint64), zeros, zeros.astype(np.uint64)

    lines = text_of(made, "ip,sym,symoff,chain", resolve_chain=resolve)
    assert lines[1:3] == [
        "\t          401000 dot+0x10 (/usr/bin/app)", "\t          402001 dot+0x10 (/usr/bin/app)",
    ]  # fmt: skip
    assert lines[4:] == ["\t          401004 dot+0x10 (/usr/bin/app)"]


def test_every_field_alone_gives_one_line_a_sample() -> None:
    for field in set(FIELDS) - {"regs", "vec", "chain", "insn"}:
        assert len(text_of(ymm_batch(), field)) == 2, field


def test_registers_are_named_as_people_name_them() -> None:
    assert select("rax", "R8", "egpr", "ssp").gprs == {0, 16, *range(24, 40), 40}
    assert select("xmm").vectors == dict.fromkeys(range(16), 2)
    assert select("xmm0", "zmm0").vectors == {0: 8}
    assert len(select("gpr").gprs) == 24
    for bad in ("zmm32", "k8", "mm0", "r99"):
        with pytest.raises(ValueError, match="no such register"):
            select(bad)
