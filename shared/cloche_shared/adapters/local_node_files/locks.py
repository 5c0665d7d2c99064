"""One maker at a time: in this process by asyncio, among processes by a locked file."""

import asyncio
import fcntl
import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

POLL_SECONDS = 0.02


class Locks:
    """Locks by name; names are our own (digests and words)."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._local: dict[str, tuple[asyncio.Lock, int]] = {}

    @asynccontextmanager
    async def hold(self, name: str) -> AsyncIterator[None]:
        """Hold the lock of a name; a process that dies gives it back."""
        lock, users = self._local.get(name, (asyncio.Lock(), 0))
        self._local[name] = (lock, users + 1)
        try:
            async with lock, self._file(name):
                yield
        finally:
            lock, users = self._local.pop(name)
            if users > 1:
                self._local[name] = (lock, users - 1)

    @asynccontextmanager
    async def _file(self, name: str) -> AsyncIterator[None]:
        file = self._open(name)
        try:
            while not _locked(file):  # noqa: ASYNC110 - another process gives no event
                await asyncio.sleep(POLL_SECONDS)
            yield
        finally:
            os.close(file)

    def _open(self, name: str) -> int:
        self._folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        return os.open(self._folder / name, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)


def _locked(file: int) -> bool:
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True
