"""A node's folder that two users work in: the services', and the executor's, under which programs run.

They have one group in common, and nothing is open to anybody else. The services own every folder;
programs may read environments and write to what is handed out to them, and what they leave there is
opened to the services when they end (`cloche_shared.adapters.socket_executor.handover`). Whatever
lies in a folder that was handed out is a stranger's: it is read and removed without following links.
Everything here blocks.
"""

import os
import shutil
import stat
from dataclasses import dataclass
from pathlib import Path

from cloche_shared.adapters.removal import remove_folder

_PRIVATE = 0o700
_READABLE = 0o2750
_WRITABLE = 0o2770
_HANDED_OUT = 0o660


@dataclass(frozen=True, slots=True)
class Sharing:
    """Who besides us works in a node's folder: the group `gid`; None: nobody, and every mode stays private."""

    gid: int | None = None

    @property
    def is_shared(self) -> bool:
        """Tell whether there is somebody else."""
        return self.gid is not None

    def readable(self, folder: Path) -> None:
        """Make a folder in which the group may look."""
        self._folder(folder, _READABLE)

    def writable(self, folder: Path) -> None:
        """Make a folder in which the group may make and remove what it likes."""
        self._folder(folder, _WRITABLE)

    def _folder(self, folder: Path, mode: int) -> None:
        folder.mkdir(mode=_PRIVATE, parents=True, exist_ok=True)
        if self.gid is not None:
            self._allow(str(folder), mode)

    def file(self, path: Path) -> None:
        """Make an empty file that the group may read and write, unless there is one."""
        handle = os.open(path, os.O_RDONLY | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
        try:
            if self.gid is not None:
                os.fchown(handle, -1, self.gid)
                os.fchmod(handle, _HANDED_OUT)
        finally:
            os.close(handle)

    def show(self, root: Path) -> None:
        """Let the group read a tree of ours whose files may be read by all: only its folders are closed."""
        if self.is_shared:
            for folder, _, _ in os.walk(root, topdown=False):
                self._allow(folder, _READABLE)

    def hand_out(self, root: Path) -> None:
        """Give a tree that we made, and that nobody else could enter until now, to the group."""
        if not self.is_shared:
            return
        for folder, _, files in os.walk(root, topdown=False):
            for name in files:
                path = f"{folder}/{name}"
                runs = os.lstat(path).st_mode & stat.S_IXUSR
                self._allow(path, _HANDED_OUT | (stat.S_IXUSR | stat.S_IXGRP if runs else 0))
            self._allow(folder, _WRITABLE)

    def _allow(self, path: str, mode: int) -> None:
        found = os.lstat(path)
        if self.gid is not None and found.st_gid != self.gid:
            os.chown(path, -1, self.gid, follow_symlinks=False)
        if stat.S_IMODE(found.st_mode) != mode:
            os.chmod(path, mode)  # noqa: PTH101 - a thousand folders: a Path each takes as long as the call

    def remove(self, folder: Path) -> None:
        """Remove a folder with all that is in it, as far as that is possible; an absent one is harmless."""
        if self.is_shared:
            shutil.rmtree(folder, ignore_errors=True)
        else:
            remove_folder(folder)


PRIVATE = Sharing()
