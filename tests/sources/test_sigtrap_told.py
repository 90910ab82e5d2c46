"""What source sigtrap says of requests that it cannot follow, or that come to nothing."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from support.recorded import event, load, request
from support.workloads import workload

from perfxmm.errors import NotSupported
from perfxmm.kernel.constants import AttrFlag, PerfType
from perfxmm.sources.sigtrap import SigtrapSource
from perfxmm.sources.sigtrap.session import ring_pages

SOURCE = SigtrapSource()
KERNEL_ONLY = int(AttrFlag.EXCLUDE_USER)


@pytest.mark.parametrize(
    ("name", "attr", "why"),
    [("task-clock:k", {"flags": KERNEL_ONLY}, "asks for the kernel alone"),
     ("cycles:k", {"type": PerfType.HARDWARE, "config": 0, "flags": KERNEL_ONLY},
      "asks for the kernel alone"),
     ("context-switches", {"config": 3}, "happens in the kernel"),
     ("cpu-migrations", {"config": 4}, "happens in the kernel"),
     ("bpf-output", {"config": 10}, "happens in the kernel"),
     ("cgroup-switches", {"config": 11}, "happens in the kernel")],
)  # fmt: skip
def test_kernel_events_are_refused(
    tmp_path: Path, name: str, attr: dict[str, Any], why: str
) -> None:
    asked = request(tmp_path / "a", "true", events=(event(), event(name, **attr)))
    assert SOURCE.why_not(asked) == f"sigtrap samples user mode only, and {name} {why}"
    with pytest.raises(NotSupported, match=why):
        SOURCE.record(asked)
    assert not (tmp_path / "a").exists()


def test_page_faults_and_tracepoints_are_not_refused() -> None:
    trace = event("sched:sched_switch:k", type=PerfType.TRACEPOINT, config=1, flags=KERNEL_ONLY)
    for served in (event("page-faults", config=2), trace):
        assert SOURCE.why_not(request("a", "true", events=(served,))) is None


def test_precise_clock(tmp_path: Path) -> None:
    asked = request(tmp_path / "a", workload("family.c"), "spin", "0.05",
                    events=(event("task-clock:pp", hz=997, precise_ip=2),))  # fmt: skip
    result = SOURCE.record(asked)
    assert result.warnings == [
        "task-clock:pp: modifier p means nothing for an event that is not a PMU's"
    ]
    assert load(tmp_path / "a").reader.events[0].attr.precise_ip == 0


@pytest.mark.parametrize(
    ("command", "more", "why"),
    [(("sleep", "0.1"), {"hz": 50}, "the target slept, or ran for less than one period (20 ms)"),
     (("sleep", "0.1"), {"delay_s": 5}, "it ended before the delay (-D) was over"),
     (("sleep", "0.1"), {"events": (event("alignment-faults", config=7, sample_period=1),)},
      "there was not one period of alignment-faults")],
)  # fmt: skip
def test_an_empty_recording_says_why(
    tmp_path: Path, command: tuple[str, ...], more: dict[str, Any], why: str
) -> None:
    result = SOURCE.record(request(tmp_path / "a", *command, **more))
    assert (result.samples, result.exit_status) == (0, 0)
    (told,) = result.warnings
    assert told.startswith("no samples: ")
    assert why in told


def test_options_that_choose_another_set(tmp_path: Path) -> None:
    for options, told in (
        ({"user_regs": "xmm"}, ["--user-regs"]), ({"intr_regs": "xmm"}, []), ({}, []),
    ):  # fmt: skip
        result = SOURCE.record(
            request(tmp_path / "a", "true", options=options, force=True, hz=4000)
        )
        said = [w for w in result.warnings if not w.startswith("no samples")]
        assert [w.partition(":")[0] for w in said] == told
        assert all("the file names it 'intr'" in w for w in said)


def test_details_are_the_files_result(tmp_path: Path) -> None:
    result = SOURCE.record(request(tmp_path / "a", workload("family.c"), "spin", "0.1"))
    assert result.warnings == []
    kept = load(tmp_path / "a").result
    assert set(result.details) >= {
        "achieved_hz", "period_factor", "back_offs", "unpaired", "bare_samples",
        "threads_not_sampled", "engine", "stopped_by",
    }  # fmt: skip
    assert result.details == {k: kept[k] for k in result.details}
    assert result.details["engine"] == "perf"


def test_ring_pages(tmp_path: Path) -> None:
    assert ring_pages(request("a", "true")) == 8
    for pages in (1, 256):
        asked = request(tmp_path / str(pages), workload("family.c"), "spin", "0.1",
                        mmap_pages=pages)  # fmt: skip
        assert ring_pages(asked) == pages
        result = SOURCE.record(asked)
        assert result.samples > 50
        assert (result.lost, result.details["unpaired"]) == (0, 0)
