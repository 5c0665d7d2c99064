"""Attempts' files on this machine's disk: `<root>/<attempt id>/{journal,uploads,home,tmp}`."""

import asyncio
import os
import re
import stat
from collections.abc import Iterator
from pathlib import Path

from cloche_runner.ports import AttemptPaths
from cloche_shared.adapters.local_node_files.collecting import shown
from cloche_shared.adapters.local_node_files.folders import Folders
from cloche_shared.adapters.sharing import PRIVATE, Sharing
from cloche_shared.contracts.files import FileEntry
from cloche_shared.errors import Internal, Unavailable
from cloche_shared.ports.blobs import Blob, Blobs
from cloche_shared.ports.node_files import Budget, PartlyCollectedError
from cloche_shared.store.paths import path_fault

_ID = re.compile(r"[a-z0-9-]{1,128}")
_FILE = "journal.jsonl"
_PART = re.compile(r".*\.[0-9a-f]{8}\.part")
"""What an upload that never became whole leaves behind."""


class LocalAttemptFiles:
    """Attempts of this node. `root` is made with mode 0700, unless `sharing` names a group to work in it."""

    def __init__(self, root: Path, sharing: Sharing = PRIVATE) -> None:
        self._root = root.absolute()
        self._sharing = sharing

    def _folder(self, attempt_id: str) -> Path:
        if not _ID.fullmatch(attempt_id):
            raise Internal("invalid_attempt_id", "An attempt's id is ours and has only [a-z0-9-].")
        return self._root / attempt_id

    async def prepare(self, attempt_id: str) -> AttemptPaths:
        folder = self._folder(attempt_id)
        paths = AttemptPaths(folder / _FILE, folder / "uploads", folder / "home", folder / "tmp")
        await asyncio.to_thread(_share if self._sharing.is_shared else _make, folder, paths, self._sharing)
        return paths

    async def journal(self, attempt_id: str, offset: int, limit: int) -> bytes:
        path = self._folder(attempt_id) / _FILE
        return await asyncio.to_thread(_read, path, offset, limit) if _is_there(path) else b""

    async def uploads(self, attempt_id: str, blobs: Blobs, budget: Budget | None = None) -> list[FileEntry]:
        folder = self._folder(attempt_id) / "uploads"
        if not _is_there(folder):
            return []
        if self._sharing.is_shared:
            return await self._from_strangers(attempt_id, blobs, budget)
        found = await asyncio.to_thread(lambda: list(_regular_files(folder, budget)))
        entries, faults = [], []
        for name, path, executable in found:
            size = path.lstat().st_size
            if budget is not None and not budget.take(size):
                faults.append(budget.fault(name, size))
                continue
            try:
                blob = await _stored(name, path, size, blobs, budget)
            except _LeftOutError as error:
                faults.append(str(error))
            else:
                entries.append(FileEntry(path=name, digest=blob.digest, size=blob.size, executable=executable))
        if faults:
            raise PartlyCollectedError(faults, entries, limit=budget.limit if budget and budget.over else None)
        return entries

    async def _from_strangers(self, attempt_id: str, blobs: Blobs, budget: Budget | None) -> list[FileEntry]:
        """Store uploads that another user's programs may still move about: each is opened without following links."""
        try:
            found, fault = (await Folders(self._root).collect(attempt_id, ["uploads"], blobs, budget)).files, None
        except PartlyCollectedError as error:
            found, fault = error.kept, error
        whole = [entry for entry in found if not _PART.fullmatch(entry.path)]
        entries = [entry.model_copy(update={"path": entry.path.removeprefix("uploads/")}) for entry in whole]
        if fault is not None:
            fault.kept = tuple(entries)
            raise fault
        return entries

    async def discard(self, attempt_id: str) -> None:
        await asyncio.to_thread(self._sharing.remove, self._folder(attempt_id))

    async def present(self) -> list[str]:
        return await asyncio.to_thread(_names, self._root)


class _LeftOutError(Exception):
    """A file is not kept; the clause says why."""


async def _stored(name: str, path: Path, size: int, blobs: Blobs, budget: Budget | None) -> Blob:
    """Store one file. Raises `_LeftOutError`, and what the store raises."""
    try:
        return await blobs.put_file(path)
    except (TimeoutError, ConnectionError):
        raise  # the store's, not the file's
    except OSError as error:
        raise _LeftOutError(f"{name}: {error.strerror or type(error).__name__}") from error
    except Unavailable as error:
        if budget is None or not budget.forgive(error):
            raise
        raise _LeftOutError(f"{name}: there is no room for its {size:,} bytes") from error


def _share(folder: Path, paths: AttemptPaths, sharing: Sharing) -> None:
    """Make what a script of another user writes to; the rest of the folder it only sees."""
    for path in (folder.parent, folder):
        sharing.readable(path)
    sharing.file(paths.journal)
    for path in (paths.uploads, paths.home, paths.tmp):
        sharing.writable(path)


def _make(folder: Path, paths: AttemptPaths, _sharing: Sharing) -> None:
    """Make the folders that a script finds; that of its uploads is made by the first of them."""
    try:
        folder.mkdir(mode=0o700, exist_ok=True)
    except FileNotFoundError:
        folder.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        folder.mkdir(mode=0o700, exist_ok=True)
    for path in (paths.home, paths.tmp):
        path.mkdir(mode=0o700, exist_ok=True)


def _is_there(path: Path) -> bool:
    """Look on the loop: most scripts log nothing, and a thread costs more than the look."""
    return os.path.lexists(path)


def _read(path: Path, offset: int, limit: int) -> bytes:
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError:
        return b""
    try:
        if not stat.S_ISREG(os.fstat(descriptor).st_mode):
            return b""
        return os.pread(descriptor, limit, offset)
    finally:
        os.close(descriptor)


def _regular_files(folder: Path, budget: Budget | None) -> Iterator[tuple[str, Path, bool]]:
    for at, folders, files in os.walk(folder):
        folders.sort()
        for file in sorted(files):
            path = Path(at) / file
            name = path.relative_to(folder).as_posix()
            mode = path.lstat().st_mode
            if _PART.fullmatch(file):
                continue
            fault = path_fault(name) if stat.S_ISREG(mode) else "it is not a regular file"
            if fault is None:
                yield name, path, bool(mode & 0o100)
            elif budget is not None:
                budget.leave(shown(name), fault)


def _names(root: Path) -> list[str]:
    try:
        return sorted(entry.name for entry in os.scandir(root) if _ID.fullmatch(entry.name))
    except FileNotFoundError:
        return []
