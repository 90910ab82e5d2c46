from __future__ import annotations

import pytest

from perfxmm.analysis.intervals import wilson


@pytest.mark.parametrize(
    ("hits", "total", "low", "high"),
    [
        # Brown, Cai, DasGupta (2001) give the formula; these are its values to six places.
        (0, 10, 0.0, 0.277533), (10, 10, 0.722467, 1.0), (5, 10, 0.236593, 0.763407),
        (1, 100, 0.001767, 0.054486), (0, 0, 0.0, 1.0),
    ],
)  # fmt: skip
def test_known_intervals(hits: int, total: int, low: float, high: float) -> None:
    assert wilson(hits, total) == pytest.approx((low, high), abs=2e-6)


def test_the_share_is_always_inside() -> None:
    for total in (1, 7, 1000):
        for hits in range(0, total + 1, max(1, total // 7)):
            low, high = wilson(hits, total)
            assert 0.0 <= low <= hits / total <= high <= 1.0
