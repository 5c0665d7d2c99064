"""Counters of a revision, cheap enough for every request."""

from bisect import bisect_left
from dataclasses import dataclass

BUCKETS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 60.0)
"""Upper bounds in seconds; one more bucket holds what is above."""


@dataclass(frozen=True, slots=True)
class Reading:
    """The counters at one moment; `buckets` are cumulative, as Prometheus wants them."""

    requests: int
    errors: int
    refused: int
    seconds: float
    buckets: tuple[tuple[float, int], ...]


class Metrics:
    """Counts answers, errors (status 500 and above), refusals, and seconds."""

    __slots__ = ("_counts", "_seconds", "errors", "refused")

    def __init__(self) -> None:
        self._counts = [0] * (len(BUCKETS) + 1)
        self._seconds = 0.0
        self.errors = 0
        self.refused = 0

    def observe(self, seconds: float, *, error: bool) -> None:
        """Count one answered request."""
        self._counts[bisect_left(BUCKETS, seconds)] += 1
        self._seconds += seconds
        if error:
            self.errors += 1

    def read(self) -> Reading:
        """Return the counters."""
        total = 0
        rows = []
        for bound, count in zip((*BUCKETS, float("inf")), self._counts, strict=True):
            total += count
            rows.append((bound, total))
        return Reading(total, self.errors, self.refused, self._seconds, tuple(rows))
