"""Stops and ring records to records of the file, with a ring written by hand."""

from __future__ import annotations

import struct

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from support import xsave_writer
from support.recorded import event, request

from perfxmm.kernel import attr as attr_codec
from perfxmm.kernel.constants import AttrFlag, PerfType, RecordType, SampleType
from perfxmm.kernel.ptrace import USER_REGS_QWORD
from perfxmm.kernel.registers import CLASSIC_GPR_MASK, EGPR_MASK
from perfxmm.kernel.ring import walk
from perfxmm.perfdata.stopinfo import (
    STATISTICS,
    STATISTICS_FORMAT,
    STATISTICS_MAGIC,
    StopFlag,
)
from perfxmm.sources.base import RecordRequest, RequestedEvent
from perfxmm.sources.limits import Governor, StopLimits
from perfxmm.sources.sigtrap.assembly import _REGS, REGS_WORDS, SampleAssembler
from perfxmm.sources.sigtrap.channel import (
    error_from_json,
    error_to_json,
    request_from_json,
    request_to_json,
)
from perfxmm.sources.sigtrap.events import build_events
from perfxmm.sources.sigtrap.threads import HEAD, TAIL, Thread
from perfxmm.xstate.layout import Layout, Place

LAYOUT = Layout({2: Place(576, 256), 5: Place(832, 64), 6: Place(896, 512), 7: Place(1408, 1024)})
RING = 4096
KERNEL_IDS = (71, 72)


class Bench:
    """An assembler, a thread with a hand-written ring, and a stop at IP 0x1000."""

    def __init__(
        self, *, classes: tuple[str, ...] = ("gpr", "xmm", "ymm"), start: int = 0,
        callchain: bool = False, redact_values: bool = False, hz: int = 1000,
        events: tuple[RequestedEvent, ...] = (), layout: Layout = LAYOUT,
    ) -> None:
        events = events or (event(hz=hz), event("cpu-clock", config=0, hz=hz))
        asked = request("out", "cmd", classes=classes, callchain=callchain, events=events)
        self.events = build_events(asked, 1, [])
        self.written = bytearray()
        self.assembler = SampleAssembler(layout, classes, self.events, self._sink,
                                         redact_values=redact_values)  # fmt: skip
        memory = memoryview(bytearray(4096 + RING))
        self.thread = Thread(8, 7)
        self.thread.ids = {KERNEL_IDS[0]: 0, KERNEL_IDS[1]: 1}
        self.thread.control = memory[:4096].cast("Q")
        self.thread.quads = memory[4096:].cast("Q")
        self.thread.words = np.frombuffer(memory[4096:], np.uint64)
        self.thread.size_bytes = RING
        self.thread.control[HEAD] = self.thread.control[TAIL] = start
        regs = [0x10000 + n for n in range(REGS_WORDS)]
        regs[USER_REGS_QWORD["IP"]] = 0x1000
        regs[USER_REGS_QWORD["CS"]] = 0x33
        image = self.assembler.image_bytes // 8
        words = [0x20000 + n for n in range(image)]
        words[64] = 7  # XSTATE_BV
        self.assembler.scratch[-REGS_WORDS - image :] = regs + words

    def _sink(self, data: memoryview) -> None:
        self.written += data

    def put(self, record: bytes) -> None:
        """What the kernel does: the record, across the ring's end where it must be."""
        head = self.thread.control[HEAD]
        for n in range(len(record) // 8):
            at = (head + 8 * n) % RING // 8
            self.thread.quads[at] = int.from_bytes(record[8 * n : 8 * n + 8], "little")
        self.thread.control[HEAD] = head + len(record)

    def sample(
        self, ip: int, *, time: int = 5, which: int = 0, chain: tuple[int, ...] = ()
    ) -> None:
        body = struct.pack("<QQIIQII", KERNEL_IDS[which], ip, 7, 8, time, 3, 0)
        if self.events[0].opened.has(SampleType.CALLCHAIN):
            body += struct.pack(f"<{len(chain) + 1}Q", len(chain), *chain)
        self.put(struct.pack("<IHH", RecordType.SAMPLE, 2, 8 + len(body)) + body)

    def stop(self, which: int = 0, perf_flags: int = 0, flags: int = 0, keep: bool = True) -> None:
        head = self.thread.control[HEAD]
        self.assembler.sample(self.thread, head, which, perf_flags, flags, keep)

    def records(self) -> list[tuple[int, int, list[int]]]:
        """(type, misc, words behind the header) of everything written."""
        self.assembler.flush()
        found = []
        for offset, size in walk(bytes(self.written)):
            kind, misc, _ = struct.unpack_from("<IHH", self.written, offset)
            words = struct.unpack_from(f"<{size // 8 - 1}Q", self.written, offset + 8)
            found.append((kind, misc, list(words)))
        assert sum(8 + 8 * len(w) for _, _, w in found) == len(self.written)
        return found


GPR_ORDER = ("AX", "BX", "CX", "DX", "SI", "DI", "BP", "SP", "IP", "FLAGS", "CS", "SS",
             "R8", "R9", "R10", "R11", "R12", "R13", "R14", "R15")  # fmt: skip


def gprs() -> list[int]:
    words = {name: 0x10000 + at for name, at in USER_REGS_QWORD.items()}
    words |= {"IP": 0x1000, "CS": 0x33}
    return [words[name] for name in GPR_ORDER]


def ymm() -> list[int]:
    out = []
    for register in range(16):
        low, high = 20 + 2 * register, 72 + 2 * register
        out += [0x20000 + low, 0x20000 + low + 1, 0x20000 + high, 0x20000 + high + 1]
    return out


RAW_HEAD = 20 | 0x31535850 << 32


@pytest.mark.parametrize("start", [0, RING - 8, RING - 24, 5 * RING - 48])
def test_record_layout_in_dialect_m(start: int) -> None:
    bench = Bench(start=start)
    bench.sample(0x1000)
    bench.stop(perf_flags=1, flags=int(StopFlag.ASYNC))
    ((kind, misc, words),) = bench.records()
    assert (kind, misc) == (RecordType.SAMPLE, 2)
    head = [1, 0x1000, 7 | 8 << 32, 5, 3, 1_000_000]  # file id; PERIOD is the tracer's
    raw = [RAW_HEAD, 7, 1 | int(StopFlag.PRESENT | StopFlag.ASYNC) << 32]
    assert words == [*head, *raw, 6, *gprs(), 16, 4, 0, 0, *ymm()]
    assert bench.thread.control[TAIL] == bench.thread.control[HEAD]
    assert bench.assembler.samples == 1


def test_record_layout_in_dialect_l() -> None:
    bench = Bench(classes=("gpr", "xmm"))
    bench.sample(0x1000)
    bench.stop()
    ((_, _, words),) = bench.records()
    xmm = [0x20000 + 20 + n for n in range(32)]
    assert words[9:] == [2, *gprs(), *xmm]


def test_opmask_follows_the_vectors() -> None:
    bench = Bench(classes=("gpr", "xmm", "ymm", "zmm", "opmask"))
    bench.sample(0x1000)
    bench.stop()
    ((_, _, words),) = bench.records()
    assert words[30:34] == [32, 8, 8, 1]
    assert words[-8:] == [0x20000 + 104 + n for n in range(8)]
    assert words[34 + 16 * 8 :][:8] == [0x20000 + 176 + n for n in range(8)]  # zmm16


def test_call_chain_stays_between_period_and_raw() -> None:
    bench = Bench(callchain=True)
    bench.sample(0x1000, chain=(2**64 - 512, 0x1000, 0x2000))
    bench.stop()
    ((_, _, words),) = bench.records()
    assert words[5:11] == [1_000_000, 3, 2**64 - 512, 0x1000, 0x2000, RAW_HEAD]


def test_the_newest_sample_at_the_stop_gets_the_registers() -> None:
    bench = Bench()
    bench.sample(0x900, time=1)
    bench.sample(0x1000, time=2)
    bench.sample(0x900, time=3)
    bench.stop()
    records = bench.records()
    assert [(w[3], w[9]) for _, _, w in records] == [(1, 0), (2, 6), (3, 0)]
    # Nothing of the stop is said of the others.
    assert records[0][2][6:] == [RAW_HEAD, 0, int(StopFlag.PRESENT) << 32, 0]
    assert (bench.assembler.samples, bench.assembler.bare) == (1, 2)


def test_two_events_at_one_instruction_share_the_stop() -> None:
    bench = Bench()
    bench.sample(0x1000, which=1)
    bench.sample(0x1000, which=0)
    bench.stop(which=0)
    assert [(w[0], w[9]) for _, _, w in bench.records()] == [(2, 6), (1, 6)]


def test_stop_without_a_sample() -> None:
    bench = Bench()
    bench.stop()
    ((_, misc, words),) = bench.records()
    assert misc == 2
    assert words[:2] == [1, 0x1000]
    assert words[2] == 7 | 8 << 32
    assert words[8] == int(StopFlag.PRESENT | StopFlag.UNPAIRED) << 32
    assert bench.assembler.unpaired == 1


def test_without_the_period_from_the_ring_it_is_not_known() -> None:
    """A frequency is no period: a stop without a ring sample says 0."""
    bench = Bench(events=(event("cycles", type=PerfType.HARDWARE, config=0, hz=1000),))
    bench.thread.ids = {KERNEL_IDS[0]: 0}
    bench.stop()
    ((_, _, words),) = bench.records()
    assert words[5] == 0
    assert words[8] >> 32 & StopFlag.UNPAIRED
    clock = Bench()
    clock.stop()
    assert clock.records()[0][2][5] == 1_000_000


def test_redaction_of_one_stop_leaves_only_the_stop_information() -> None:
    bench = Bench()
    bench.sample(0x1000)
    bench.stop(keep=False)
    ((_, _, words),) = bench.records()
    assert words[6:] == [RAW_HEAD, 7, int(StopFlag.PRESENT) << 32, 0]


QUIET_NAN, INFINITY, SUBNORMAL = 0x7FF8 << 48, 0xFFF0 << 48, 1 << 63 | 0xFFFFFFFFFFFFF


def test_redacted_values_leave_counts() -> None:
    bench = Bench(redact_values=True, classes=("gpr", "xmm", "ymm", "zmm"))
    image = bench.assembler.scratch[-bench.assembler.image_bytes // 8 :]
    image[20 : 20 + 32] = 0x3FF0 << 48  # xmm: 1.0 in 32 words; as f32 1.875 and 0
    image[72 : 72 + 32] = 0
    image[72:76] = [QUIET_NAN, INFINITY, SUBNORMAL, 0x7FC00001_00000001]
    image[176] = 0xFFFF  # zmm16, in its initial state: not data
    bench.sample(0x900, time=1)
    bench.sample(0x1000, time=2)
    bench.stop()
    bare, told = (words[6:] for _, _, words in bench.records())
    payload = struct.pack("<6Q", *told[:6])
    assert struct.unpack_from("<I", payload) == (44,)
    magic, bv, perf_flags, flags, *counts = struct.unpack(STATISTICS_FORMAT, payload[4:])
    assert (magic, bv, perf_flags, flags) == (STATISTICS_MAGIC, 7, 0, StopFlag.PRESENT)
    assert dict(zip(STATISTICS, counts, strict=True)) == {
        # 0x7FC00001 in the upper half is a large double and a float NaN.
        "f64_nan": 1, "f64_inf": 1, "f64_subnormal": 1, "f64_zero": 28,
        # As floats: 7FF80000, FFF00000, FFFFFFFF and 7FC00001 are NaN, 800FFFFF and 1 subnormal.
        "f32_nan": 4, "f32_inf": 0, "f32_subnormal": 2, "f32_zero": 32 + 28 * 2 + 2,
        "words": 64, "widest_qwords": 4, "registers": 16,
    }  # fmt: skip
    assert told[6:] == [0]
    assert bare == [44 | STATISTICS_MAGIC << 32, 0, int(StopFlag.PRESENT) << 32, 0, 0, 0, 0]


@settings(max_examples=40, deadline=None)
@given(st.lists(st.one_of(st.integers(0, 2**64 - 1), st.sampled_from(
    (0, 1 << 63, QUIET_NAN, INFINITY, SUBNORMAL, 1, 0x7F80000000000000, 0x80000000_7F800001))),
    min_size=64, max_size=64), st.sampled_from((0, 2, 4, 6, 7)))  # fmt: skip
def test_counts_are_numpys_own(words: list[int], xstate_bv: int) -> None:
    bench = Bench(redact_values=True)
    image = bench.assembler.scratch[-bench.assembler.image_bytes // 8 :]
    image[20:52], image[72:104] = words[:32], words[32:]
    image[64] = xstate_bv
    bench.sample(0x1000)
    bench.stop()
    payload = struct.pack("<6Q", *bench.records()[0][2][6:12])
    counts = dict(zip(STATISTICS, struct.unpack(STATISTICS_FORMAT, payload[4:])[4:], strict=True))
    rows = np.zeros((16, 4), np.uint64)
    if xstate_bv & 2:
        rows[:, :2] = np.array(words[:32], np.uint64).reshape(16, 2)
    if xstate_bv & 4:
        rows[:, 2:] = np.array(words[32:], np.uint64).reshape(16, 2)
    seen = np.array(words[: 32 if xstate_bv & 2 else 0] + words[32 if xstate_bv & 4 else 64 :],
                    np.uint64)  # fmt: skip
    for name, dtype in (("f64", np.float64), ("f32", np.float32)):
        lanes = seen.view(dtype)
        tiny = (lanes != 0) & (np.abs(lanes) < np.finfo(dtype).tiny)
        assert counts[f"{name}_nan"] == np.isnan(lanes).sum()
        assert counts[f"{name}_inf"] == np.isinf(lanes).sum()
        assert counts[f"{name}_subnormal"] == tiny.sum()
        assert counts[f"{name}_zero"] == (lanes == 0).sum()
    assert counts["words"] == len(seen)
    assert counts["registers"] == rows.any(axis=1).sum()
    assert counts["widest_qwords"] == (4 if rows[:, 2:].any() else 2 if rows.any() else 0)


def test_apx_registers_follow_the_classic_ones() -> None:
    """R16..R31 out of a written image: no CPU with APX was at hand."""
    places = {**LAYOUT.places, 19: Place(960, 128)}  # where APX takes the room of MPX
    bench = Bench(classes=("gpr", "xmm", "egpr"), layout=Layout(places))
    assert bench.assembler.image_bytes == 960 + 128
    regs = xsave_writer.Registers([[0x0A00 + 8 * r + q for q in range(8)] for r in range(32)])
    image = bytearray(xsave_writer.standard(
        regs, offsets={2: 576, 19: 960}, xcr0=7 | 1 << 19, xstate_bv=7 | 1 << 19))  # fmt: skip
    assert len(image) == 960 + 128
    egpr = [0xE000 + n for n in range(16, 32)]
    image[960:] = struct.pack("<16Q", *egpr)
    bench.assembler.scratch[-len(image) // 8 :] = np.frombuffer(bytes(image), np.uint64)
    bench.sample(0x1000)
    bench.stop()
    ((_, _, words),) = bench.records()
    assert words[7] == 7 | 1 << 19
    xmm = [w for row in regs.vectors[:16] for w in row[:2]]
    assert words[9:] == [6, *gprs(), *egpr, 16, 2, 0, 0, *xmm]
    assert bench.events[0].recorded.sample_regs_user == CLASSIC_GPR_MASK | EGPR_MASK


def test_a_size_limit_is_met_at_the_next_record() -> None:
    bench = Bench(classes=("gpr", "xmm"))
    told: list[int] = []
    bench.assembler.limit(2000, lambda: told.append(len(bench.written)))
    size = 0
    while not told:
        bench.sample(0x1000)
        bench.stop()
        size = size or bench.assembler.pending_bytes
    assert told == [-(-2000 // size) * size]
    bench.sample(0x1000)
    bench.stop()
    assert bench.assembler.pending_bytes == size  # told once, then as before


def test_compat_code() -> None:
    bench = Bench()
    bench.assembler.scratch[_REGS + USER_REGS_QWORD["CS"]] = 0x23
    bench.sample(0x1000)
    bench.stop()
    ((_, _, words),) = bench.records()
    assert words[9] == 5
    assert words[8] >> 32 == int(StopFlag.PRESENT | StopFlag.COMPAT)


def trailer(which: int, time: int = 9) -> bytes:
    return struct.pack("<IIQIIQ", 7, 8, time, 0, 0, KERNEL_IDS[which])


def test_other_records_get_the_files_ids() -> None:
    bench = Bench()
    bench.put(struct.pack("<IHHQQ", RecordType.LOST, 0, 56, KERNEL_IDS[1], 44) + trailer(1))
    bench.put(struct.pack("<IHHQQQ", RecordType.THROTTLE, 0, 64, 5, 71, 71) + trailer(0))
    bench.put(struct.pack("<IHHII8s", RecordType.COMM, 0, 56, 7, 8, b"name") + bytes(0)
              + trailer(0) + bytes(0))  # fmt: skip
    bench.sample(0x1000)
    bench.stop()
    kinds = [(k, w) for k, _, w in bench.records()]
    assert [k for k, _ in kinds] == [
        RecordType.LOST, RecordType.THROTTLE, RecordType.COMM, RecordType.SAMPLE,
    ]  # fmt: skip
    assert kinds[0][1][:2] == [2, 44]
    assert kinds[1][1][1:3] == [1, 1]
    assert [w[-1] for _, w in kinds[:3]] == [2, 1, 1]
    assert (bench.assembler.lost, bench.assembler.throttled) == (44, 1)


def test_drain_leaves_a_fresh_sample_for_its_stop() -> None:
    bench = Bench()
    bench.put(struct.pack("<IHHII8s", RecordType.COMM, 0, 56, 7, 8, b"name") + trailer(0))
    bench.sample(0x1000, time=1_000_000_000)
    bench.assembler.drain(bench.thread, now_ns=1_100_000_000)
    assert bench.thread.held
    assert [k for k, _, _ in bench.records()] == [RecordType.COMM]
    bench.stop()
    assert bench.records()[-1][2][9] == 6
    bench.sample(0x1000, time=1_000_000_000)
    bench.assembler.drain(bench.thread, now_ns=2_000_000_000)
    assert not bench.thread.held
    assert bench.records()[-1][2][9] == 0


def test_frequency_events_keep_the_kernels_period() -> None:
    cycles = event("cycles", type=PerfType.HARDWARE, config=0, hz=50)
    (opened,) = build_events(RecordRequest((cycles,), ("gpr",), "o"), 1, [])
    assert opened.opened.has(SampleType.PERIOD)
    assert opened.recorded.has(SampleType.PERIOD)
    (clock,) = build_events(RecordRequest((event(hz=50),), ("gpr",), "o"), 1, [])
    assert not clock.opened.has(SampleType.PERIOD)
    assert clock.recorded.has(SampleType.PERIOD)


def test_opened_attr() -> None:
    asked = request("o", "c", classes=("gpr", "xmm", "ymm"), events=(event(hz=1000),))
    (traced,) = build_events(asked, 0xABC, [])
    opened = attr_codec.decode(bytes(traced.opened_bytes(enabled=False, period=5)))
    assert opened.sig_data == 0xABC << 32
    assert opened.sample_period == 5
    for flag in (AttrFlag.SIGTRAP, AttrFlag.REMOVE_ON_EXEC, AttrFlag.EXCLUDE_KERNEL,
                 AttrFlag.DISABLED, AttrFlag.MMAP2, AttrFlag.BUILD_ID):  # fmt: skip
        assert opened.flag(flag)
    assert not opened.flag(AttrFlag.INHERIT)
    assert traced.recorded.simd.vec_qwords == 4
    assert traced.recorded.simd.vec_user == 0xFFFF
    assert traced.recorded.sig_data == 0


def test_request_survives_the_channel() -> None:
    asked = request("out", "a", "b", hz=99, pids=(1, 2), duration_s=1.5, options={"x": 1})
    back = request_from_json(request_to_json(asked))
    assert request_to_json(back) == request_to_json(asked)
    assert back.pids == (1, 2)
    assert back.events[0].attr.sample_period == 99


def test_errors_survive_the_channel() -> None:
    from perfxmm.errors import NotSupported, PermissionDenied, TargetError

    for error in (
        PermissionDenied("no", call="ptrace", errno=1, why="w", next_step="n"),
        TargetError("gone", where="pid 1"), NotSupported("never", why="so"),
    ):  # fmt: skip
        back = error_from_json(error_to_json(error))
        assert type(back) is type(error)
        assert str(back) == str(error)


def test_governor_stretches_fast_and_relaxes_slowly() -> None:
    governor = Governor(10.0)
    assert not governor.feed(0.09)
    assert governor.feed(0.2)
    assert governor.factor == 2.0
    assert not governor.feed(0.08)
    assert governor.feed(0.05)
    assert 1.7 < governor.factor < 1.75
    for _ in range(10):
        governor.feed(0.0)
    assert governor.factor == 1.0
    assert governor.back_offs == 1
    assert not Governor().feed(0.85)
    assert Governor().feed(0.95)


def test_limits_name_the_first_one_reached() -> None:
    limits = StopLimits(duration_s=2, max_samples=10, max_size_bytes=100)
    assert limits.reached(1.9, 9, 99) == ""
    assert limits.reached(2.0, 10, 100) == "duration"
    assert limits.reached(1.0, 10, 100) == "max-samples"
    assert limits.reached(1.0, 9, 100) == "max-size"
    assert StopLimits().reached(1e9, 10**9, 10**12) == ""
