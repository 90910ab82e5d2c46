"""The room's comparison must be able to fail: recordings with one wrong word, a stranger's
constants, the kernel's marker, a moved shadow stack."""

from __future__ import annotations

import json
import struct
from pathlib import Path

import numpy as np
import pytest
from room import figures, truth
from room.emulators import Ended
from room.session import Outcome
from support import snapshot_writer as sw
from support.xsave_writer import Registers

TID, FAMILY = 101, 3
BEGIN, END, HANDLER = 0x401000, 0x401100, 0x402000
PLACES = [[BEGIN, END, FAMILY, 0], [HANDLER, HANDLER + 0x100, FAMILY | 0x80, 0]]
WIDE = 0xE6


def line(**changes: object) -> bytes:
    told = {"tid": TID, "pid": 100, "family": FAMILY, "way": "spin", "wide": 1, "failures": 0,
            "regions": PLACES, **changes}  # fmt: skip
    return json.dumps(told).encode() + b"\n"


def held(family: int = FAMILY) -> Registers:
    """As guest/holder.c fills them, by its formula once more."""
    def word(number: int, qword: int) -> int:
        return family << 56 | 0xA5 << 48 | number << 32 | qword << 16 | 0x5A5A

    return Registers(
        [[word(number, qword) for qword in range(8)] for number in range(32)],
        [word(0x40 + number, 0) for number in range(8)],
    )


def tally(tmp_path: Path, *snapshots: sw.Snapshot, lines: bytes = b"") -> truth.Tally:
    path = tmp_path / "perf.data"
    path.write_bytes(sw.file([sw.sample(i, one) for i, one in enumerate(snapshots)]))
    return truth.check(path, truth.read_holders(lines or line()))


def one(regs: Registers | None = None, **changes: object) -> sw.Snapshot:
    return sw.snapshot(regs or held(), saved=WIDE, **{"ip": BEGIN + 4, **changes})


def test_the_constants_are_those_of_the_guest() -> None:
    vectors, masks = truth.constants(FAMILY)
    assert vectors.tolist() == held().vectors
    assert masks.tolist() == held().opmask
    assert np.unique(truth.families(vectors)).tolist() == [FAMILY]
    assert truth.families(np.array([0, 1, truth.MARKER], np.uint64)).tolist() == [0, 0, 0]


def test_true_snapshots_are_compared_in_all_classes(tmp_path: Path) -> None:
    found = tally(tmp_path, one(), one(held(FAMILY | 0x80), ip=HANDLER))
    assert found.compared == {"xmm": 2, "ymm": 2, "zmm": 2, "opmask": 2}
    assert not any(found.wrong.values())
    assert (found.strangers, found.marked, found.damage, found.snapshots) == (0, 0, 0, 2)
    assert found.by_way == {"spin": 2}


@pytest.mark.parametrize(("number", "qword", "name"), [
    (0, 0, "xmm"), (15, 3, "ymm"), (7, 7, "zmm"), (16, 0, "xmm"), (31, 7, "zmm"),
])  # fmt: skip
def test_one_wrong_word_is_found(tmp_path: Path, number: int, qword: int, name: str) -> None:
    regs = held()
    regs.vectors[number][qword] ^= 1
    found = tally(tmp_path, one(), one(regs))
    assert {key: count for key, count in found.wrong.items() if count} == {name: 1}
    assert found.compared["xmm"] == 2
    assert "not what the program held" in found.examples[0]


def test_a_wrong_opmask_is_found(tmp_path: Path) -> None:
    regs = held()
    regs.opmask[7] = 0
    assert tally(tmp_path, one(regs)).wrong["opmask"] == 1


def test_outside_the_regions_only_strangers_count(tmp_path: Path) -> None:
    regs = held()
    regs.vectors[3] = [5] * 8
    found = tally(tmp_path, one(regs, ip=END))
    assert found.compared["xmm"] == 0
    assert (found.snapshots, found.strangers) == (1, 0)


def test_another_programs_constants_are_found_anywhere(tmp_path: Path) -> None:
    regs = held()
    regs.vectors[31][7] = held(9).vectors[2][1]
    found = tally(tmp_path, one(regs, ip=END), one(held(), tid=555), one())
    assert (found.strangers, found.strangers_believed) == (2, 2)
    # The recorder copies samples through registers of its own.
    recording = tmp_path / "perf.data"
    holders = truth.read_holders(line(tid=7))
    assert truth.check(recording, holders).strangers == 3
    assert truth.check(recording, holders, recorder=100).strangers == 0


def test_a_kernel_hit_with_the_marker_is_seen_but_not_believed(tmp_path: Path) -> None:
    regs = held()
    regs.vectors[5][2] = int(truth.MARKER)
    kernel = one(regs, ip=0xFFFFFFFF81000000, flags=16 | 2 | 4 | 8 | 2 << 8, misc=1)
    found = tally(tmp_path, kernel, one())
    assert (found.marked, found.marked_believed, found.marker_bytes) == (1, 0, 1)
    believed = tally(tmp_path, one(regs))
    assert (believed.marked, believed.marked_believed, believed.wrong["ymm"]) == (1, 1, 1)


def test_components_left_initial_are_zero(tmp_path: Path) -> None:
    places = [[BEGIN, END, FAMILY, truth.UPPER]]
    regs = held()
    for number in range(16):
        regs.vectors[number][2:] = [0] * 6
    image = one(regs, bv=WIDE & ~0x44)
    found = tally(tmp_path, image, lines=line(regions=places, upkeep=1))
    assert found.compared == {"xmm": 1, "ymm": 1, "zmm": 1, "opmask": 1}
    assert not any(found.wrong.values())
    initial = one(Registers(), bv=0)
    found = tally(tmp_path, initial, lines=line(regions=[[BEGIN, END, FAMILY, truth.INIT]]))
    assert found.compared["xmm"] == 1
    assert not any(found.wrong.values())
    assert tally(tmp_path, initial).wrong["xmm"] == 1


def test_a_program_that_held_more_than_was_recorded_is_not_matched(tmp_path: Path) -> None:
    narrow = sw.snapshot(held(), saved=0x6, ip=BEGIN)
    found = tally(tmp_path, narrow)
    assert found.compared["zmm"] == found.compared["opmask"] == 0
    assert found.not_believed["zmm"] == found.not_believed["opmask"] == 1
    # XMM16 to XMM31 were held, and nothing of them was recorded: their class is not proved.
    assert found.wrong["xmm"] == 1


def outcome(tmp_path: Path, **files: bytes) -> Outcome:
    for name, body in files.items():
        (tmp_path / name.replace("_", ".")).write_bytes(body)
    state = (b"== /sys/kernel/xsaves_nmi/instruction\nxsaves\n"
             b"== /sys/kernel/xsaves_nmi/rfbm\n0xe6\n"
             b"== /sys/kernel/xsaves_nmi/stats/dropped_kernel\n7\n"
             b"== /sys/kernel/xsaves_nmi/stats/written\n2\n"
             b"== /sys/kernel/xsaves_nmi/stats/cycles\n50\n"
             b"== /sys/kernel/xsaves_nmi/stats/save_cycles\n10\n"
             b"== /sys/kernel/xsaves_nmi/stats/worst_cycles\n40\n"
             b"== /sys/module/marker/parameters/reads\n9\n")
    names = {name.replace("_", "."): body for name, body in files.items()}
    return Outcome("bochs", "3.0", "model", "6.1", "6.1.0-57", "xsaves_nmi-ab", tmp_path,
                   {"state-after": state, "holders.json": line(), **names}, (), (),
                   Ended(12.0, False, ""))


def test_a_cell_adds_boots_up(tmp_path: Path) -> None:
    recording = sw.file([sw.sample(0, one()), sw.sample(1, one())])
    cell = figures.Cell("bochs", "3.0", "model", "6.1")
    for _ in range(2):
        cell.add(outcome(tmp_path, perf_data=recording))
    assert cell.snapshots == 4
    assert cell.failures() == []
    assert cell.per_hit() == (5.0, 25.0)
    told = cell.to_dict()
    assert told["guarded"]["dropped_kernel"] == 14
    assert told["guarded"]["marker_reads"] == 18
    assert told["worst_handler_cycles"] == 40
    assert told["module"] == {"instruction": "xsaves", "rfbm": "0xe6"}
    assert figures.lines(cell)[-1].startswith("  cycles a hit: 5 the instruction, 25 the handler")


def test_a_cell_says_what_is_not_as_it_must_be(tmp_path: Path) -> None:
    regs = held()
    regs.vectors[1][0] = int(truth.MARKER)
    cell = figures.Cell("bochs", "3.0", "model", "6.1")
    cell.add(outcome(tmp_path, perf_data=sw.file([sw.sample(0, one(regs))])))
    assert cell.failures() == [
        "1 registers believed and wrong: {'xmm': 1}",
        "2 kernel markers in a recording made by default",
    ]


def test_a_trap_that_was_not_set_is_a_failure(tmp_path: Path) -> None:
    cell = figures.Cell("bochs", "3.0", "model", "6.1")
    boot = outcome(tmp_path, perf_data=sw.file([sw.sample(0, one())]))
    boot.files["state-after"] = boot.files["state-after"].replace(b"kernel\n7", b"kernel\n0")
    cell.add(boot)
    assert cell.failures() == ["the guard dropped nothing: the trap was not set"]


def test_the_size_of_a_record_is_the_commonest_distance(tmp_path: Path) -> None:
    samples = [sw.sample(i, one()) for i in range(4)]
    path = tmp_path / "perf.data"
    path.write_bytes(sw.file(samples))
    (size,) = {struct.unpack_from("<H", sample, 6)[0] for sample in samples}
    assert figures.record_bytes(path) == size
