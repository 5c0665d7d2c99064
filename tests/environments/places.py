"""Folders, locks and programs that the parts of the environment share."""

import fcntl
import os
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

BEGAN = time.monotonic()


class NotPossible(Exception):
    """Something that the environment needs cannot be had here; the text says what and what to do."""


def cache() -> Path:
    """The folder outside the repository that outlives test runs; CLOCHE_TEST_CACHE moves it."""
    base = os.environ.get("CLOCHE_TEST_CACHE")
    home = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    folder = Path(base) if base else Path(home) / "cloche-tests"
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    return folder


@contextmanager
def locked(name: str, *, wait: bool = True) -> Iterator[None]:
    """Hold a lock among all processes on this machine; released by the kernel when the holder dies.

    Without `wait` a lock that another process holds raises BlockingIOError.
    """
    folder = cache() / "locks"
    folder.mkdir(exist_ok=True)
    with (folder / name).open("a") as file:
        fcntl.flock(file, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
        yield


def say(text: str) -> None:
    """One line of progress, with the seconds since the start."""
    sys.stderr.write(f"[{time.monotonic() - BEGAN:6.1f} s] {text}\n")
    sys.stderr.flush()


def call(argv: Sequence[str | Path], folder: Path | None = None, **environ: str) -> str:
    """Run a program and return what it printed; its last lines are in the error when it fails."""
    done = subprocess.run(
        [str(part) for part in argv],
        cwd=folder,
        env={**os.environ, **environ},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
    )
    if done.returncode:
        last = "\n".join(done.stdout.strip().splitlines()[-15:])
        raise NotPossible(f"{' '.join(map(str, argv[:3]))} … ended with {done.returncode}:\n{last}")
    return done.stdout
