"""The envelope of every event: CloudEvents 1.0, in Kafka's binary content mode.

Attributes travel as headers `ce_<name>`, data as the JSON value, the aggregate's key as the message
key (CloudEvents 1.0.2 §2, Kafka protocol binding §3.2).
"""

from collections.abc import Mapping
from dataclasses import dataclass

import orjson

from cloche_shared.errors import Invalid

SPEC_VERSION = "1.0"
CONTENT_TYPE = "application/json"


@dataclass(frozen=True, slots=True)
class Event:
    """One fact or answer on its way.

    `id` is the journal key and the fact's index (`…/000000000007#0`); `subject` the aggregate
    (`run/default/<id>`); `sequence` its number in the aggregate, from 1; `time` RFC 3339 in UTC;
    `correlation` names the whole chain, `causation` the event that this one follows; `actor` who
    caused it. `key` orders: one key, one order.
    """

    id: str
    type: str
    source: str
    subject: str
    sequence: int
    project: str
    time: str
    correlation: str
    data: Mapping[str, object]
    topic: str
    key: str
    causation: str = ""
    traceparent: str = ""
    actor: str = ""

    @property
    def name(self) -> str:
        """The type without prefix and version: `RunSubmitted`."""
        return self.type.split(".")[1] if self.type.count(".") >= 2 else self.type  # noqa: PLR2004 - prefix.name.version

    def headers(self) -> list[tuple[str, bytes]]:
        """Return the Kafka headers."""
        pairs = [
            ("ce_specversion", SPEC_VERSION),
            ("ce_id", self.id),
            ("ce_type", self.type),
            ("ce_source", self.source),
            ("ce_subject", self.subject),
            ("ce_time", self.time),
            ("ce_sequence", str(self.sequence)),
            ("ce_project", self.project),
            ("ce_correlationid", self.correlation),
            ("ce_causationid", self.causation),
            ("ce_traceparent", self.traceparent),
            ("ce_actor", self.actor),
            ("content-type", CONTENT_TYPE),
        ]
        return [(name, value.encode()) for name, value in pairs if value]

    def value(self) -> bytes:
        """Return the Kafka value."""
        return orjson.dumps(self.data)

    def structured(self) -> dict[str, object]:
        """Return the event as one JSON object (structured mode), for people and tools."""
        whole = {name.removeprefix("ce_"): value.decode() for name, value in self.headers() if name != "content-type"}
        return {**whole, "sequence": self.sequence, "datacontenttype": CONTENT_TYPE, "data": dict(self.data)}


def from_message(topic: str, key: bytes | None, headers: Mapping[str, bytes], value: bytes | None) -> Event:
    """Read a Kafka message. Raises `Invalid` (code `malformed_event`) with the reason."""
    try:
        text = {name.removeprefix("ce_"): raw.decode() for name, raw in headers.items()}
        data = orjson.loads(value or b"")
        sequence = int(text.get("sequence", "0"))
    except ValueError as error:
        raise Invalid("malformed_event", "The message is not a CloudEvent.", why=str(error)) from error
    absent = [name for name in ("specversion", "id", "type", "source") if not text.get(name)]
    if absent or not isinstance(data, dict):
        why = f"Missing: {', '.join(absent)}." if absent else "The value is not a JSON object."
        raise Invalid("malformed_event", "The message is not a CloudEvent.", why=why)
    return Event(
        id=text["id"],
        type=text["type"],
        source=text["source"],
        subject=text.get("subject", ""),
        sequence=sequence,
        project=text.get("project", ""),
        time=text.get("time", ""),
        correlation=text.get("correlationid", text["id"]),
        data=data,
        topic=topic,
        key=(key or b"").decode(errors="replace"),
        causation=text.get("causationid", ""),
        traceparent=text.get("traceparent", ""),
        actor=text.get("actor", ""),
    )
