"""What crashes leave in folders for things in the making, and trees that processes may still use."""

import fcntl
import os
import threading
import weakref
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path

_LINKS = ("cwd", "exe", "root")


class Tidied:
    """A folder of things in the making that is tidied once, by whoever finds that nobody else uses it.

    All users hold a shared lock while they live. Who can have it for itself is alone, so whatever
    lies in the folder was left by a crash.
    """

    def __init__(self, folder: Path, remove: Callable[[Path], None]) -> None:
        self._folder = folder
        self._remove = remove
        self._is_open = False
        self._opening = threading.Lock()

    def open(self) -> None:
        """Take part, and tidy when alone; from the second call on nothing happens. Blocks; raises `OSError`."""
        with self._opening:
            if not self._is_open:
                self._open()
                self._is_open = True

    def _open(self) -> None:
        self._folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        file = os.open(f"{self._folder}.lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
        weakref.finalize(self, os.close, file)
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            pass
        else:
            for path in unused(sorted(self._folder.iterdir())):
                self._remove(path)
        fcntl.flock(file, fcntl.LOCK_SH)


def unused(paths: list[Path]) -> list[Path]:
    """Return those of the paths that no process of ours runs from, stands in, has open or has mapped."""
    left = {os.path.realpath(path): path for path in paths}
    for process in Path("/proc").iterdir() if left else ():
        if process.name.isdigit():
            used = set(_paths_of(process))
            for name in [name for name in left if any(one == name or one.startswith(f"{name}/") for one in used)]:
                del left[name]
    return list(left.values())


def _paths_of(process: Path) -> Iterator[str]:
    """Yield the paths that a process holds; one that ended or is somebody else's holds none."""
    for name in _LINKS:
        with suppress(OSError):
            yield str((process / name).readlink())
    with suppress(OSError):
        for file in (process / "fd").iterdir():
            with suppress(OSError):
                yield str(file.readlink())
    with suppress(OSError):
        for line in (process / "maps").read_bytes().splitlines():
            fields = line.split(None, 5)
            if len(fields) > 5 and fields[5].startswith(b"/"):  # noqa: PLR2004 - the sixth field is the path
                yield os.fsdecode(fields[5])
