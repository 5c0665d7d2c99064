"""Operations without a network: generators that yield what is to be sent and get what came back.

One definition of each operation serves the synchronous and the asynchronous client.
"""

from collections.abc import Generator, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

import orjson

from cloche._errors import Invalid, from_problem
from cloche._files import Snapshot

T = TypeVar("T")
JSON = "application/json"
BYTES = "application/octet-stream"


@dataclass(frozen=True, slots=True)
class Call:
    """One request: `json` or `content` (bytes, or a file that is streamed) is the body.

    `once` makes the request safe to send again: it gets an Idempotency-Key. `accept` lists statuses
    that are answers and not errors. `timeout` in seconds.
    """

    method: str
    path: str
    query: Mapping[str, str | int | None] = field(default_factory=dict)
    json: object = None
    content: bytes | Path | None = None
    headers: Mapping[str, str] = field(default_factory=dict)
    once: bool = False
    accept: frozenset[int] = frozenset({200, 201, 202, 204})
    timeout: float = 30.0

    def body(self) -> bytes | Path | None:
        """Return the body to send. Raises `Invalid` (`malformed_json`) for what JSON cannot hold."""
        if self.json is None:
            return self.content
        try:
            return orjson.dumps(self.json)
        except TypeError as error:
            raise Invalid(
                "malformed_json",
                "The request holds something that cannot be sent as JSON.",
                why=f"{error}.",
                todo="Use texts that are UTF-8; arguments of the command line are bytes in your locale.",
            ) from error

    def media_type(self) -> str:
        """Return the type of the body."""
        return JSON if self.json is not None else BYTES


@dataclass(frozen=True, slots=True)
class Answer:
    """What came back."""

    status: int
    headers: Mapping[str, str]
    body: bytes

    def json(self) -> dict[str, object]:
        """Return the body as a JSON object."""
        value = orjson.loads(self.body)
        if not isinstance(value, dict):
            raise TypeError("the answer is not a JSON object")
        return value

    def checked(self, call: Call) -> "Answer":
        """Return the answer; raise the error that it tells of."""
        if self.status in call.accept:
            return self
        try:
            problem: object = orjson.loads(self.body)
        except orjson.JSONDecodeError:
            problem = None
        raise from_problem(self.status, problem, self.body.decode(errors="replace"))


@dataclass(frozen=True, slots=True)
class Many:
    """Several requests whose order does not matter; the answers come in the order of the calls."""

    calls: tuple[Call, ...]


@dataclass(frozen=True, slots=True)
class Pause:
    """Wait so many seconds."""

    seconds: float


@dataclass(frozen=True, slots=True)
class Take:
    """Read a file or folder as a snapshot, `without` some folders at its top.

    With `follow` links that lead out of it are followed: what is a model often is such a folder.
    """

    path: Path
    without: tuple[str, ...] = ()
    follow: bool = False


@dataclass(frozen=True, slots=True)
class Fetch:
    """Write the body of a call's answer to a file."""

    call: Call
    to: Path


Step = Call | Many | Pause | Take | Fetch
Operation = Generator[Step, Any, T]
"""Yields steps and is sent what each brought; the functions below say what that is."""


def send(call: Call) -> Operation[Answer]:
    """Send one request and return its answer. Raises a `ClocheError` when it was refused."""
    answer: Answer = yield call
    return answer


def send_all(calls: Iterable[Call]) -> Operation[list[Answer]]:
    """Send several requests at once."""
    found = tuple(calls)
    if not found:
        return []
    answers: list[Answer] = yield Many(found)
    return answers


def snapshot_of(path: Path, without: tuple[str, ...] = (), *, follow: bool = False) -> Operation[Snapshot]:
    """Return the snapshot of a file or folder. Raises what `take_one` raises."""
    snapshot: Snapshot = yield Take(path, without, follow)
    return snapshot


def fetch(call: Call, to: Path) -> Operation[Path]:
    """Write the body of an answer to a file and return its path."""
    written: Path = yield Fetch(call, to)
    return written
