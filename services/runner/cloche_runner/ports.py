"""What only the runner needs: the files beside an attempt's working folder."""

from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from cloche_shared.contracts.files import FileEntry
from cloche_shared.ports.blobs import Blobs
from cloche_shared.ports.node_files import Budget


@dataclass(frozen=True, slots=True)
class AttemptPaths:
    """`journal` is where the script's runtime appends, `uploads` where it puts files, `home` and `tmp` its folders."""

    journal: Path
    uploads: Path
    home: Path
    tmp: Path


class AttemptFiles(Protocol):
    """One node's attempts. What lies in their folders was written by users' code: hostile input."""

    async def prepare(self, attempt_id: str) -> AttemptPaths:
        """Make the attempt's folders; made again, what is there stays."""

    async def journal(self, attempt_id: str, offset: int, limit: int) -> bytes:
        """Return up to `limit` bytes of the attempt's journal from `offset` on; nothing when there is none."""

    async def uploads(self, attempt_id: str, blobs: Blobs, budget: Budget | None = None) -> list[FileEntry]:
        """Store every regular file that was uploaded, links not followed, and return them by name.

        Raises `PartlyCollectedError` when some cannot be read, or do not fit the budget.
        """

    async def discard(self, attempt_id: str) -> None:
        """Remove the attempt's folders; absent ones are harmless."""

    async def present(self) -> list[str]:
        """Return the ids of all attempts whose folders are here."""
