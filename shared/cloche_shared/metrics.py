"""Figures for Prometheus. Names are `cloche_<thing>_seconds|bytes|total`; labels have few values, never ids.

prometheus-client is imported when the first figure is asked for, and requests are counted here in
plain numbers until somebody reads them.
"""

from bisect import bisect_left
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Final

from cloche_shared.http.exchange import Exchange

BUCKETS: Final = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0)
MAX_SERIES: Final = 2000


@dataclass(slots=True)
class _Series:
    counts: list[int] = field(default_factory=lambda: [0] * (len(BUCKETS) + 1))
    total: float = 0.0


class RequestMetrics:
    """Durations of requests by method, route and status; costs about a microsecond per request."""

    def __init__(self) -> None:
        self._series: dict[tuple[str, str, int], _Series] = {}

    def __call__(self, exchange: Exchange, seconds: float) -> None:
        """Count one exchange. What no route took is counted under an empty route."""
        key = (exchange.method, exchange.route, exchange.status)
        series = self._series.get(key)
        if series is None:
            if len(self._series) >= MAX_SERIES:
                return
            series = self._series[key] = _Series()
        series.counts[bisect_left(BUCKETS, seconds)] += 1
        series.total += seconds

    def render(self) -> bytes:
        """Return the figures in Prometheus' text format (0.0.4)."""
        name = "cloche_http_request_seconds"
        lines = [f"# HELP {name} Duration of requests.", f"# TYPE {name} histogram"]
        for (method, route, status), series in sorted(self._series.items()):
            labels = f'method="{_label(method)}",route="{_label(route)}",status="{status}"'
            lines.extend(_histogram(name, labels, series))
        return ("\n".join(lines) + "\n").encode()


def _histogram(name: str, labels: str, series: _Series) -> Iterable[str]:
    seen = 0
    for bound, count in zip((*map(str, BUCKETS), "+Inf"), series.counts, strict=True):
        seen += count
        yield f'{name}_bucket{{{labels},le="{bound}"}} {seen}'
    yield f"{name}_sum{{{labels}}} {series.total:.6f}"
    yield f"{name}_count{{{labels}}} {seen}"


def _label(text: str) -> str:
    return text.replace("\\", r"\\").replace('"', r"\"").replace("\n", r"\n")


def render_all(requests: RequestMetrics | None = None, others: Iterable[Callable[[], bytes] | None] = ()) -> bytes:
    """Return every figure of the process; `others` return what services count themselves."""
    from prometheus_client import generate_latest  # noqa: PLC0415 - imported on use

    whole: bytes = generate_latest()
    own = requests.render() if requests is not None else b""
    return whole + own + b"".join(one() for one in others if one is not None)
