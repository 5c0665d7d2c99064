"""A file that keeps room on the data folder's disk, so that a full disk does not keep ends from being recorded.

It is given up in small pieces, because whatever else fills the disk takes of each what it can.
"""

import asyncio
import contextlib
import os
import stat
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Final

SIZE: Final = 8 * 1024 * 1024
"""Bytes that are kept. A record takes a few pages, a start less than 1 MiB."""
PIECE: Final = 1024 * 1024
_LEAST: Final = 64 * 1024
START_NEEDS: Final = 2 * 1024 * 1024
"""Bytes that must be free for a start: log, records and what SQLite shares between its connections."""
NEARLY_FULL: Final = 256 * 1024
LOOK_S: Final = 30.0


class DiskReserve:
    """Keeps room as the file `path` (mode 0600). What cannot be kept is done without."""

    def __init__(self, path: Path, size: int = SIZE) -> None:
        self._path = path
        self._size = size

    def give_up(self) -> bool:
        kept = self._kept()
        if kept:
            self._change(lambda file: os.ftruncate(file, max(0, kept - PIECE)))
        return kept > 0

    def take_back(self) -> None:
        self._grow(spare=0)

    def top_up(self) -> None:
        """Keep the whole size again once as much again stays free for others."""
        self._grow(spare=self._size)

    def make_room(self, needed: int = START_NEEDS) -> None:
        """Give up as much as it takes until so many bytes are free."""
        while self.free() < needed and self.give_up():
            pass

    def is_needed(self) -> bool:
        return self.free() < NEARLY_FULL

    def free(self) -> int:
        """Return how many bytes this user can still write there."""
        found = os.statvfs(self._path.parent)
        return found.f_bavail * found.f_frsize

    def _kept(self) -> int:
        """Return how much is kept; nothing where something else lies in the file's place."""
        try:
            found = self._path.lstat()
        except FileNotFoundError:
            return 0
        return found.st_size if stat.S_ISREG(found.st_mode) else 0

    def _grow(self, *, spare: int) -> None:
        """Grow by what there is room for, less what is to be left to others."""
        kept = self._kept()
        more = min(self._size - kept, self.free() - spare)
        while more >= _LEAST:
            try:
                self._change(partial(_allocate, start=kept, size=more))
            except OSError:
                more //= 2
            else:
                return

    def _change(self, change: Callable[[int], None]) -> None:
        file = os.open(self._path, os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
        try:
            change(file)
        finally:
            os.close(file)


def _allocate(file: int, start: int, size: int) -> None:
    """Take room behind `start`; when there is not enough, none is taken."""
    try:
        if sys.platform == "linux":
            os.posix_fallocate(file, start, size)
        else:
            os.pwrite(file, bytes(size), start)  # a part is better than nothing
    except OSError:
        os.ftruncate(file, start)
        raise


async def keep(reserve: DiskReserve, every_s: float = LOOK_S) -> None:
    """Keep room again whenever there is enough of it, for ever."""
    while True:
        with contextlib.suppress(OSError):  # what cannot be kept now may be later
            await asyncio.to_thread(reserve.top_up)
        await asyncio.sleep(every_s)
