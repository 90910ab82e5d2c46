"""Side-band in bounded memory: what is forgotten is unknown, and never something else."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from perfxmm.program.history import MOST_PENDING, History
from perfxmm.program.places import Places
from perfxmm.program.spaces import MOST_ENTRIES, NOT_MAPPED, Change, Pieces, SpaceLog
from perfxmm.program.timeline import CPUMODE_USER, Timeline

NOWHERE = Places(symfs=Path("/nowhere"))


def names(timeline: Timeline, time_ns: int, pids: list[int], pages: list[int]) -> list[Any]:
    """(comm, dso, offset) per pid and page, None for what is unknown."""
    asked = [(pid, page) for pid in pids for page in pages]
    found = timeline.resolve(
        np.full(len(asked), time_ns, np.uint64), np.array([a[0] for a in asked], np.int32),
        np.array([a[0] for a in asked], np.int32),
        np.array([a[1] << 12 for a in asked], np.uint64),
        np.full(len(asked), CPUMODE_USER, np.uint8),
    )
    return [
        (timeline.comms[c] if c >= 0 else None,
         (timeline.dsos[d].path, o) if d >= 0 else None)
        for c, d, o in zip(
            found.comm.tolist(), found.dso.tolist(), found.offset.tolist(), strict=True)
    ]


KIND = st.sampled_from(["mmap", "mmap", "mmap", "exec", "comm", "fork", "exit"])
STEP = st.tuples(KIND, st.integers(1, 4), st.integers(1, 4), st.integers(1, 6), st.integers(0, 3))


def call(timeline: Timeline, time_ns: int, step: tuple[str, int, int, int, int]) -> None:
    what, pid, other, page, which = step
    if what == "mmap":
        timeline.mmap(time_ns, pid, pid, page << 12, (1 + which % 2) << 12, 0, f"/lib{which}")
    elif what == "exec":
        timeline.comm(time_ns, pid, pid, f"run{which}", True)
    elif what == "comm":
        timeline.comm(time_ns, pid, pid, f"name{which}", False)
    elif what == "exit":
        timeline.exit(time_ns, pid, pid)
    elif pid != other:
        timeline.fork(time_ns, pid, other, pid, other)


@settings(max_examples=25, deadline=None)
@given(
    st.lists(STEP, min_size=1, max_size=45), st.integers(0, 3),
    st.lists(st.integers(0, 9), min_size=10, max_size=10),
)
def test_a_short_memory_knows_less_and_nothing_else(
    steps: list[tuple[str, int, int, int, int]], kept: int, ages: list[int],
) -> None:
    short, whole = Timeline(NOWHERE, kept_calls=kept), Timeline(NOWHERE)
    pids, pages = [1, 2, 3, 4], list(range(8))
    dead: set[int] = set()
    for number, step in enumerate(steps):
        time_ns = 10 * (number + 1)
        if step[0] == "fork" and (step[2] in dead or step[1] == step[2]):
            continue
        # A number that only maps something after its end has lost its birth, and its name.
        if step[0] == "exit":
            dead.add(step[1])
        elif step[0] != "mmap":
            dead.discard(step[1])
        call(short, time_ns, step)
        call(whole, time_ns, step)
        if number % 3 == 2:
            # Samples as a recording has them: now, and some that are a little late.
            alive = [pid for pid in pids if pid not in dead]
            assert names(short, time_ns, alive, pages) == names(whole, time_ns, alive, pages)
            older = max(1, time_ns - 10 * ages[number % 10])
            for ours, all_of_it in zip(
                names(short, older, pids, pages), names(whole, older, pids, pages), strict=True,
            ):
                assert ours[0] in (None, all_of_it[0])
                assert ours[1] in (None, all_of_it[1])
    assert not short.late


@settings(max_examples=20, deadline=None)
@given(st.lists(st.tuples(STEP, st.integers(0, 4)), min_size=1, max_size=80))
def test_late_side_band_within_reach_is_put_where_it_belongs(
    steps: list[tuple[tuple[str, int, int, int, int], int]],
) -> None:
    timeline, sorted_one = Timeline(NOWHERE, kept_calls=40), Timeline(NOWHERE)
    times = [10 * (number + 5) - 10 * late for number, (_, late) in enumerate(steps)]
    pids, pages = [1, 2, 3, 4], list(range(8))
    for number, ((step, _), time_ns) in enumerate(zip(steps, times, strict=True)):
        call(timeline, time_ns, step)
        if number % 7 == 6:
            names(timeline, time_ns, pids, pages)
    for time_ns, (step, _) in sorted(
        zip(times, steps, strict=True), key=lambda entry: entry[0],
    ):
        call(sorted_one, time_ns, step)
    last = max(times)
    assert names(timeline, last, pids, pages) == names(sorted_one, last, pids, pages)


def repeat(timeline: Timeline, rounds: int, first: int = 0) -> None:
    """The same processes over and over, each round a second later."""
    for number in range(first, first + rounds):
        base = (number + 1) * 1_000_000_000
        for pid in range(2, 12):
            timeline.fork(base + pid, pid, 1, pid, 1)
            timeline.comm(base + pid + 20, pid, pid, f"app{pid}", True)
            for page in range(1, 6):
                timeline.mmap(base + pid + 40, pid, pid, page << 12, 1 << 12, 0, f"/lib{page}")
            timeline.exit(base + pid + 500, pid, pid)
        assert names(timeline, base + 100, [2, 11], [1, 5]) == [
            (f"app{pid}", (f"/lib{page}", 0)) for pid in (2, 11) for page in (1, 5)
        ]


def held(timeline: Timeline) -> int:
    """Objects that grow with side-band."""
    history = timeline._history
    return (
        len(history._applied) + len(history._pending) + len(timeline._map_start)
        + sum(len(log) for log in history._logs.spaces.values())
        + sum(len(entries) for entries in history._logs.names.values())
        + sum(len(p.pieces.rows) for p in history._now.processes.values())
        + sum(len(p.pieces.rows) for p in history._base.processes.values())
    )


def test_a_long_recording_holds_no_more_than_a_short_one() -> None:
    timeline = Timeline(NOWHERE, kept_calls=256)
    repeat(timeline, 60)
    before = held(timeline)
    repeat(timeline, 120, first=60)
    assert timeline.forgot
    assert held(timeline) <= before + 200
    assert len(timeline._map_start) == 5


def test_side_band_alone_is_bounded_too() -> None:
    history = History(kept_calls=100)
    for number in range(1, 4 * MOST_PENDING):
        history.mmap(number, 7, 7, (number % 50) << 12, (number % 50 + 1) << 12, number % 3)
    assert len(history._pending) < MOST_PENDING
    assert len(history._applied) <= MOST_PENDING + 200
    assert history.forgot


def test_what_is_said_again_costs_nothing() -> None:
    pieces = Pieces()
    assert pieces.map(1, 10, 20, 5)
    assert not pieces.map(2, 10, 20, 5)
    assert pieces.map(3, 10, 20, 6)
    assert not pieces.map(4, 30, 30, 6)
    assert [tuple(piece) for piece in pieces.rows] == [(10, 20, 6, 3)]


def test_records_that_come_too_late_are_counted_and_left_out() -> None:
    timeline = Timeline(NOWHERE, kept_calls=4)
    for number in range(1, 40):
        timeline.mmap(100 * number, 7, 7, 1 << 12, 1 << 12, 0, f"/lib{number % 2}")
        if number % 2:
            names(timeline, 100 * number, [7], [1])
    assert timeline.late == 0
    timeline.mmap(150, 7, 7, 1 << 12, 1 << 12, 0, "/other")
    assert names(timeline, 4000, [7], [1]) == [(None, ("/lib1", 0))]
    assert timeline.late == 1


def test_a_second_pass_starts_anew() -> None:
    timeline = Timeline(NOWHERE, kept_calls=64)
    repeat(timeline, 20)
    assert timeline.forgot
    timeline.rewind()
    assert not timeline.forgot
    repeat(timeline, 20)


def test_side_band_without_times_holds_from_where_it_stands() -> None:
    timeline = Timeline(NOWHERE)
    timeline.fork(0, 7, 1, 7, 1)
    timeline.mmap(0, 7, 7, 1 << 12, 1 << 12, 0, "/early")
    assert names(timeline, 500, [7], [1]) == [(None, ("/early", 0))]
    timeline.mmap(0, 7, 7, 1 << 12, 1 << 12, 0, "/late")
    assert names(timeline, 600, [7], [1]) == [(None, ("/late", 0))]
    assert names(timeline, 499, [7], [1]) == [(None, ("/early", 0))]


def test_mappings_that_overlap_without_end_cost_a_bounded_index() -> None:
    log = SpaceLog()
    count = 3000
    for number in range(count):
        log.add(Change(number + 1, number + 1, 3 * count - number, number))
    found = log.lookup(
        np.array([count + 1, count + 1, 1], np.uint64), np.array([count, 1, 1], np.uint64))
    # The oldest are given up: 3000 nested mappings would be 9 million entries.
    assert found.tolist() == [count - 1, NOT_MAPPED, NOT_MAPPED]
    assert log._index is not None
    assert len(log._index.keys) <= MOST_ENTRIES
