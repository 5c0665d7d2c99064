"""Small records on disk: replaced whole, made durable, with room reserved for the one that must not fail."""

import json
import os
from typing import Any, Dict

_RESERVED = 4096  # bytes for the exit record


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
