"""When to stop and when to slow down, shared by all sources."""

from __future__ import annotations

from dataclasses import dataclass

from perfxmm.sources.base import RecordRequest

# A thread that is stopped for more than this share of the time hardly gets on at all: slow down
# even when nobody asked for a limit.
HARD_LOSS = 0.9
MAX_FACTOR = 1e6
LEAST_LOSS = 0.001  # no sampling is free


@dataclass(frozen=True, slots=True)
class StopLimits:
    """Ends of a recording; None: no such limit. `reached` names the first that is passed."""

    duration_s: float | None = None
    max_samples: int | None = None
    max_size_bytes: int | None = None

    @staticmethod
    def of(request: RecordRequest) -> StopLimits:
        return StopLimits(request.duration_s, request.max_samples, request.max_size_bytes)

    def reached(self, elapsed_s: float, samples: int, size_bytes: int) -> str:
        """"duration", "max-samples", "max-size", or "" while none is reached."""
        if self.duration_s is not None and elapsed_s >= self.duration_s:
            return "duration"
        if self.max_samples is not None and samples >= self.max_samples:
            return "max-samples"
        if self.max_size_bytes is not None and size_bytes >= self.max_size_bytes:
            return "max-size"
        return ""


class Governor:
    """Stretches the sample period while sampling costs the target more than it may.

    limit_percent: what the user allows (None: only the hard limit holds).
    factor: by how much the asked period is stretched now; 1.0 means as asked.
    back_offs: times the period was stretched; greatest: the largest factor there was.
    """

    def __init__(self, limit_percent: float | None = None) -> None:
        asked = HARD_LOSS if limit_percent is None else limit_percent / 100
        self.limit = min(max(asked, LEAST_LOSS), HARD_LOSS)
        self.factor = 1.0
        self.back_offs = 0
        self.greatest = 1.0

    def feed(self, lost_share: float) -> bool:
        """Takes the share of time that the target lost in the last window.

        True where `factor` changed. It grows at once, in proportion to the excess, and shrinks
        slowly, so that it settles instead of swinging.
        """
        before = self.factor
        if lost_share > self.limit:
            # Beyond the hard limit an event may even be fed by its own stops (sched:sched_switch).
            least = 2.0 if lost_share > HARD_LOSS else 1.1
            self.factor *= min(4.0, max(least, lost_share / self.limit))
            self.factor = min(self.factor, MAX_FACTOR)
            self.back_offs += 1
            self.greatest = max(self.greatest, self.factor)
        elif self.factor > 1.0 and lost_share < 0.7 * self.limit:
            self.factor = max(1.0, self.factor / 1.15)
        return self.factor != before
