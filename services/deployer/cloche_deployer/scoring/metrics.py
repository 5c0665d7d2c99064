"""Counters of a revision, cheap enough for every request."""

from bisect import bisect_left
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

BUCKETS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 60.0)
"""Upper bounds in seconds; one more bucket holds what is above."""

MAX_SERVICES = 1000
"""Services that are shown; further ones are left out."""


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


def render(services: Iterable[tuple[str, str, Metrics]]) -> bytes:
    """Return the figures of services (project, name, counters) in Prometheus' text format (0.0.4)."""
    shown = sorted(services, key=lambda one: one[:2])[:MAX_SERVICES]
    rows = [(f'project="{project}",service="{name}"', metrics.read()) for project, name, metrics in shown]
    lines = _counter("requests", "Scoring requests that were answered.", [(to, one.requests) for to, one in rows])
    lines += _counter("errors", "Answers of status 500 and above.", [(to, one.errors) for to, one in rows])
    lines += _counter("refused", "Requests that no worker took.", [(to, one.refused) for to, one in rows])
    name = "cloche_score_seconds"
    lines += [f"# HELP {name} Duration of scoring requests.", f"# TYPE {name} histogram"]
    for labels, one in rows:
        lines += [f'{name}_bucket{{{labels},le="{_bound(bound)}"}} {count}' for bound, count in one.buckets]
        lines += [f"{name}_sum{{{labels}}} {one.seconds:.6f}", f"{name}_count{{{labels}}} {one.requests}"]
    return ("\n".join(lines) + "\n").encode() if rows else b""


def _counter(what: str, text: str, rows: Sequence[tuple[str, int]]) -> list[str]:
    name = f"cloche_score_{what}_total"
    return [f"# HELP {name} {text}", f"# TYPE {name} counter", *(f"{name}{{{to}}} {count}" for to, count in rows)]


def _bound(bound: float) -> str:
    return "+Inf" if bound == float("inf") else str(bound)
