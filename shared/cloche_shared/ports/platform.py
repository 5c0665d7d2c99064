"""Time, randomness, HTTP, and the other replicas of an installation."""

from collections.abc import AsyncIterable, AsyncIterator, Mapping, Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from datetime import datetime
from typing import Protocol


class Clock(Protocol):
    """Two clocks: one for people and records, one for durations."""

    def now(self) -> datetime:
        """Wall time in UTC. For records and messages only: it may step, so it never decides."""

    def monotonic(self) -> float:
        """Seconds that never step back; only differences mean something."""


class Random(Protocol):
    """Where ids and secrets come from."""

    def uuid7(self) -> str:
        """Return a UUID version 7 (RFC 9562) as 36 characters: it sorts by time of creation."""

    def token(self, size: int = 24) -> str:
        """Return `size` random bytes (≥ 20 for credentials) as URL-safe text."""

    def uniform(self, low: float, high: float) -> float:
        """Return a number between `low` and `high`, for jitter."""


@dataclass(frozen=True, slots=True)
class HttpAnswer:
    """The head of an answer; `body` yields its bytes once, as they arrive."""

    status: int
    headers: Mapping[str, str]
    body: AsyncIterator[bytes]


class Http(Protocol):
    """An HTTP client for downloads from package indexes and for calls between nodes."""

    def get(
        self,
        url: str,
        *,
        headers: Mapping[str, str] | None = None,
        timeout: float = 60.0,
        beside: Sequence[str] = (),
    ) -> AbstractAsyncContextManager[HttpAnswer]:
        """Send GET and follow redirects. `timeout` bounds each read, in seconds.

        Only hosts are asked whose addresses are all global, after each redirect too; where one of the
        addresses in `beside`, which somebody was allowed to name, is in our own network, the file may be
        there as well. Addresses where machines find their own credentials are never asked.

        Raises `Unavailable` (code `unreachable`) when no answer comes, `Failed` (code `url_not_allowed`).
        """


Fields = Sequence[tuple[bytes, bytes]]
"""Header fields as they travel: lower-case names, values as they came, some of them several times."""


@dataclass(frozen=True, slots=True)
class PeerRequest:
    """A request to another replica. `target` is path and query as they stand in the request line.

    `timeout` bounds each read of the answer, in seconds.
    """

    method: str
    target: str
    fields: Fields = ()
    body: AsyncIterable[bytes] | bytes = b""
    timeout: float = 60.0


@dataclass(frozen=True, slots=True)
class PeerAnswer:
    """The head of a replica's answer; `body` yields its bytes once, as they arrive."""

    status: int
    fields: Fields
    body: AsyncIterator[bytes]


class Peers(Protocol):
    """The way to other replicas of this installation, by the addresses in their leases."""

    def ask(self, address: str, request: PeerRequest) -> AbstractAsyncContextManager[PeerAnswer]:
        """Send a request to `address` (`http://host:port`) and leave redirects alone.

        Raises `Unavailable` (code `peer_unreachable`) when no answer comes, and from `body` when it breaks off.
        """
