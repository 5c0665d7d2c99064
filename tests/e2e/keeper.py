"""Ends what a test session left, when nobody uses the session's folder any more.

    python keeper.py ROOT

Every pytest process that uses a server holds a shared lock on `ROOT/users.lock`; the kernel drops it
with the process, however that ends. The keeper (one at a time, by `ROOT/keeper.lock`) waits for the
exclusive lock, asks the servers below `ROOT/homes` to end, kills what is left of them and adds its
command lines to `ROOT/left.txt`. Standard library only.
"""

import contextlib
import fcntl
import os
import shutil
import signal
import sys
import time
from collections.abc import Callable
from pathlib import Path

SERVERS = ("cloche._embedded", "cloche_registry", "cloche_builder", "cloche_runner", "cloche_deployer", "http.server")
GENTLE = 30.0
"""Seconds that servers have to end by themselves."""
AFTERWARDS = 5.0
"""Seconds that what was a child of a server has to notice that its server ended."""


def main(root: Path) -> None:
    with (root / "users.lock").open("w") as users, (root / "keeper.lock").open("w") as only:
        try:
            fcntl.flock(only, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return
        fcntl.flock(users, fcntl.LOCK_EX)
        clean(root)
        # The next user starts a keeper as soon as it has its lock: this one must have given up its place.


def clean(root: Path) -> None:
    shutil.rmtree(root / "servers", ignore_errors=True)
    homes = root / "homes"
    # what the last tests ended or deleted may still be on its way to the nodes, where services leave work alone
    wait_until(lambda: not any(is_work(pid) for pid in processes_of(homes)) or not is_cluster(homes), GENTLE)
    for pid in processes_of(homes):
        if is_server(pid):
            signal_to(pid, signal.SIGTERM)
    left = settled(homes)
    with (root / "left.txt").open("a") as file:
        file.writelines(f"{line}\n" for line in left)


def is_server(pid: int) -> bool:
    return any(f"-m {name}" in command(pid) for name in SERVERS)


def is_cluster(homes: Path) -> bool:
    return any("-m cloche_runner" in command(pid) for pid in processes_of(homes))


def is_work(pid: int) -> bool:
    """Whether a process is a scoring worker or the supervisor of a run, which a node's nursery forked."""
    return "scoring_worker.py" in command(pid) or (
        "nursery.py" in command(pid) and "nursery.py" in command(parent(pid))
    )


def settled(homes: Path) -> list[str]:
    """Wait for the servers, then end everything else; return the command lines of what had to be ended."""
    wait_until(lambda: not any(is_server(pid) for pid in processes_of(homes)), GENTLE)
    wait_until(lambda: not processes_of(homes), AFTERWARDS)
    left = []
    for _ in range(20):
        found = processes_of(homes)
        if not found:
            break
        for pid in found:
            left.append(command(pid) or f"process {pid}, which has no command line, in state {state(pid)}")
            signal_to(pid, signal.SIGKILL)
        time.sleep(0.1)
    return sorted(set(left))


def wait_until(holds: Callable[[], bool], seconds: float) -> None:
    end = time.monotonic() + seconds
    while not holds() and time.monotonic() < end:
        time.sleep(0.05)


def processes_of(folder: Path) -> list[int]:
    """Return the living processes of this user that have something to do with a folder, except this one."""
    return [pid for pid in all_processes() if pid != os.getpid() and concerns(pid, str(folder))]


def all_processes() -> list[int]:
    return [int(entry.name) for entry in Path("/proc").iterdir() if entry.name.isdecimal()]


def concerns(pid: int, folder: str) -> bool:
    proc = Path(f"/proc/{pid}")
    try:
        if proc.stat().st_uid != os.getuid() or state(pid) in {"Z", "X"}:
            return False
        return folder in str((proc / "cwd").readlink()) or folder in command(pid) or has_open(proc, folder)
    except OSError:
        return False


def has_open(proc: Path, folder: str) -> bool:
    for descriptor in (proc / "fd").iterdir():
        with contextlib.suppress(OSError):
            if str(descriptor.readlink()).startswith(f"{folder}/"):
                return True
    return False


def state(pid: int) -> str:
    """Return the letter of a process's state; `X` when there is none."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except (OSError, IndexError):
        return "X"


def parent(pid: int) -> int:
    """Return the number of a process's parent; 0 when there is none."""
    try:
        return int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])
    except (OSError, IndexError):
        return 0


def command(pid: int) -> str:
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace").strip()
    except OSError:
        return ""


def signal_to(pid: int, number: int) -> None:
    with contextlib.suppress(ProcessLookupError):
        os.kill(pid, number)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
