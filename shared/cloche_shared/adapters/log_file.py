"""Standard error that may be a log file of ours, which is held to a size.

A process in the background writes to a file that nobody else rotates. When it is full it becomes
`<name>.1`, in place of the former one, and a new file begins under the same descriptors: so both
together hold at most twice the limit and a line, and what libraries write goes the same way.
"""

import os
import threading
from pathlib import Path
from typing import Final

STDOUT: Final = 1
STDERR: Final = 2


class LogFile:
    """Writes lines to a descriptor; where that is the file `path`, it is held to `limit` bytes (0: never)."""

    def __init__(self, path: Path, limit: int, *, descriptor: int = STDERR) -> None:
        self._path = path
        self._limit = limit
        self._descriptor = descriptor
        self._ours = limit > 0 and _is_same(path, descriptor)
        self._lock = threading.Lock()

    def write(self, line: bytes) -> int:
        """Write whole lines; returns how many bytes were taken."""
        if self._ours and os.fstat(self._descriptor).st_size + len(line) > self._limit:
            with self._lock:
                self._begin_anew(len(line))
        return os.write(self._descriptor, line)

    def _begin_anew(self, size: int) -> None:
        """Set the full file aside, unless somebody did. What cannot be done is tried again with the next line."""
        if os.fstat(self._descriptor).st_size + size <= self._limit:
            return
        try:
            if _is_same(self._path, self._descriptor):
                self._path.replace(self._path.with_name(f"{self._path.name}.1"))
            fresh = os.open(self._path, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
        except OSError:
            return
        both = self._descriptor == STDERR and _is_open_as(STDOUT, STDERR)
        os.dup2(fresh, self._descriptor)
        if both:
            os.dup2(fresh, STDOUT)
        os.close(fresh)


def _is_same(path: Path, descriptor: int) -> bool:
    try:
        return os.path.samestat(path.lstat(), os.fstat(descriptor))
    except OSError:
        return False


def _is_open_as(one: int, other: int) -> bool:
    try:
        return os.path.samestat(os.fstat(one), os.fstat(other))
    except OSError:
        return False
