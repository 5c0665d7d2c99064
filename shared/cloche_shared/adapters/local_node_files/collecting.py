"""What a run left is stored: every regular file below some folders, opened without following a link.

Small files are read and stored many at a time, so that ten thousand of them do not cost ten thousand turns of the loop;
large ones stream. What is neither a file nor a link to one of the outputs is told by the budget.
"""

import asyncio
import itertools
import os
import stat
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from cloche_shared.contracts.files import FileEntry, Manifest
from cloche_shared.ports.blobs import Blobs
from cloche_shared.ports.node_files import Budget, PartlyCollectedError
from cloche_shared.store.paths import path_fault

CHUNK = 1 << 20
MAX_FILES = 100_000
SMALL = 64 << 10
"""Bytes of a file that is read whole."""
BATCH = 128
"""Files that one thread looks at in one go, so that 8 MiB at most are held."""
AT_ONCE = 8
"""Small files that are stored at the same time: their syncs are waited for together."""


@dataclass(frozen=True, slots=True)
class _Found:
    """A file to store as `path`; its bytes lie at `source`, which differs for a link."""

    path: str
    source: str


@dataclass(frozen=True, slots=True)
class _Opened:
    """A file as it was found: its bytes where it is small, why it cannot be read where it cannot."""

    found: _Found
    size: int = 0
    executable: bool = False
    data: bytes | None = None
    fault: str = ""


class _NoRoomError(Exception):
    """A file does not fit the budget."""


async def collect(root: Path, folders: Sequence[str], blobs: Blobs, budget: Budget) -> Manifest:
    """Store what lies below the folders; returns it sorted by path. Raises `PartlyCollectedError`."""
    faults: list[str] = []
    there = _there(root, folders)
    found = await asyncio.to_thread(_look, root, there, faults, budget.leave) if there else []
    entries: list[FileEntry] = []
    for start in range(0, len(found), BATCH):
        opened = [one for one in await asyncio.to_thread(_read, root, found[start : start + BATCH]) if one is not None]
        slots = asyncio.Semaphore(1 if budget.last else AT_ONCE)
        if budget.last:  # there is little room: most files find some when the smallest are stored first
            opened.sort(key=lambda one: one.size)
        stored = await asyncio.gather(
            *(_store(root, one, blobs, budget, slots) for one in opened), return_exceptions=True
        )
        for one, result in zip(opened, stored, strict=True):
            entries.extend(_taken(one, result, faults, budget))
    entries.sort(key=lambda entry: entry.path)
    if faults:
        raise PartlyCollectedError(faults, entries, limit=budget.limit if budget.over else None)
    return Manifest(files=tuple(entries))


def _taken(
    opened: _Opened, result: FileEntry | BaseException | None, faults: list[str], budget: Budget
) -> list[FileEntry]:
    """Return the entry of a stored file; note why one could not be. What is the store's fault is raised."""
    if isinstance(result, _NoRoomError):
        faults.append(str(result))
    elif isinstance(result, OSError) and not isinstance(result, TimeoutError | ConnectionError):
        faults.append(_fault(opened.found.path, result))
    elif isinstance(result, BaseException):
        if not budget.forgive(result):
            raise result
        faults.append(f"{shown(opened.found.path)}: there is no room for its {opened.size:,} bytes")
    return [result] if isinstance(result, FileEntry) else []


def _fault(path: str, error: OSError) -> str:
    return f"{shown(path)}: {error.strerror or type(error).__name__}"


def shown(path: str) -> str:
    """Return a path as a message can hold it."""
    return path if path.isprintable() else ascii(path)[1:-1]


def _there(root: Path, folders: Sequence[str]) -> list[str]:
    """Return which folders there are. It runs on the loop: most runs leave none, and a thread costs more."""
    return [folder for folder in folders if os.path.lexists(root / folder)]


# --- looking


def _look(root: Path, folders: Sequence[str], faults: list[str], leave: Callable[[str, str], None]) -> list[_Found]:
    """Return what to store, sorted, `MAX_FILES` at most; what cannot be looked at is noted."""
    found = list(itertools.islice(_walk(root, folders, faults, leave), MAX_FILES + 1))
    if len(found) > MAX_FILES:
        faults.append(f"there are more than {MAX_FILES} files")
    return sorted(found[:MAX_FILES], key=lambda one: one.path)


def _walk(root: Path, folders: Sequence[str], faults: list[str], leave: Callable[[str, str], None]) -> Iterator[_Found]:
    def refused(error: OSError) -> None:
        faults.append(_fault(os.path.relpath(os.fsdecode(error.filename or root), root), error))

    for folder in folders:
        if _is_linked(root, folder) or not (root / folder).is_dir():
            leave(folder, "it is not a folder but a link or a file")
            continue
        for at, below, names, handle in os.fwalk(root / folder, onerror=refused, follow_symlinks=False):
            for name in [*names, *(one for one in below if stat.S_ISLNK(_mode(one, handle)))]:
                path = os.path.relpath(f"{at}/{name}", root)
                source, why = _source(root, folders, path, _mode(name, handle))
                if why:
                    leave(shown(path), why)
                elif source:
                    yield _Found(path, source)


def _mode(name: str, folder: int) -> int:
    try:
        return os.lstat(name, dir_fd=folder).st_mode
    except FileNotFoundError:
        return 0


def _source(root: Path, folders: Sequence[str], path: str, mode: int) -> tuple[str, str]:
    """Return where the bytes of a path lie, or why it is left out; neither when it is gone."""
    fault = path_fault(path)
    if not mode or fault is not None:
        return "", f"its name cannot be kept, {fault}" if mode else ""
    if stat.S_ISREG(mode):
        return path, ""
    if not stat.S_ISLNK(mode):
        return "", "it is not a regular file"
    target = _target(root, folders, path)
    return target, "" if target else "it is a link to something that is no file of the outputs"


def _target(root: Path, folders: Sequence[str], path: str) -> str:
    """Return the file of the outputs that a link leads to; empty for any other. It is opened by its own path."""
    try:
        real = os.path.realpath(root / path, strict=True)
        target = os.path.relpath(real, os.path.realpath(root))
        is_file = stat.S_ISREG(os.lstat(real).st_mode)
    except OSError:
        return ""
    inside = any(target.startswith(f"{folder}/") for folder in folders)
    return target if is_file and inside and path_fault(target) is None else ""


def _is_linked(root: Path, folder: str) -> bool:
    parts = folder.split("/")
    return any((root / "/".join(parts[:count])).is_symlink() for count in range(1, len(parts) + 1))


# --- storing


def _read(root: Path, found: Sequence[_Found]) -> list[_Opened | None]:
    return [_open(root, one) for one in found]


def _open(root: Path, found: _Found) -> _Opened | None:
    """Look at one file, and read it where it is small; None when it is gone, or no longer a regular file."""
    try:
        file = _open_below(root, found.source)
    except OSError as error:
        return _Opened(found, fault=error.strerror or type(error).__name__)
    if file is None:
        return None
    with os.fdopen(file, "rb") as stream:
        status = os.fstat(file)
        if not stat.S_ISREG(status.st_mode):
            return None
        executable = bool(status.st_mode & 0o100)
        if status.st_size > SMALL:
            return _Opened(found, status.st_size, executable)
        try:
            data = stream.read(SMALL + 1)
        except OSError as error:
            return _Opened(found, fault=error.strerror or type(error).__name__)
    return _Opened(found, len(data), executable, data if len(data) <= SMALL else None)


async def _store(
    root: Path, opened: _Opened, blobs: Blobs, budget: Budget, slots: asyncio.Semaphore
) -> FileEntry | None:
    """Store one file. Raises `_NoRoomError`, and what the file or the store raises."""
    path = opened.found.path
    if opened.fault:
        raise OSError(0, opened.fault)
    if not budget.take(opened.size):
        raise _NoRoomError(budget.fault(path, opened.size))
    async with slots:
        if opened.data is not None:
            blob = await blobs.put_bytes(opened.data)
        else:
            file = await asyncio.to_thread(_open_below, root, opened.found.source)
            if file is None:
                return None
            with os.fdopen(file, "rb"):
                blob = await blobs.put(_chunks(file))
    return FileEntry(path=path, digest=blob.digest, size=blob.size, executable=opened.executable)


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
