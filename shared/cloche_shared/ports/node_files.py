"""NodeFiles: what lies on a node's disk (store, prefixes, working folders)."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from cloche_shared.contracts.definition import Lock
from cloche_shared.contracts.files import FileEntry, Manifest
from cloche_shared.errors import Failed
from cloche_shared.ports.blobs import Blobs

SHOWN_FAULTS = 3
"""How many faults a message names."""


@dataclass(frozen=True, slots=True)
class Prefix:
    """A complete environment on this node.

    `python` is the interpreter to start; `reused` tells that it was here already and was found
    untouched; `warnings` are sentences for the user (`.pth` files, overwritten paths).
    """

    path: Path
    python: Path
    reused: bool
    warnings: tuple[str, ...] = ()


class PartlyCollectedError(Failed):
    """Some files cannot be collected, now or later (code `outputs_not_collected`).

    `faults` are clauses that say what and why; `kept` are the files that were collected.
    """

    def __init__(self, faults: Sequence[str], kept: Sequence[FileEntry]) -> None:
        more = f", and {len(faults) - SHOWN_FAULTS} more" if len(faults) > SHOWN_FAULTS else ""
        super().__init__(
            "outputs_not_collected",
            "Not all outputs could be collected.",
            why=f"{'; '.join(faults[:SHOWN_FAULTS])}{more}.",
            todo="See that the script leaves fewer files, and files that can be read.",
        )
        self.kept = tuple(kept)


class NodeFiles(Protocol):
    """One node's folder. Names in paths are digests and our own ids, never a user's text."""

    async def prefix(self, lock_digest: str, lock: Lock, artefacts: Blobs) -> Prefix:
        """Return the prefix of a lock, making it from the store (and the store from `artefacts`) where needed.

        At most one is made at a time for a lock; a prefix that was touched is replaced, and so is
        the store's artefact that it shares its bytes with. Raises `Failed` (code
        `python_not_available`, `blob_not_found`, `disk_full`, `invalid_wheel`).
        """

    async def checkout(self, work_id: str, snapshot: Manifest, blobs: Blobs) -> Path:
        """Make the working folder of an attempt or revision from a snapshot; made again, it is fresh."""

    async def folder(self, work_id: str) -> Path | None:
        """Return the working folder of an id as it was left, None where there is none."""

    async def collect(self, work_id: str, folders: Sequence[str], blobs: Blobs) -> Manifest:
        """Store every regular file below `folders` (`outputs`, `logs`) of a working folder, links not followed.

        Raises `PartlyCollectedError` when some cannot be read or are too many, `Unavailable` when the
        store cannot take them now.
        """

    async def discard(self, work_id: str) -> None:
        """Remove a working folder; an absent one is harmless."""
