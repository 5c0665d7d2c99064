"""Live logs in a folder of the data folder; file names are digests of our ids."""

import asyncio
import contextlib
import hashlib
import os
from collections import defaultdict
from collections.abc import AsyncIterator
from pathlib import Path

from cloche_builder.ports import LogPiece
from cloche_shared.errors import Unavailable

PIECE = 1 << 16


class FileLogs:
    """`BuildLogs` on files, which outlive the process: whoever adopts a build goes on with its log."""

    def __init__(self, root: Path) -> None:
        self._root = root
        self._changed: defaultdict[str, asyncio.Event] = defaultdict(asyncio.Event)

    def _path(self, log_id: str) -> Path:
        return self._root / f"{hashlib.sha256(log_id.encode()).hexdigest()[:40]}.log"

    def _tell(self, log_id: str) -> None:
        changed = self._changed.pop(log_id, None)
        if changed is not None:
            changed.set()

    async def append(self, log_id: str, text: str) -> None:
        try:
            await asyncio.to_thread(_append, self._path(log_id), text.encode())
        except OSError as error:
            raise Unavailable("disk_full", "The build's log cannot be written.", why=str(error.strerror)) from error
        self._tell(log_id)

    async def read(self, log_id: str, offset: int = 0) -> AsyncIterator[LogPiece]:
        fd = await asyncio.to_thread(_open, self._path(log_id))
        if fd < 0:
            return
        try:
            while data := await asyncio.to_thread(_whole_lines, fd, offset):
                yield LogPiece(offset, data)
                offset += len(data)
        finally:
            os.close(fd)

    async def changed(self, log_id: str, offset: int, seconds: float) -> None:
        changed = self._changed[log_id]
        if await asyncio.to_thread(_size, self._path(log_id)) > offset:
            return
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                await changed.wait()

    async def remove(self, log_id: str) -> None:
        await asyncio.to_thread(self._path(log_id).unlink, missing_ok=True)
        self._tell(log_id)


def _append(path: Path, data: bytes) -> None:
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
    try:
        view = memoryview(data)
        while view:
            view = view[os.write(fd, view) :]
    finally:
        os.close(fd)


def _open(path: Path) -> int:
    try:
        return os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW)
    except FileNotFoundError:
        return -1


def _size(path: Path) -> int:
    try:
        return path.stat().st_size
    except FileNotFoundError:
        return 0


def _whole_lines(fd: int, offset: int) -> bytes:
    """Return whole lines from `offset`, or a part of a line that is longer than a piece."""
    data = os.pread(fd, PIECE, offset)
    end = data.rfind(b"\n") + 1
    return data[:end] if end or len(data) < PIECE else data
