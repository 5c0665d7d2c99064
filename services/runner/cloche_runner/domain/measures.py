"""What a script told about itself: metrics in short, tags, properties.

The whole of the metrics is in the stream's `RunMeasured` facts; a run's state keeps a bounded
summary, so that it stays small however much is logged.
"""

from collections.abc import Mapping, Sequence

from pydantic import BaseModel, ConfigDict, Field

MOST_NAMES = 256
"""Metrics, tags and properties that a run's state keeps, each."""
LONGEST_TEXT = 4096


class Metric(BaseModel):
    """One metric in short: how often it was logged, and the last value where that was a scalar."""

    model_config = ConfigDict(frozen=True)

    count: int = 0
    last: float | int | bool | str | None = None


class Measures(BaseModel):
    """`offset` is how many bytes of the present attempt's journal are recorded."""

    model_config = ConfigDict(frozen=True)

    offset: int = 0
    metrics: dict[str, Metric] = Field(default_factory=dict)
    tags: dict[str, str] = Field(default_factory=dict)
    properties: dict[str, str] = Field(default_factory=dict)

    def of_next_attempt(self) -> "Measures":
        """Return what stays when another attempt begins: its tags."""
        return Measures(tags=self.tags)

    def take(self, lines: Sequence[Mapping[str, object]], offset: int) -> "Measures":
        """Return the summary after some lines of the journal. What cannot be read is passed over."""
        metrics, tags, properties = dict(self.metrics), dict(self.tags), dict(self.properties)
        for line in lines:
            op, name, value = line.get("op"), line.get("name"), line.get("value")
            if not isinstance(name, str) or not isinstance(op, str):
                continue
            if op == "tag":
                _put(tags, name, "" if value is None else str(value))
            elif op == "property" and name not in properties:
                _put(properties, name, str(value))
            elif op.startswith("log"):
                _count(metrics, name, value)
        return Measures(offset=offset, metrics=metrics, tags=tags, properties=properties)


def _put(known: dict[str, str], name: str, value: str) -> None:
    if name in known or len(known) < MOST_NAMES:
        known[name] = value[:LONGEST_TEXT]


def _count(metrics: dict[str, Metric], name: str, value: object) -> None:
    if name not in metrics and len(metrics) >= MOST_NAMES:
        return
    last = value if isinstance(value, float | int | bool | str) else None
    if isinstance(last, str):
        last = last[:LONGEST_TEXT]
    metrics[name] = Metric(count=metrics.get(name, Metric()).count + 1, last=last)
