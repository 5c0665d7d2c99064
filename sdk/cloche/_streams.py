"""Server-sent events as the SDK reads them, and bodies that need a closer look."""

import base64
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Generic, TypeVar

import orjson

from cloche import _operations as ops
from cloche._calls import Answer, Call
from cloche._errors import Unavailable, from_problem, not_running
from cloche._views import Model

T = TypeVar("T")
BROKEN_AT_MOST = 20
AWAY_S = 1.0
"""Seconds before a stream is asked for again whose server a gateway did not reach."""


@dataclass(frozen=True, slots=True)
class ServerEvent:
    """One event of a stream."""

    data: str
    id: str = ""
    event: str = ""


@dataclass(frozen=True, slots=True)
class Stream(Generic[T]):
    """A stream to read: `read` makes each event what the caller gets.

    With `whole`, what is there already comes as one answer when nothing is to be followed.
    """

    path: str
    read: Callable[[ServerEvent], T]
    follow: bool
    query: Mapping[str, str | int | None] = field(default_factory=dict)
    whole: Callable[[bytes], T] | None = None


@dataclass(slots=True)
class StreamReader:
    """Reads one stream over as many connections as it takes; `pause` is the wait before the next one.

    The stream is over with an event `end`, or when it ends and the server was not asked to follow.
    """

    path: str
    follow: bool
    query: Mapping[str, str | int | None]
    last_id: str = ""
    more: bool = True
    pause: float = 0.2
    _rest: bytes = b""
    _failures: int = 0
    _fields: dict[str, list[str]] = field(default_factory=dict)

    def call(self) -> Call:
        """Return the request that begins or goes on with the stream."""
        self._rest = b""
        self._fields = {}
        headers = {"accept": "text/event-stream"}
        if self.last_id:
            headers["last-event-id"] = self.last_id
        query = {**self.query, "follow": "true" if self.follow else "false"}
        return Call("GET", self.path, query=query, headers=headers)

    def feed(self, piece: bytes) -> Iterator[ServerEvent]:
        """Yield the events that a piece completes. An event `error` is raised as what it tells of."""
        self._failures = 0
        *lines, self._rest = (self._rest + piece).split(b"\n")
        for line in lines:
            text = line.decode(errors="replace").rstrip("\r")
            if text:
                name, _, value = text.partition(":")
                self._fields.setdefault(name, []).append(value.removeprefix(" "))
                continue
            event = self._take()
            if event is not None:
                yield event

    def _take(self) -> ServerEvent | None:
        fields, self._fields = self._fields, {}
        if "id" in fields:
            self.last_id = fields["id"][-1]
        kind = fields.get("event", [""])[-1]
        data = "\n".join(fields.get("data", []))
        if kind == "error":
            problem = orjson.loads(data)
            raise from_problem(int(problem.get("status", 500)), problem, data)
        if kind == "end":
            self.more = False
            return None
        return ServerEvent(data, self.last_id, kind) if "data" in fields else None

    def ended(self) -> None:
        """Note that the connection ended in good order."""
        self._failures += 1
        if not self.follow or self._failures > BROKEN_AT_MOST:
            self.more = False

    def broken(self, url: str, error: Exception) -> None:
        """Note that the connection broke; raises `Unavailable` when it does so again and again."""
        self._failures += 1
        if not self.follow or self._failures > BROKEN_AT_MOST:
            raise not_running(url, str(error)) from error

    def away(self, error: Unavailable) -> None:
        """Note that a gateway answered for a server that is being started again; raises it when that goes on."""
        self._failures += 1
        if not self.follow or self._failures > BROKEN_AT_MOST:
            raise error


def log_piece(event: ServerEvent) -> bytes:
    """Return the bytes of a run's log that an event carries."""
    if event.event == "bytes":
        return base64.b64decode(event.data)
    return event.data.encode()


def events_query(
    *, from_start: bool, types: Iterable[str], correlation: str | None, subject: str | None
) -> dict[str, str | int | None]:
    """Return the query of an events stream."""
    return {
        "from_start": "true" if from_start else None,
        "types": ",".join(types) or None,
        "correlation": correlation,
        "subject": subject,
    }


def files_of(answer: Answer) -> list[dict[str, Any]]:
    """Return the files of a manifest."""
    found = answer.json().get("files")
    return [dict(one) for one in found] if isinstance(found, list) else []


def model_files(model: Model) -> list[str]:
    """Return the paths of a model's files."""
    found = (model.model_extra or {}).get("files")
    return [str(one["path"]) for one in found] if isinstance(found, list) else []


def score_call(name: str, data: object, key: str | None) -> Call:
    """Return the request that scores."""
    content = data.encode() if isinstance(data, str) else data
    headers = {"authorization": f"Bearer {key}"} if key else {}
    path = ops.path_of("services", name, "score")
    body = content if isinstance(content, bytes) else orjson.dumps(content)
    return Call(
        "POST",
        path,
        content=body,
        headers={**headers, "content-type": "application/json"},
        accept=frozenset({200}),
        timeout=3600.0,
    )


def scored(answer: Answer) -> object:
    """Return what `run()` returned: JSON as Python values, everything else as bytes."""
    if answer.headers.get("content-type", "").startswith("application/json"):
        return orjson.loads(answer.body)
    return answer.body
