"""A commit: the one document that is state change, audit record and outgoing message at once."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

import orjson

from cloche_shared.contracts.envelope import Event
from cloche_shared.contracts.fact import Fact, fact_type
from cloche_shared.ports.journal import Document

SEQUENCE_DIGITS = 12


@dataclass(frozen=True, slots=True)
class StreamId:
    """An aggregate: its kind (`run`), its project, and its id within both. None of them holds a slash."""

    kind: str
    project: str
    id: str

    def __str__(self) -> str:
        return f"{self.kind}/{self.project}/{self.id}"

    def key(self, seq: int) -> str:
        """Return the key of this stream's document number `seq` (from 1)."""
        return f"{self.kind}/{self.project}/{self.id}/{seq:0{SEQUENCE_DIGITS}d}"

    @classmethod
    def parse(cls, text: str) -> "StreamId":
        """Read `kind/project/id`, with or without a sequence number behind it."""
        kind, project, name = text.split("/")[:3]
        return cls(kind, project, name)


def place_of(key: str) -> tuple[StreamId, int]:
    """Return the stream and the number that a document's key names (1 where it has none)."""
    head, _, tail = key.rpartition("/")
    if tail.isdigit() and len(tail) == SEQUENCE_DIGITS and head.count("/") == 2:  # noqa: PLR2004 - kind/project/id
        return StreamId.parse(head), int(tail)
    return StreamId.parse(key), 1


@dataclass(frozen=True, slots=True)
class Actor:
    """Who did it: the subject (`key:<id>`, `service:<name>`), from which address, in which request."""

    subject: str
    address: str = ""
    request: str = ""


@dataclass(frozen=True, slots=True)
class Origin:
    """Why something is done.

    `request_id` makes a request act once (empty: nobody will ask again); `reply_to` is the aggregate
    that waits for the answer; `cause` the event's id that led here; `correlation` names the chain.
    `follows`: a service goes on by itself, so what the stream held last is the cause, unless one is named.
    """

    actor: Actor
    correlation: str
    request_id: str = ""
    reply_to: str = ""
    cause: str = ""
    traceparent: str = ""
    follows: bool = False

    def behind(self, stream: StreamId, seq: int) -> "Origin":
        """Return the origin of what comes behind document `seq` of a stream (0: there is none)."""
        if not self.follows or self.cause or not seq:
            return self
        return replace(self, cause=f"{stream.key(seq)}#0")

    @classmethod
    def of_event(cls, event: Event, service: str, *, asks: bool = False) -> "Origin":
        """Return the origin of what a service does because of an event; `asks` when it wants one answer."""
        return cls(
            actor=Actor(f"service:{service}"),
            correlation=event.correlation,
            request_id=event.id if asks else "",
            reply_to=event.subject if asks else "",
            cause=event.id,
            traceparent=event.traceparent,
        )


@dataclass(frozen=True, slots=True)
class Commit:
    """What a document's body says. `outcome` is what the request `origin.request_id` was answered.

    `id` is unique, so that a writer recognises its own document after an unknown outcome.
    """

    id: str
    facts: tuple[Fact, ...]
    origin: Origin
    at: str
    outcome: Mapping[str, object] | None = None

    def body(self) -> bytes:
        """Return the document's JSON."""
        origin = self.origin
        whole: dict[str, object] = {
            "id": self.id,
            "facts": [{"type": fact_type(type(fact)), "data": _json(fact)} for fact in self.facts],
            "at": self.at,
            "actor": [origin.actor.subject, origin.actor.address, origin.actor.request],
            "corr": origin.correlation,
        }
        optional = {
            "req": origin.request_id,
            "reply": origin.reply_to,
            "cause": origin.cause,
            "trace": origin.traceparent,
        }
        whole |= {name: value for name, value in optional.items() if value}
        if self.outcome is not None:
            whole["outcome"] = self.outcome
        return orjson.dumps(whole)


def _json(fact: Fact) -> orjson.Fragment:
    """Return the fact's JSON, to be put into a document as it is."""
    return orjson.Fragment(fact.__pydantic_serializer__.to_json(fact))


@dataclass(frozen=True, slots=True)
class Written:
    """A commit as it is read back: facts still as JSON."""

    key: str
    id: str
    facts: Sequence[tuple[str, Mapping[str, object]]]
    actor: Actor
    at: str
    correlation: str
    request_id: str = ""
    reply_to: str = ""
    cause: str = ""
    traceparent: str = ""
    outcome: Mapping[str, object] | None = None
    stream: StreamId = field(init=False)
    seq: int = field(init=False)

    def __post_init__(self) -> None:
        stream, seq = place_of(self.key)
        object.__setattr__(self, "stream", stream)
        object.__setattr__(self, "seq", seq)


def written(document: Document) -> Written:
    """Read a document."""
    body = orjson.loads(document.body)
    return Written(
        key=document.key,
        id=body["id"],
        facts=[(fact["type"], fact["data"]) for fact in body["facts"]],
        actor=Actor(*body["actor"]),
        at=body["at"],
        correlation=body["corr"],
        request_id=body.get("req", ""),
        reply_to=body.get("reply", ""),
        cause=body.get("cause", ""),
        traceparent=body.get("trace", ""),
        outcome=body.get("outcome"),
    )


def events_of(document: Document, source: str) -> list[Event]:
    """Return the events that a document sends, in order; `source` is the service (`/cloche/runner`)."""
    if not document.topic:
        return []
    # straight from the JSON: this runs for every document that the embedded bus carries
    body = orjson.loads(document.body)
    stream, seq = place_of(document.key)
    return [
        Event(
            id=f"{document.key}#{index}",
            type=fact["type"],
            source=source,
            subject=str(stream) if stream.kind != "answers" else body.get("reply", ""),
            sequence=seq,
            project=stream.project,
            time=body["at"],
            correlation=body["corr"],
            data=fact["data"],
            topic=document.topic,
            key=document.partition_key,
            causation=body.get("cause", ""),
            traceparent=body.get("trace", ""),
            actor=body["actor"][0],
        )
        for index, fact in enumerate(body["facts"])
    ]
