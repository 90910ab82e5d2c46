"""Uncertainty of shares that were sampled."""

from __future__ import annotations

from math import sqrt

# Two-sided 95 % point of the normal distribution.
Z_95 = 1.959963984540054


def wilson(hits: int, total: int, z: float = Z_95) -> tuple[float, float]:
    """Wilson score interval of a share: (low, high), each 0..1; (0, 1) without any sample.

    E. B. Wilson, "Probable inference, the law of succession, and statistical inference",
    Journal of the American Statistical Association 22 (1927). It treats samples as independent
    draws: samples of one long phase are not, so the true uncertainty can be larger.
    """
    if total <= 0:
        return 0.0, 1.0
    share = hits / total
    scale = 1 + z * z / total
    centre = (share + z * z / (2 * total)) / scale
    half = z * sqrt(share * (1 - share) / total + z * z / (4 * total * total)) / scale
    # At the ends the formula gives 0 and 1 exactly; rounding must not cross them.
    low = 0.0 if hits == 0 else max(0.0, centre - half)
    high = 1.0 if hits == total else min(1.0, centre + half)
    return low, high
