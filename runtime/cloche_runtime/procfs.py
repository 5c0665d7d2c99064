"""What the kernel tells about processes: identity, descendants, memory.

A process is named by its pid and its start time together (clock ticks since boot, field 22 of
/proc/<pid>/stat; see proc(5)), because pids are used again.
"""

import functools
import os
from typing import Dict, List, Optional, Tuple

PAGE = os.sysconf("SC_PAGE_SIZE")


class Stat:
    """The fields of /proc/<pid>/stat that matter here."""

    __slots__ = ("group", "parent", "pid", "session", "start", "state")

    def __init__(self, pid: int, fields: List[bytes]) -> None:
        self.pid = pid
        self.state = fields[0]
        self.parent = int(fields[1])
        self.group = int(fields[2])
        self.session = int(fields[3])
        self.start = int(fields[19])


def read(path: str) -> bytes:
    """Return a small file's content, empty where it cannot be read."""
    try:
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except OSError:
        return b""
    try:
        parts: List[bytes] = []
        while True:
            part = os.read(fd, 65536)
            if not part:
                return b"".join(parts)
            parts.append(part)
    except OSError:
        return b""
    finally:
        os.close(fd)


def stat(pid: int) -> Optional[Stat]:
    """Return a process's fields, None when it is gone. A zombie still has them (state Z)."""
    text = read("/proc/%d/stat" % pid)
    if not text:
        return None
    return Stat(pid, text[text.rindex(b")") + 2 :].split())


def start_time(pid: int) -> int:
    """Return when a process began, in clock ticks since boot; 0 when it is gone."""
    found = stat(pid)
    return found.start if found else 0


@functools.lru_cache(maxsize=None)
def boot_id() -> str:
    """Return the id of this boot: pids recorded under another one mean nothing."""
    return read("/proc/sys/kernel/random/boot_id").decode().strip()


def everything() -> List[Stat]:
    """Return all processes that can be seen."""
    found = (stat(int(name)) for name in os.listdir("/proc") if name.isdigit())
    return [one for one in found if one is not None]


def _children(pid: int) -> Optional[List[int]]:
    """Return a process's children from its tasks' own lists, None where the kernel keeps none."""
    base = "/proc/%d/task" % pid
    try:
        tasks = os.listdir(base)
    except OSError:
        return []
    found: List[int] = []
    for task in tasks:
        path = "%s/%s/children" % (base, task)
        text = read(path)
        if not text and not os.path.exists(path) and os.path.exists(base):
            return None
        found.extend(int(one) for one in text.split())
    return found


def _scanned(root: int) -> List[int]:
    """Return the descendants of a process from a scan of all processes."""
    by_parent: Dict[int, List[int]] = {}
    for one in everything():
        by_parent.setdefault(one.parent, []).append(one.pid)
    found: List[int] = []
    todo = [root]
    while todo:
        children = by_parent.get(todo.pop(), [])
        found.extend(children)
        todo.extend(children)
    return found


def descendants(root: int) -> List[int]:
    """Return the pids of all living descendants of a process, zombies included."""
    found: List[int] = []
    todo = [root]
    while todo:
        children = _children(todo.pop())
        if children is None:
            return _scanned(root)
        found.extend(children)
        todo.extend(children)
    return found


def resident(pids: List[int]) -> int:
    """Return the sum of the resident sets in bytes; shared pages count once for each process."""
    total = 0
    for pid in pids:
        fields = read("/proc/%d/statm" % pid).split()
        total += int(fields[1]) * PAGE if len(fields) > 1 else 0
    return total


def proportional(pids: List[int]) -> int:
    """Return the sum of the proportional sets in bytes (shared pages divided); resident where hidden."""
    total = 0
    for pid in pids:
        text = read("/proc/%d/smaps_rollup" % pid)
        at = text.find(b"\nPss:")
        total += int(text[at + 5 :].split(None, 1)[0]) * 1024 if at >= 0 else resident([pid])
    return total


def kernel_kills() -> int:
    """Return how many processes the kernel killed for want of memory since boot; 0 where it does not say."""
    for line in read("/proc/vmstat").splitlines():
        if line.startswith(b"oom_kill "):
            return int(line.split()[1])
    return 0


def identity(pid: int) -> Tuple[int, int]:
    """Return a process's pid and start time."""
    return pid, start_time(pid)
