"""Executors as processes of their own, for tests: below us, or in a small container of their own."""

import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from cloche_runtime import procfs
from cloche_shared.adapters.socket_executor.reach import connected
from cloche_shared.ports.executor import Limits, ProcessSpec

MODULE = "cloche_shared.adapters.socket_executor"
REPOSITORY = Path(__file__).parent.parent.parent


@dataclass
class Executors:
    """Starts executors on one socket and one root, one after the other."""

    folder: Path
    more: Sequence[str] = ()
    before: Sequence[str] = ()
    living: list[subprocess.Popen[bytes]] = field(default_factory=list)

    @property
    def socket(self) -> Path:
        return self.folder / "executor.sock"

    @property
    def root(self) -> Path:
        return self.folder / "processes"

    def start(self, *, env: Mapping[str, str] | None = None) -> subprocess.Popen[bytes]:
        """Start one and return when it listens."""
        self.socket.unlink(missing_ok=True)
        argv = [sys.executable, "-m", MODULE, "--socket", str(self.socket), "--root", str(self.root), *self.more]
        process = subprocess.Popen([*self.before, *argv], env={**os.environ, **(env or {})}, stderr=subprocess.PIPE)
        self.living.append(process)
        until = time.monotonic() + 20
        while not listens(self.socket):
            if process.poll() is not None or time.monotonic() > until:
                process.kill()
                raise AssertionError(process.communicate()[1].decode())
            time.sleep(0.01)
        return process

    def kill(self) -> None:
        """End the last one as a power cut would."""
        process = self.living[-1]
        process.kill()
        process.wait()

    def close(self) -> None:
        """End all of them."""
        for process in self.living:
            if process.poll() is None:
                # unshare, which makes the small containers, passes no signal on
                os.kill((procfs.descendants(process.pid) if self.before else [process.pid])[0], signal.SIGTERM)
            try:
                process.wait(15)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
            if process.stderr is not None:
                process.stderr.close()


def listens(path: Path) -> bool:
    """Tell whether somebody listens at a socket."""
    try:
        connected(path).close()
    except OSError:
        return False
    return True


def sh(code: str, *, process_id: str = "group", owner: str = "runner", limits: Limits | None = None) -> ProcessSpec:
    """Return a program for the shell."""
    return ProcessSpec(
        process_id, owner, ["/bin/sh", "-c", code], Path("/"), {"PATH": "/usr/bin:/bin"}, limits or Limits()
    )


# --- small containers


def _closed(path: str) -> str | None:
    """Return the topmost folder on the way to a path that other users may not pass."""
    parts = [Path(path), *Path(path).parents]
    return next((str(one) for one in reversed(parts) if not one.stat().st_mode & 0o001), None)


def _on_the_way() -> set[str]:
    """Return the folders of the links that lead from the environment's interpreter to the real one."""
    found, link = set(), Path(sys.executable)
    while link.is_symlink():
        link = link.parent / link.readlink()
        found.add(str(link.parent))
    return found


def _let_pass(scratch: Path) -> str:
    """Return a script that opens the way to the interpreter and to our code, in a mount namespace of its own."""
    needed = {os.path.realpath(one) for one in (sys.base_prefix, sys.prefix, str(REPOSITORY))} | _on_the_way()
    closed = {one: folder for one in sorted(needed) if (folder := _closed(one)) is not None}
    lines = []
    for number, path in enumerate(closed):
        stash = scratch / f"stash{number}"
        stash.mkdir(exist_ok=True)
        lines.append(f"mount --rbind '{path}' '{stash}'")
    lines += [f"mount -t tmpfs -o mode=755 none '{folder}'" for folder in sorted(set(closed.values()))]
    for number, path in enumerate(closed):
        lines.append(f"mkdir -p '{path}' && mount --rbind '{scratch}/stash{number}' '{path}'")
    return " && ".join([*lines, 'exec "$@"'])


def as_user(uid: int, gid: int, scratch: Path, *, contained: bool = False) -> list[str]:
    """Return what to put before a command, so that it runs as a user.

    `contained`: as the first process of a pid namespace of its own, with only the temporary folder to write to.
    """
    kinds = ["--pid", "--fork", "--mount-proc", "--kill-child"] if contained else []
    only_read = "mount --bind /tmp /tmp && mount -o remount,bind,ro / && " if contained else ""
    user = ["setpriv", f"--reuid={uid}", f"--regid={gid}", "--clear-groups"]
    return ["unshare", "--mount", *kinds, "/bin/sh", "-c", f"{only_read}{_let_pass(scratch)}", "sh", *user]


@contextmanager
def volume(gid: int, *owners: tuple[str, int]) -> Iterator[Path]:
    """Give a folder that any user may pass, with a folder for each owner in it."""
    folder = Path(f"/tmp/cloche-{os.getpid()}-{time.monotonic_ns()}")  # noqa: S108 - pytest's own is closed to others
    folder.mkdir(mode=0o755)
    folder.chmod(0o755)
    for name, uid in owners:
        (folder / name).mkdir()
        os.chown(folder / name, uid, gid)
        (folder / name).chmod(0o2750)
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="only root can start programs as other users")
