"""NodeFiles: what lies on a node's disk (store, prefixes, working folders)."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from cloche_shared.contracts.definition import Lock
from cloche_shared.contracts.files import FileEntry, Manifest
from cloche_shared.errors import Failed, is_disk_full
from cloche_shared.ports.blobs import Blobs

SHOWN_FAULTS = 3
"""How many faults a message names."""
NAMED = 20
"""How much of what was left out is named."""


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

    `faults` are clauses that say what and why; `kept` are the files that were collected. With `limit`
    the files were larger than so many bytes together (code `outputs_too_large`).
    """

    def __init__(self, faults: Sequence[str], kept: Sequence[FileEntry], *, limit: int | None = None) -> None:
        more = f", and {len(faults) - SHOWN_FAULTS} more" if len(faults) > SHOWN_FAULTS else ""
        why = f"{'; '.join(faults[:SHOWN_FAULTS])}{more}."
        if limit is None:
            what = "Not all outputs could be collected."
            todo = "See that the script leaves fewer files, and files that can be read."
            super().__init__("outputs_not_collected", what, why=why, todo=todo)
        else:
            what = f"The outputs are larger than the limit of {limit:,} bytes for a run; the others were kept."
            todo = "Leave less below outputs/, or raise the setting runner.outputs_bytes."
            super().__init__("outputs_too_large", what, why=why, todo=todo, extra={"limit": limit})
        self.kept = tuple(kept)
        self.faults = tuple(faults)


class Budget:
    """How many bytes may still be collected. A file that does not fit is left out; smaller ones may fit.

    What nobody collects, such as a pipe, is no fault: `told` names it, so that it is not missed in silence.
    With `last` nothing is tried again: what a full disk has no room for is left out too, and `no_room` says so.
    """

    def __init__(self, limit: int, *, last: bool = False) -> None:
        self.limit = limit
        self.last = last
        self.over = False
        self.no_room = False
        self._named: list[str] = []
        self._left = limit
        self._unnamed = 0

    def take(self, size: int) -> bool:
        """Whether a file fits; its size is taken off then."""
        if size > self._left:
            self.over = True
            return False
        self._left -= size
        return True

    def forgive(self, error: BaseException) -> bool:
        """Whether a file is left out over this error, which would else be raised."""
        forgiven = self.last and is_disk_full(error)
        self.no_room = self.no_room or forgiven
        return forgiven

    def leave(self, path: str, why: str) -> None:
        """Name what is not collected; beyond some they are counted."""
        self._unnamed += len(self._named) >= NAMED
        if len(self._named) < NAMED:
            self._named.append(f"{path}: {why}")

    def told(self) -> tuple[str, ...]:
        """Return what was left out, in clauses for people."""
        return (*self._named, *([f"and {self._unnamed} more"] if self._unnamed else ()))

    def fault(self, path: str, size: int) -> str:
        """Say that a file was left out."""
        return f"{path}: its {size:,} bytes do not fit"


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

    async def collect(
        self, work_id: str, folders: Sequence[str], blobs: Blobs, budget: Budget | None = None
    ) -> Manifest:
        """Store every regular file below `folders` (`outputs`, `logs`) of a working folder, links not followed.

        Raises `PartlyCollectedError` when some cannot be read, are too many, or do not fit the budget,
        `Unavailable` when the store cannot take them now.
        """

    async def discard(self, work_id: str) -> None:
        """Remove a working folder; an absent one is harmless."""
