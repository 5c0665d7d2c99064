"""What a group wrote, opened to the service's user once the group has ended. Everything here blocks.

Groups and services have users of their own and one group in common. A program may leave files that
only its own user can read (0600) and folders that only it can empty; the executor, which has that
user, adds what the common group needs. Nothing becomes open to others, links are never followed, and
what belongs to somebody else is left as it is. All programs on a node have one user, so whatever
another one does meanwhile gains it nothing.
"""

import os
import stat
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

_LOOK = os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC
_LIST = os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC
_FOLDER_HAS, _FOLDER_LACKS = 0o2770, 0o5002
_FILE_HAS, _FILE_LACKS = 0o640, 0o6002
DEEPEST = 200
"""Folders within folders that are followed: descriptors are held for each."""


class Handover:
    """Opens folders below `share` to the group `gid`; without either, nothing is done."""

    def __init__(self, share: Path | None, gid: int | None) -> None:
        self._share = None if share is None else Path(os.path.realpath(share))
        self._gid = gid
        self._uid = os.geteuid()

    def open_up(self, folders: Sequence[Path]) -> None:
        """Open each of the folders with all that lies in it, as far as it is ours."""
        for folder in folders:
            if self._share is not None and Path(os.path.realpath(folder)).is_relative_to(self._share):
                with suppress(OSError):
                    self._enter(os.open(folder, _LOOK), 0)

    def _enter(self, handle: int, depth: int) -> None:
        """Open up what the descriptor names, and what lies below; the descriptor is closed."""
        try:
            status = os.fstat(handle)
            if stat.S_ISDIR(status.st_mode):
                self._allow(handle, status, _FOLDER_HAS, _FOLDER_LACKS)
                if depth < DEEPEST:
                    self._descend(handle, depth)
            elif stat.S_ISREG(status.st_mode):
                self._allow(handle, status, _FILE_HAS, _FILE_LACKS)
        finally:
            os.close(handle)

    def _descend(self, handle: int, depth: int) -> None:
        listed = os.open(f"/proc/self/fd/{handle}", _LIST)
        try:
            with os.scandir(listed) as entries:
                for entry in entries:
                    if not entry.is_symlink():
                        with suppress(OSError):
                            self._enter(os.open(entry.name, _LOOK, dir_fd=listed), depth + 1)
        finally:
            os.close(listed)

    def _allow(self, handle: int, status: os.stat_result, has: int, lacks: int) -> None:
        if status.st_uid != self._uid:
            return
        path = f"/proc/self/fd/{handle}"
        if self._gid is not None and status.st_gid != self._gid:
            os.chown(path, -1, self._gid)
        mode = stat.S_IMODE(status.st_mode)
        wanted = (mode | has) & ~lacks
        if wanted != mode:
            os.chmod(path, wanted)  # noqa: PTH101 - a descriptor that stands for no path of its own
