"""Small records on disk: replaced whole, made durable, with room reserved for those that must not fail."""

import json
import os
from typing import Any, Dict

_RESERVED = 4096  # bytes of a record for which room is taken


def write_json(path: str, value: Dict[str, Any]) -> None:
    """Replace a file whole, so that a reader never sees half of it; over reserved room where there is some."""
    data = json.dumps(value).encode()
    fd = os.open(path + ".new", os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        os.write(fd, data)
        os.ftruncate(fd, len(data))
    finally:
        os.close(fd)
    os.replace(path + ".new", path)


def reserve(path: str) -> None:
    """Take the room that a record will need, so that a full disk cannot swallow the end of a run."""
    fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        os.write(fd, b" " * _RESERVED)
    finally:
        os.close(fd)


class Note:
    """A record that its one writer changes in place: a file of its own for each change costs far more.

    One write of up to a page changes it whole, so whoever reads it after the writer's death finds it whole.
    """

    def __init__(self, path: str) -> None:
        self._path = path
        self._fd = self._open(os.O_CREAT)

    def _open(self, flags: int) -> int:
        return os.open(self._path, os.O_WRONLY | os.O_CLOEXEC | flags, 0o600)

    def write(self, value: Dict[str, Any]) -> None:
        """Change it. On a full disk what was written before stays."""
        data = json.dumps(value).encode()
        if len(data) <= _RESERVED:
            os.pwrite(self._fd, data.ljust(_RESERVED), 0)
            return
        write_json(self._path, value)
        os.close(self._fd)
        self._fd = self._open(0)
