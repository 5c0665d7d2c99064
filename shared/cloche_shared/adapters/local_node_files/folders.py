"""Working folders: a snapshot's tree out, outputs and logs in. Links are never followed."""

import asyncio
import itertools
import os
import posixpath
import re
import stat
from collections.abc import AsyncIterator, Iterator, Sequence
from pathlib import Path

from cloche_shared.adapters.removal import remove_folder
from cloche_shared.blobs.errors import disk_error
from cloche_shared.contracts.files import FileEntry, Manifest
from cloche_shared.errors import Failed, Invalid, NotFound
from cloche_shared.ports.blobs import Blobs
from cloche_shared.ports.node_files import Budget, PartlyCollectedError
from cloche_shared.store.paths import check_manifest, check_path, path_fault

CHUNK = 1 << 20
AT_ONCE = 8
FEW = 16
"""Files of a snapshot that one thread writes."""
MAX_FILES = 100_000

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
        root = self.path(work_id)
        for folder in folders:
            check_path(folder, pointer="/folders")
        entries: list[FileEntry] = []
        faults: list[str] = []
        there = _there(root, folders)
        for path in await asyncio.to_thread(_found, root, there, faults) if there else ():
            try:
                entry = await _store(root, path, blobs, budget)
            except (TimeoutError, ConnectionError):
                raise  # the store's, not the file's
            except _NoRoomError as error:
                faults.append(str(error))
            except OSError as error:
                faults.append(_fault(path, error))
            else:
                entries.extend([entry] if entry is not None else [])
        if faults:
            raise PartlyCollectedError(faults, entries, limit=budget.limit if budget and budget.over else None)
        return Manifest(files=tuple(entries))

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


def _fault(path: str, error: OSError) -> str:
    return f"{path}: {error.strerror or type(error).__name__}"


def _there(root: Path, folders: Sequence[str]) -> list[str]:
    """Return which folders there are. It runs on the loop: most runs leave none, and a thread costs more."""
    return [folder for folder in folders if os.path.lexists(root / folder)]


def _found(root: Path, folders: Sequence[str], faults: list[str]) -> list[str]:
    """Return the paths to collect, sorted, `MAX_FILES` at most; what cannot be looked at is noted."""
    found = list(itertools.islice(_regular(root, folders, faults), MAX_FILES + 1))
    if len(found) > MAX_FILES:
        faults.append(f"there are more than {MAX_FILES} files")
    return sorted(found[:MAX_FILES])


def _regular(root: Path, folders: Sequence[str], faults: list[str]) -> Iterator[str]:
    """Yield the paths of regular files below the folders whose names can be carried."""

    def refused(error: OSError) -> None:
        faults.append(_fault(os.path.relpath(os.fsdecode(error.filename or root), root), error))

    for folder in folders:
        if _is_linked(root, folder) or not (root / folder).is_dir():
            continue
        for found, _, names, handle in os.fwalk(root / folder, onerror=refused, follow_symlinks=False):
            for name in names:
                path = os.path.relpath(f"{found}/{name}", root)
                if path_fault(path) is None and _is_regular(name, handle):
                    yield path


def _is_regular(name: str, folder: int) -> bool:
    try:
        return stat.S_ISREG(os.lstat(name, dir_fd=folder).st_mode)
    except FileNotFoundError:
        return False


def _is_linked(root: Path, folder: str) -> bool:
    parts = folder.split("/")
    return any((root / "/".join(parts[:count])).is_symlink() for count in range(1, len(parts) + 1))


class _NoRoomError(Exception):
    """A file does not fit the budget."""


async def _store(root: Path, path: str, blobs: Blobs, budget: Budget | None) -> FileEntry | None:
    """Store one file; None when it is gone, or no longer a regular file. Raises `_NoRoomError`."""
    file = await asyncio.to_thread(_open_below, root, path)
    if file is None:
        return None
    with os.fdopen(file, "rb") as stream:
        status = os.fstat(stream.fileno())
        if not stat.S_ISREG(status.st_mode):
            return None
        if budget is not None and not budget.take(status.st_size):
            raise _NoRoomError(budget.fault(path, status.st_size))
        blob = await blobs.put(_chunks(stream.fileno()))
    return FileEntry(path=path, digest=blob.digest, size=blob.size, executable=bool(status.st_mode & 0o100))


def _open_below(root: Path, path: str) -> int | None:
    """Open a file without following a link in any of its parts."""
    *parents, name = path.split("/")
    folder = os.open(root, os.O_RDONLY | os.O_DIRECTORY)
    try:
        for part in parents:
            inner = os.open(part, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW, dir_fd=folder)
            os.close(folder)
            folder = inner
        return os.open(name, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK, dir_fd=folder)
    except OSError as error:
        if error.errno is not None and isinstance(error, PermissionError):
            raise
        return None
    finally:
        os.close(folder)


async def _chunks(file: int) -> AsyncIterator[bytes]:
    while chunk := await asyncio.to_thread(os.read, file, CHUNK):
        yield chunk
