"""IPs that are off by some instructions, of a program stepped instruction by instruction."""

from __future__ import annotations

import shutil
from dataclasses import dataclass
from pathlib import Path

import pytest
from support import simd_writer as sw
from support.lie_check import look
from support.skews import SET, skew, spoken_bits
from support.stepper import BUILDS, Trace, build, can_run, step

from perfxmm.coherence import REASONS, Verdict
from perfxmm.kernel.dialects import M

STEPS = 1000


@dataclass
class Stepped:
    trace: Trace
    path: Path


@pytest.fixture(scope="module", params=list(BUILDS))
def stepped(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Stepped:
    if shutil.which("gcc") is None or shutil.which("readelf") is None:
        pytest.skip("no gcc or binutils here")
    if not can_run(request.param):
        pytest.skip("this CPU lacks the instructions")
    directory = tmp_path_factory.mktemp("stepped")
    try:
        trace = step(build(directory, request.param), STEPS)
    except OSError as error:
        pytest.skip(f"programs cannot be stepped here: {error}")
    return Stepped(trace, directory / "x.data")


def test_every_step_is_true_and_believed(stepped: Stepped) -> None:
    """No false alarm at any instruction boundary, and the code has something to say."""
    told = stepped.trace.truth.with_sets(SET)
    data = sw.recording(told, M, sideband=stepped.trace.side)
    found = look(data, stepped.path, told)
    assert (found.verdict[SET] == Verdict.COHERENT).all()
    assert not found.untrue[SET].any()
    assert found.words == STEPS * (20 + 256 + 8)
    proved = (found.reason[SET] & REASONS["code-proved"].mask) != 0
    assert proved.sum() > STEPS // 10


@pytest.mark.parametrize("steps", [1, 2, -1, -2])
def test_skewed_ips_are_given_away_by_the_code(stepped: Stepped, steps: int) -> None:
    spoken = spoken_bits(stepped.trace, stepped.path)
    found = skew(stepped.trace, steps, spoken, stepped.path)
    assert found.skewed > STEPS * 9 // 10
    assert found.spoken > STEPS // 20
    assert found.recall >= 0.95
    # Where nothing that the code speaks of has changed, there is nothing to doubt.
    assert found.more == 0
