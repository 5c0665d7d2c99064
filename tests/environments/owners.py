"""Who a server belongs to: a test run, by the process that leads it, or the hand that typed `up`."""

import os
from pathlib import Path

from tests.environments.places import cache

# The user that `up` enters and only `down` removes.
STANDING = "standing"


def this_owner() -> str:
    """The test run that this process belongs to: with pytest-xdist the process that started the workers."""
    worker = "PYTEST_XDIST_WORKER" in os.environ
    return owner_of(os.getppid() if worker else os.getpid())


def owner_of(process: int) -> str:
    """A process by number and start, for numbers are used again."""
    return f"{process}-{born(process)}"


def born(process: int) -> str:
    """When a process started, in the kernel's ticks; nothing when it has ended, 0 where the kernel does not say."""
    try:
        state, *more = Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        if Path("/proc/self/stat").exists():
            return ""
    else:
        # Killed, and its parent has not asked for the status yet.
        return "" if state in "ZX" else more[18]
    try:
        os.kill(process, 0)
    except OSError:
        return ""
    return "0"


def lives(owner: str) -> bool:
    if owner == STANDING:
        return True
    number, _, start = owner.partition("-")
    return number.isdigit() and bool(start) and born(int(number)) == start


def runs() -> Path:
    """Where test runs that started something stand until they end."""
    return cache() / "runs"


def entered() -> bool:
    """Whether this run started something."""
    return (runs() / this_owner()).exists()
