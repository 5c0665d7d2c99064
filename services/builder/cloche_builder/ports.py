"""What only the builder needs from the world."""

from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass
from typing import Protocol

from cloche_shared.contracts.definition import Artefact, Lock
from cloche_shared.ports.blobs import Blobs
from cloche_shared.ports.node_files import Prefix

Prove = Callable[[str, Lock, Blobs], Awaitable[Prefix]]
"""Proves a lock, by digest and with its artefacts in the blobs: `NodeFiles.prefix` of the builder's node."""

Warm = Callable[[str, Artefact, Blobs], Awaitable[None]]
"""Unpacks one artefact for a lock's Python as soon as its bytes are in the blobs, while others still load."""


@dataclass(frozen=True, slots=True)
class LogPiece:
    """Bytes of a log from `offset` on; whole lines only."""

    offset: int
    data: bytes


class BuildLogs(Protocol):
    """The live logs of builds, by an id of ours. Lines end in a newline; nothing is ever changed in them."""

    async def append(self, log_id: str, text: str) -> None:
        """Add whole lines. Raises `Unavailable` (`disk_full`)."""

    def read(self, log_id: str, offset: int = 0) -> AsyncIterator[LogPiece]:
        """Yield what there is now from `offset`. A log that does not exist is empty."""

    async def changed(self, log_id: str, offset: int, seconds: float) -> None:
        """Return when the log is longer than `offset` or was removed, at most after so many seconds."""

    async def remove(self, log_id: str) -> None:
        """Forget the log; an absent one is harmless."""
