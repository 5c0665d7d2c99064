"""The envelope of every event: CloudEvents 1.0, in Kafka's binary content mode.

Attributes travel as headers `ce_<name>`, data as the JSON value, the aggregate's key as the message
key (CloudEvents 1.0.2 §2, Kafka protocol binding §3.2). Structured mode, the whole event as one JSON object, is
read too. Outside producers write commands, so of a command only what it may say is believed: the project is the
topic's, and who gave it is not asked of the message.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

import orjson

from cloche_shared.errors import Invalid

SPEC_VERSION = "1.0"
CONTENT_TYPE = "application/json"
STRUCTURED: Final = "application/cloudevents+json"
COMMANDS: Final = "cloche.commands."
"""Before a project's name: the topic of its commands."""
LONGEST_COMMAND: Final = 1024 * 1024
"""Bytes of a command's message."""
_PROJECT: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,254}")
_TRACE: Final = re.compile(r"00-[0-9a-f]{32}-[0-9a-f]{16}-[0-9a-f]{2}")
_LIMITS: Final = {"id": 256, "source": 1024, "type": 256, "subject": 1024, "correlationid": 256, "time": 64}
"""Characters that outside producers may put into an attribute."""


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


def commanded_project(topic: str) -> str | None:
    """Return the project whose commands a topic carries, None where it carries none."""
    name = topic.removeprefix(COMMANDS)
    return name if name != topic and _PROJECT.fullmatch(name) else None


def from_message(topic: str, key: bytes | None, headers: Mapping[str, bytes | None], value: bytes | None) -> Event:
    """Read a Kafka message in binary or structured mode; a header without a value is none.

    Raises `Invalid` (code `malformed_event`) with the reason.
    """
    project = commanded_project(topic)
    if project is not None and len(value or b"") > LONGEST_COMMAND:
        raise _malformed(f"It is longer than {LONGEST_COMMAND} bytes.")
    text, data = _parts(headers, value)
    absent = [name for name in ("specversion", "id", "type", "source") if not text.get(name)]
    if absent or not isinstance(data, dict):
        raise _malformed(f"Missing: {', '.join(absent)}." if absent else "The data is not a JSON object.")
    if text["specversion"] != SPEC_VERSION:
        raise _malformed(f"The specversion is not {SPEC_VERSION}.")
    if project is not None:
        text = _believed(text, project)
    return Event(
        id=text["id"],
        type=text["type"],
        source=text["source"],
        subject=text.get("subject", ""),
        sequence=_sequence(text.get("sequence", "0")),
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


def _malformed(why: str) -> Invalid:
    return Invalid("malformed_event", "The message is not a CloudEvent.", why=why)


def _sequence(text: str) -> int:
    if not (text.isascii() and text.isdigit() and len(text) <= 18):  # noqa: PLR2004 - what every store can hold
        raise _malformed("The sequence is no number.")
    return int(text)


def _parts(headers: Mapping[str, bytes | None], value: bytes | None) -> tuple[dict[str, str], object]:
    """Return attributes and data, however they travel."""
    try:
        text = {name.removeprefix("ce_"): raw.decode() for name, raw in headers.items() if raw is not None}
        body = orjson.loads(value or b"")
    except ValueError as error:
        raise _malformed(str(error)) from error
    if not text.get("content-type", "").lower().startswith(STRUCTURED):
        return text, body
    if not isinstance(body, dict) or "data_base64" in body:
        raise _malformed("Structured mode is one JSON object with its data in `data`.")
    kind = body.get("datacontenttype", CONTENT_TYPE)
    if kind != CONTENT_TYPE:
        raise _malformed("Its data is not JSON.")
    attributes = {name: item for name, item in body.items() if name != "data"}
    if any(isinstance(item, bool) or not isinstance(item, str | int) for item in attributes.values()):
        raise _malformed("An attribute is not a text.")
    return {name: str(item) for name, item in attributes.items()}, body.get("data")


def _believed(text: Mapping[str, str], project: str) -> dict[str, str]:
    """Return the attributes that a command may say for itself; the project is its topic's."""
    said = {name: text[name] for name in _LIMITS if text.get(name)}
    for name, item in said.items():
        if len(item) > _LIMITS[name] or not item.isprintable():
            raise _malformed(f"The attribute {name} is too long, or holds control characters.")
    trace = text.get("traceparent", "")
    return {**said, "project": project, "traceparent": trace if _TRACE.fullmatch(trace) else ""}
