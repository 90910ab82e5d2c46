"""Register values that must not reach a file: dropped as sets, everything else byte by byte."""

from __future__ import annotations

import struct
from dataclasses import replace
from pathlib import Path

import pytest
from support.kernel_records import Made, kernel_records, kind_of, misc_of

from perfxmm.kernel.attr import EventAttr
from perfxmm.kernel.constants import AttrFlag, SampleType
from perfxmm.kernel.dialects import O1, L, M, SimdRequest
from perfxmm.kernel.layout import FieldKind, plan_layout
from perfxmm.kernel.ring import walk
from perfxmm.sources.scrub import Scrubber, locate_sets, needs_scrub

USER, GUESTS = 2, (3, 4, 5)


def words_of(record: bytes) -> memoryview:
    return memoryview(record).cast("Q")


def abis(record: bytes, attr: EventAttr) -> dict[str, int]:
    words = words_of(record)
    return {p.name: words[p.abi_word] for p in locate_sets(words, plan_layout(attr))}


def rest(record: bytes, attr: EventAttr) -> list[int]:
    """A sample's words without its header and its register sets."""
    words = words_of(record).tolist()
    for place in reversed(list(locate_sets(words_of(record), plan_layout(attr)))):
        del words[place.abi_word : place.end_word]
    return words[1:]


def split(data: bytes | memoryview) -> list[bytes]:
    raw = bytes(data)
    return [raw[at : at + size] for at, size in walk(raw)]


# recording | samples by cpumode that lose a set: (only intr, both)
WITHHELD = [
    ("kernel-syscalls-kernel-allowed", 16, 0),
    ("kernel-kernel-fpu-section", 39, 0),
    ("kernel-perf-record-ymm-kernel", 29, 0),
    ("kernel-cpu-wide-idle", 6, 0),
    ("kernel-zmm-opmask-both-user", 0, 0),
    ("f-mixed-modes", None, None),
]


@pytest.mark.parametrize(("name", "intr_only", "both"), WITHHELD)
def test_what_did_not_hit_user_mode_loses_its_interrupt_set(
    shared_data: Path, name: str, intr_only: int | None, both: int | None
) -> None:
    made = kernel_records(shared_data / "simd" / f"{name}.data")
    scrub = Scrubber([(made.attr, (made.identifier,))])
    after = split(scrub(made.data))
    assert len(after) == len(made.records)
    lost = [0, 0]
    for old, new in zip(made.records, after, strict=True):
        if kind_of(old) != 9 or misc_of(old) & 7 == USER:
            assert new == old
            continue
        guest = misc_of(old) & 7 in GUESTS
        before, now = abis(old, made.attr), abis(new, made.attr)
        assert now["intr"] == 0
        assert now.get("user") == (0 if guest and "user" in before else before.get("user"))
        assert rest(new, made.attr) == rest(old, made.attr)
        assert (kind_of(new), misc_of(new)) == (kind_of(old), misc_of(old))
        lost[guest] += new != old
    assert scrub.dropped == 0
    assert scrub.scrubbed == sum(lost)
    if intr_only is not None:
        assert lost == [intr_only, both]
    else:
        # 36 samples of guests and the hypervisor, 24 of the kernel, less those without registers.
        assert 0 < lost[0] <= 24
        assert 0 < lost[1] <= 36


def test_the_kernels_values_are_gone(shared_data: Path) -> None:
    """Inside kernel_fpu_begin the kernel held all ones in zmm0 and zmm1; the program never did."""
    made = kernel_records(shared_data / "simd" / "kernel-kernel-fpu-section.data")
    kernel_zmm = b"\xff" * 128
    assert sum(kernel_zmm in sample for sample in made.samples) > 0
    clean = bytes(Scrubber([(made.attr, (made.identifier,))])(made.data))
    assert kernel_zmm not in clean
    # The program's own values are still there, in the user set.
    assert struct.pack("<Q", 0x5A01000201ABCDEF) in clean


@pytest.mark.parametrize("name", ["kernel-zmm-opmask-both-user", "g-two-events", "f-mixed-modes"])
def test_redaction_takes_every_set(shared_data: Path, name: str) -> None:
    made = kernel_records(shared_data / "simd" / f"{name}.data")
    events: list[tuple[EventAttr, tuple[int, ...]]] = [(made.attr, (made.identifier,))]
    made_of = {made.identifier: made.attr}
    if name == "g-two-events":
        events, made_of = two_events(shared_data)
    scrub = Scrubber(events, everything=True)
    after = split(scrub(made.data))
    for old, new in zip(made.records, after, strict=True):
        if kind_of(old) == 9:
            attr = made_of[words_of(old)[1]] if len(made_of) > 1 else made.attr
            assert set(abis(new, attr).values()) == {0}
            assert rest(new, attr) == rest(old, attr)
        else:
            assert new == old
    assert scrub.dropped == 0


def two_events(
    shared_data: Path,
) -> tuple[list[tuple[EventAttr, tuple[int, ...]]], dict[int, EventAttr]]:
    from perfxmm.kernel import attr as attrs

    raw = (shared_data / "simd" / "g-two-events.data").read_bytes()
    entry, table, size = struct.unpack_from("<QQQ", raw, 16)
    events = []
    for at in range(table, table + size, entry):
        attr = attrs.decode(raw[at : at + entry - 16])
        where, length = struct.unpack_from("<QQ", raw, at + entry - 16)
        events.append((attr, struct.unpack_from(f"<{length // 8}Q", raw, where)))
    return events, {identifier: attr for attr, ids in events for identifier in ids}


def test_untouched_data_is_the_very_same_object(shared_data: Path) -> None:
    made = kernel_records(shared_data / "simd" / "kernel-zmm-opmask-both-user.data")
    data = made.data
    assert Scrubber([(made.attr, (made.identifier,))])(data) is data


def test_a_sample_that_cannot_be_taken_apart_is_left_out(shared_data: Path) -> None:
    made = kernel_records(shared_data / "simd" / "kernel-kernel-fpu-section.data")
    sample = made.samples[0]
    cut = sample[:200]
    broken = struct.pack("<IHH", 9, 1, len(cut)) + cut[8:]
    scrub = Scrubber([(made.attr, (made.identifier,))])
    assert split(scrub(broken + made.records[0])) == [made.records[0]]
    assert (scrub.dropped, scrub.scrubbed) == (1, 0)


def test_truncation_at_every_word_never_lets_a_set_through(shared_data: Path) -> None:
    made = kernel_records(shared_data / "simd" / "kernel-syscalls-skid-exclude-kernel.data")
    sample = next(s for s in kernel_side(made))
    whole = [p.name for p in locate_sets(words_of(sample), plan_layout(made.attr))]
    assert whole == ["user", "intr"]
    for size in range(16, len(sample), 8):
        broken = struct.pack("<IHH", 9, 1, size) + sample[8:size]
        scrub = Scrubber([(made.attr, (made.identifier,))], everything=True)
        assert bytes(scrub(broken)) == b""
        assert scrub.dropped == 1


def kernel_side(made: Made) -> list[bytes]:
    return [s for s in made.samples if misc_of(s) & 7 == 1]


def test_an_unknown_event_is_left_out() -> None:
    attr = EventAttr(
        sample_type=SampleType.IDENTIFIER | SampleType.REGS_INTR, sample_regs_intr=1
    )  # fmt: skip
    sample = struct.pack("<IHHQQQ", 9, 1, 32, 99, 2, 7)
    scrub = Scrubber([(attr, (1,)), (attr, (2,))])
    assert bytes(scrub(sample)) == b""
    known = struct.pack("<IHHQQQ", 9, 1, 32, 2, 2, 7)
    assert bytes(scrub(known)) == struct.pack("<IHHQQ", 9, 1, 24, 2, 0)


APART = AttrFlag.EXCLUDE_KERNEL | AttrFlag.EXCLUDE_GUEST
NEEDS = [
    (EventAttr(dialect=M, flags=APART), False),
    (EventAttr(dialect=M, flags=AttrFlag.EXCLUDE_KERNEL), True),
    (EventAttr(dialect=M, flags=AttrFlag.EXCLUDE_GUEST), True),
    (EventAttr(dialect=O1, flags=APART), True),
    (EventAttr(dialect=L, flags=APART), True),
]


@pytest.mark.parametrize(("attr", "expected"), NEEDS)
def test_when_samples_are_looked_at(attr: EventAttr, expected: bool) -> None:
    assert needs_scrub(replace(attr, simd=SimdRequest(1))) is expected


def test_every_kind_of_field_is_stepped_over() -> None:
    kinds = (
        SampleType.IDENTIFIER | SampleType.CALLCHAIN | SampleType.RAW | SampleType.BRANCH_STACK
        | SampleType.REGS_USER | SampleType.STACK_USER | SampleType.WEIGHT | SampleType.REGS_INTR
        | SampleType.AUX
    )  # fmt: skip
    attr = EventAttr(sample_type=int(kinds), sample_regs_user=3, sample_regs_intr=1)
    plan = plan_layout(attr)
    assert {f.kind for f in plan.following} == set(FieldKind)
    body = struct.pack("<QQQQ", 5, 2, 0xAA, 0xBB)  # id, call chain of two
    body += struct.pack("<I", 12) + b"r" * 12  # raw
    body += struct.pack("<QQQQ", 1, 0xC0, 0xC1, 0xC2)  # one branch
    body += struct.pack("<QQQ", 2, 0x11, 0x22)  # user
    body += struct.pack("<Q16sQ", 16, b"s" * 16, 16)  # stack
    body += struct.pack("<Q", 0x99)  # weight
    body += struct.pack("<QQ", 2, 0x33)  # intr
    body += struct.pack("<Q8s", 5, b"aux")
    sample = struct.pack("<IHH", 9, 1, 8 + len(body)) + body
    scrub = Scrubber([(attr, (5,))])
    gone = struct.pack("<QQ", 2, 0x33)
    expected = body.replace(struct.pack("<Q", 0x99) + gone, struct.pack("<QQ", 0x99, 0))
    assert bytes(scrub(sample)) == struct.pack("<IHH", 9, 1, 8 + len(expected)) + expected
    both = Scrubber([(attr, (5,))], everything=True)
    expected = expected.replace(struct.pack("<QQQ", 2, 0x11, 0x22), bytes(8))
    assert bytes(both(sample)) == struct.pack("<IHH", 9, 1, 8 + len(expected)) + expected
