"""A start on a full disk: what the user is told when even the room that is kept for it is not enough."""

import errno
import fcntl
import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from cloche_shared.errors import Unavailable, is_disk_full

_FULL: Final = frozenset({errno.ENOSPC, errno.EDQUOT})
_REMOVABLE: Final = (
    ("cloche.log.1", "the older part of the log"),
    ("builder/uv/uv", "downloads, made again when needed"),
    ("node/prefixes", "unpacked environments, made again when needed"),
    ("node/store", "unpacked packages, made again when needed"),
    ("node/work", "working folders of runs: what is in them is lost, and their runs fail"),
)
"""What of a data folder may be removed while nothing runs there, and what that means."""
_WORTH: Final = 64 * 1024
"""Bytes from which on something is named."""


@contextmanager
def telling_what_is_full(home: Path) -> Iterator[None]:
    """Raise `Unavailable` (`disk_full`) that names the data folder and what of it may be removed."""
    try:
        yield
    except (Unavailable, OSError) as error:
        if not is_disk_full(error) and not (isinstance(error, OSError) and error.errno in _FULL):
            raise
        raise _no_room(home, error) from error


def _no_room(home: Path, error: Exception) -> Unavailable:
    status = os.statvfs(home)
    free, size = status.f_bavail * status.f_frsize, status.f_blocks * status.f_frsize
    found = [(_size(home / name), name, meaning) for name, meaning in _REMOVABLE]
    named = [f"{home / name} ({_mib(used)}; {meaning})" for used, name, meaning in found if used >= _WORTH]
    going_on = [f"{name} (kill {pid})" for name, pid in _going_on(home / "node" / "processes")]
    ends = (
        f" These go on there and may take what becomes free, so end them first: {', '.join(going_on)}."
        if going_on
        else ""
    )
    some = f" Of the data folder may be removed: {'; '.join(named)}." if named else ""
    return Unavailable(
        "disk_full",
        f"There is no room to start in the data folder {home}.",
        why=f"Its disk of {_mib(size)} has {_mib(free)} left: {error}",
        todo=f"Free some space on that disk, then start Cloche again.{ends}{some}",
    )


def _going_on(processes: Path) -> list[tuple[str, int]]:
    """Return the runs and services whose processes live, with their supervisors: each locks its `spec.json`."""
    found = []
    for order in sorted(processes.glob("*/spec.json")):
        try:
            supervisor = json.loads(order.with_name("state.json").read_text())["supervisor"]
            if _is_locked(order):
                found.append((order.parent.name, int(supervisor[0])))
        except (OSError, ValueError, KeyError, TypeError):
            continue
    return found


def _is_locked(path: Path) -> bool:
    with path.open("rb") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return True
    return False


def _size(path: Path) -> int:
    """Return how many bytes something takes on the disk, links not followed."""
    files = [path] if path.is_file() else [Path(at) / name for at, _, names in os.walk(path) for name in names]
    blocks = 0
    for file in files:
        try:
            blocks += file.lstat().st_blocks
        except OSError:
            continue
    return blocks * 512


def _mib(size: int) -> str:
    return f"{size / 2**20:.1f} MiB"
