"""Working folders: a snapshot's tree out, outputs and logs in. Links are never followed."""

import asyncio
import os
import posixpath
import re
import sys
from collections.abc import Sequence
from pathlib import Path

from cloche_shared.adapters.local_node_files.collecting import CHUNK, collect
from cloche_shared.adapters.removal import remove_folder
from cloche_shared.blobs.errors import disk_error
from cloche_shared.contracts.files import FileEntry, Manifest
from cloche_shared.errors import Failed, Invalid, NotFound
from cloche_shared.ports.blobs import Blobs
from cloche_shared.ports.node_files import Budget
from cloche_shared.store.paths import check_manifest, check_path

AT_ONCE = 8
FEW = 16
"""Files of a snapshot that one thread writes."""

_WORK_ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]{0,127}")


class Folders:
    """All working folders of a node, by our own ids."""

    def __init__(self, root: Path) -> None:
        self._root = root

    def path(self, work_id: str) -> Path:
        """Return the folder of an id. Raises `Invalid` (code `invalid_name`) for what is none."""
        if not _WORK_ID.fullmatch(work_id):
            raise Invalid("invalid_name", "A working folder is named by an id of ours.")
        return self._root / work_id

    async def checkout(self, work_id: str, snapshot: Manifest, blobs: Blobs) -> Path:
        """Write the snapshot's files into a fresh folder. Raises `Failed`, `Invalid`."""
        check_manifest(snapshot)
        path = self.path(work_id)
        try:
            if len(snapshot.files) <= FEW:
                sources = [await blobs.file(entry.digest) for entry in snapshot.files]
                if None not in sources:
                    await asyncio.to_thread(_write_few, path, snapshot, sources)
                    return path
            await self._write_all(path, snapshot, blobs)
        except NotFound as error:
            raise Failed(error.code, "A file of the snapshot is missing.", todo="Submit it again.") from error
        except OSError as error:
            raise _failed(error) from error
        return path

    async def _write_all(self, path: Path, snapshot: Manifest, blobs: Blobs) -> None:
        await asyncio.to_thread(_prepare, path, snapshot)
        slots = asyncio.Semaphore(AT_ONCE)
        errors = await asyncio.gather(
            *(self._write(path, entry, blobs, slots) for entry in snapshot.files), return_exceptions=True
        )
        for error in errors:
            if error is not None:
                raise error

    async def _write(self, root: Path, entry: FileEntry, blobs: Blobs, slots: asyncio.Semaphore) -> None:
        async with slots:
            target = root / entry.path
            mode = _mode_of(entry)
            source = await blobs.file(entry.digest)
            if source is not None:
                await asyncio.to_thread(_copy, source, target, mode)
                return
            file = await asyncio.to_thread(os.open, target, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, mode)
            with os.fdopen(file, "wb") as stream:
                async for chunk in blobs.read(entry.digest):
                    await asyncio.to_thread(stream.write, chunk)

    async def collect(
        self, work_id: str, folders: Sequence[str], blobs: Blobs, budget: Budget | None = None
    ) -> Manifest:
        """Store every regular file below the given folders; returns them sorted by path.

        Raises `PartlyCollectedError` when there are files that cannot be read, too many, or too large ones.
        """
        for folder in folders:
            check_path(folder, pointer="/folders")
        return await collect(self.path(work_id), folders, blobs, budget or Budget(sys.maxsize))

    async def discard(self, work_id: str) -> None:
        """Remove a working folder."""
        await asyncio.to_thread(remove_folder, self.path(work_id))


def _failed(error: OSError) -> Failed:
    found = disk_error(error)
    return Failed(found.code, found.what, why=found.why, todo=found.todo)


def _prepare(root: Path, snapshot: Manifest) -> None:
    remove_folder(root)
    try:
        root.mkdir(mode=0o700)
    except FileNotFoundError:
        root.mkdir(mode=0o700, parents=True)
    for parent in sorted({posixpath.dirname(entry.path) for entry in snapshot.files} - {""}):
        (root / parent).mkdir(mode=0o755, parents=True, exist_ok=True)


def _write_few(root: Path, snapshot: Manifest, sources: Sequence[Path | None]) -> None:
    """Write a small snapshot in one go: to ask a thread costs more than to copy a file."""
    _prepare(root, snapshot)
    for entry, source in zip(snapshot.files, sources, strict=True):
        if source is not None:
            _copy(source, root / entry.path, _mode_of(entry))


def _mode_of(entry: FileEntry) -> int:
    return 0o755 if entry.executable else 0o644


def _copy(source: Path, target: Path, mode: int) -> None:
    """Copy, because the user's code may write to its working folder."""
    file = os.open(target, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, mode)
    with os.fdopen(file, "wb") as writer, source.open("rb") as reader:
        while chunk := reader.read(CHUNK):
            writer.write(chunk)
