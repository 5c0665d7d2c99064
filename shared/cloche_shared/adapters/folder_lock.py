"""A lock on a folder: it proves that its former holder is dead, whatever state it left."""

import contextlib
import fcntl
import os
from pathlib import Path
from types import TracebackType
from typing import Self

from cloche_shared.errors import Conflict


class FolderLock:
    """An exclusive lock that the kernel gives back when the process ends, however it ends."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._descriptor: int | None = None

    def __enter__(self) -> Self:
        """Take the lock. Raises `Conflict` (code `already_running`) with the holder's process id."""
        descriptor = os.open(self._path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            holder = os.read(descriptor, 32).decode(errors="replace").strip()
            os.close(descriptor)
            raise Conflict(
                "already_running",
                "Another Cloche uses this data folder.",
                why=f"Process {holder} holds its lock." if holder else "",
                todo="`cloche status` shows it, `cloche down` stops it; or use another folder with --home.",
                extra={"pid": int(holder) if holder.isdigit() else None},
            ) from error
        pid = str(os.getpid()).encode()
        with contextlib.suppress(OSError):  # on a full disk the lock holds all the same
            os.ftruncate(descriptor, os.pwrite(descriptor, pid, 0))
        self._descriptor = descriptor
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._descriptor is not None:
            os.close(self._descriptor)
            self._descriptor = None
