"""Journal, answers and leases: the store's side of every change.

The unique insert is the only arbiter (docs/explanation/journal.md). Nothing else about a store is
trusted: no transaction, no conditional update, no clock.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from enum import Enum
from typing import Protocol


@dataclass(frozen=True, slots=True)
class Document:
    """`key` is unique for ever; `body` is the JSON of a `cloche_shared.journal.commit.Commit`.

    Keys are `<kind>/<project>/<id>/<seq, 12 digits>`, so that a stream is one range of keys, or
    `answers/<project>/<request id>`. `topic` and `partition_key` say where the document's facts go
    (an empty topic: nowhere). `sent` is set on documents that are read back: their facts are known
    to be with the bus.
    """

    key: str
    body: bytes
    topic: str = ""
    partition_key: str = ""
    sent: bool = False


class Verdict(Enum):
    """What became of one document of an `append_many`."""

    INSERTED = "inserted"
    DUPLICATE = "duplicate"
    """The key was held already, by this or by another document."""
    SKIPPED = "skipped"
    """It stood behind a duplicate and was not tried."""


class OutcomeUnknownError(Exception):
    """The store did not say whether it wrote.

    After a time-out "missing" proves nothing. Insert the *same* documents again until each key
    holds either them or another's.
    """


class Journal(Protocol):
    """One service's documents."""

    @property
    def atomic(self) -> bool:
        """Whether the documents of one `append_many` are written all or none when a crash comes."""

    async def append_many(self, documents: Sequence[Document]) -> list[Verdict]:
        """Insert in order and stop at the first key that is held; durable when it returns.

        Documents before a duplicate stay inserted. Raises `OutcomeUnknownError` when it cannot tell,
        `Unavailable` (`disk_full`, `store_unavailable`) when it is sure that nothing was written.
        """

    async def get(self, key: str) -> Document | None:
        """Return the document under a key."""

    async def read(self, prefix: str, *, after: str = "", limit: int = 1000) -> list[Document]:
        """Return the documents whose key starts with `prefix` and is greater than `after`, in key order."""

    async def unsent(self, limit: int = 1000) -> list[Document]:
        """Return documents with a topic that were not marked as sent, oldest keys of each stream first."""

    async def mark_sent(self, keys: Sequence[str]) -> None:
        """Remember that the facts of these documents are with the bus. Losing a mark is harmless."""


@dataclass(frozen=True, slots=True)
class Lease:
    """A holder's sign of life: `counter` grows with each renewal, `address` is where it answers.

    `grant_until` is the longest outstanding grant to its supervisors, in seconds after the renewal.
    """

    holder: str
    counter: int
    ttl: float
    address: str = ""
    grant_until: float = 0.0


class Leases(Protocol):
    """One document per holder, outside the streams; nothing is arbitrated on it."""

    async def put(self, lease: Lease) -> None:
        """Replace the holder's document without any condition."""

    async def get(self, holder: str) -> Lease | None:
        """Return what the holder last put."""

    async def all(self) -> list[Lease]:
        """Return every lease."""
