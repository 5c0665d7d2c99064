"""Bus: facts travel, at least once and in order per key."""

from collections.abc import Mapping, Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from datetime import datetime
from typing import Protocol

from cloche_shared.contracts.envelope import Event


@dataclass(frozen=True, slots=True)
class Delivery:
    """One message as it came. `source` (a partition) and `offset` name its place.

    `event` is None when the bytes cannot be understood; `raw` and `reason` then say what came and why.
    """

    source: str
    offset: int
    key: str
    event: Event | None
    raw: bytes = b""
    reason: str = ""


@dataclass(frozen=True, slots=True)
class DeadLetter:
    """A message that could not be handled: where it came from, why, after how many attempts, by which code."""

    group: str
    delivery: Delivery
    reason: str
    attempts: int
    code_version: str


@dataclass(frozen=True, slots=True)
class Letter:
    """A dead letter with the name under which it can be sent again (letters, digits, `.`, `_` and `-`).

    `at` is when it was put aside (RFC 3339, UTC); empty where the bus does not keep that.
    """

    id: str
    letter: DeadLetter
    at: str = ""


Ranges = Mapping[str, tuple[int, int]]
"""For each source the offset of the first message, and the one behind the last."""


@dataclass(frozen=True, slots=True)
class Again:
    """How many messages a group gets again, about, and what is left of them for another call."""

    messages: int
    left: Ranges


class Subscription(Protocol):
    """A consumer group's place in some topics."""

    async def fetch(self, limit: int = 500) -> Sequence[Delivery]:
        """Wait for messages and return 1 … `limit` of them, in order per source."""

    async def commit(self, offsets: dict[str, int]) -> None:
        """Remember for each source the next offset to read. Losing it means redelivery, never loss."""

    async def lag(self) -> int:
        """Return how many messages wait behind the last fetch, as far as it is known here."""

    async def behind(self) -> int:
        """Ask the source itself how many messages wait behind the last fetch. Raises `Unavailable`."""


class Bus(Protocol):
    """Carries events between services."""

    async def publish(self, events: Sequence[Event]) -> None:
        """Send, in order per key; durable at the broker when it returns.

        Raises `Unavailable` after its deadline; sending the same events again is harmless. On a
        bus that reads the journal itself there is nothing to send.
        """

    def subscribe(self, group: str, topics: Sequence[str]) -> AbstractAsyncContextManager[Subscription]:
        """Join a durable group, which starts with the oldest message that is there.

        A name that ends with `*` stands for every topic that begins so, also for one that is made later
        (`cloche.commands.*`); of dead letters it stands for none.
        """

    def tail(
        self, topics: Sequence[str], *, from_start: bool = False, after: str = ""
    ) -> AbstractAsyncContextManager[Subscription]:
        """Follow topics without a group: nothing is remembered.

        `after` is a `place` that this bus gave; the tail goes on behind it. A text that is none is passed over.
        """

    def place(self, delivery: Delivery) -> str:
        """Return where a tail goes on behind a delivery (short, opaque).

        Empty on a bus that has no one order for all its topics: whoever resumes there reads again from
        the start and passes over what it knows.
        """

    async def provide(self, topics: Sequence[str]) -> None:
        """Make topics that are not there, each with its dead letters; harmless again. Raises `Unavailable`."""

    async def bury(self, letter: DeadLetter) -> None:
        """Put a poison message aside durably, under `<topic>.dead`."""

    async def letters(self, limit: int = 100, *, after: str = "") -> Sequence[Letter]:
        """Return dead letters of all groups behind the one named `after`, oldest first."""

    async def letter(self, letter_id: str) -> Letter | None:
        """Return one dead letter."""

    async def resend(self, letter_id: str) -> None:
        """Deliver a dead letter again, and put it aside no longer. Raises `NotFound` (`letter_not_found`)."""

    async def past(self, topics: Sequence[str], since: datetime | None = None) -> Again:
        """Return what these topics hold up to now: all that is kept, or what came `since` a time.

        Names may end with `*`, as in `subscribe`. Raises `Unavailable`.
        """

    async def replay(self, group: str, topics: Sequence[str], left: Ranges, limit: int = 1000) -> Again:
        """Deliver to a group once more what `past` named, in order per key; of other groups none hears of it.

        About `limit` messages at a time; call it again with what is left. What could not be read the first
        time is passed over: it lies with the dead letters.
        """
