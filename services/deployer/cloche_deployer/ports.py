"""What only the deployer needs from outside."""

from collections.abc import AsyncIterator
from typing import Protocol

from cloche_deployer.domain import Revision
from cloche_deployer.scoring.ports import Workers
from cloche_shared.journal.commit import StreamId


class RevisionWorkers(Workers, Protocol):
    """The worker processes of one revision, with their log."""

    def log(self) -> bytes:
        """Return what ended workers of this revision wrote, as far as it is kept."""

    def note(self, sentence: str) -> None:
        """Add a line of Cloche's own to what ended workers wrote."""

    async def tail(self) -> bytes:
        """Return what living workers of this revision wrote so far, as far as it is kept."""

    def follow(self) -> AsyncIterator[bytes]:
        """Yield the log of the newest living worker from its beginning, until that worker ends."""

    async def clear(self) -> None:
        """Forget what is left of ended workers and the revision's working folders."""


class Stage(Protocol):
    """The node that workers run on."""

    async def prepare(self, service: StreamId, incarnation: int, revision: Revision) -> RevisionWorkers:
        """Make prefix, code and models of a revision ready; raises `Failed` or `Unavailable`."""

    async def end(self, service: StreamId, incarnation: int, revision: int) -> None:
        """End workers of a revision that a former owner left and that nobody adopted."""

    async def sweep(self, keep: set[tuple[StreamId, int, int]]) -> None:
        """End workers that a former owner left and that belong to no (service, incarnation, revision) of `keep`."""
