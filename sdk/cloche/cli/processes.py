"""The embedded process of a data folder: found, started, ended. Standard library only, for `up -d`."""

import json
import os
import select
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from cloche._config import LOG
from cloche._home import check_readable, made
from cloche_shared.errors import ClocheError, Conflict, Failed, Internal, Invalid, Unavailable

READY_SECONDS: Final = 60.0
STATE: Final = "server.json"
_LOOK_SECONDS: Final = 0.05
_PIECE: Final = 65_536
_KINDS: Final = {
    "already_running": Conflict,
    "port_in_use": Conflict,
    "data_too_new": Conflict,
    "disk_full": Unavailable,
    "store_unavailable": Unavailable,
    "port_not_allowed": Invalid,
    "address_not_available": Invalid,
    "insecure_bind": Invalid,
    "home_unusable": Invalid,
    "identity_damaged": Invalid,
    "tls_incomplete": Invalid,
    "unknown_setting": Invalid,
    "invalid_setting": Invalid,
    "malformed_config": Invalid,
}


@dataclass(frozen=True, slots=True)
class Running:
    """A server that runs: where it is reached, its process, and where its token lies."""

    url: str
    pid: int
    token_file: str
    started: str = ""
    version: str = ""

    def shown(self) -> dict[str, object]:
        """Return it as JSON shows it."""
        return {
            "url": self.url,
            "pid": self.pid,
            "token_file": self.token_file,
            "started": self.started,
            "version": self.version,
        }


def running(home: Path) -> Running | None:
    """Return the server of a data folder, if its process lives and is the folder's: never one that got its number."""
    check_readable(home)
    try:
        found = json.loads((home / STATE).read_text())
        here = _read(found)
    except (OSError, ValueError, TypeError, KeyError):
        return None
    return here if owns(here.pid, home) else None


def _read(said: dict[str, object]) -> Running:
    texts = [str(said.get(name, "")) for name in ("token_file", "started", "version")]
    return Running(str(said["url"]), int(str(said["pid"])), *texts)


def owns(pid: int, home: Path) -> bool:
    """Whether a process is ours and has files of the data folder open."""
    root = f"{home.resolve()}/"
    try:
        if Path(f"/proc/{pid}").stat().st_uid != os.getuid():
            return False
        with os.scandir(f"/proc/{pid}/fd") as entries:
            return any(_target(entry.path).startswith(root) for entry in entries)
    except OSError:
        return False


def _target(link: str) -> str:
    try:
        return str(Path(link).readlink())
    except OSError:
        return ""


def started(home: Path, arguments: Sequence[str]) -> tuple[Running, bool]:
    """Return the server of a data folder, and whether this call started it.

    Of several calls at once one starts it, and the others wait for that one. Raises as `start` does.
    """
    here = running(home)
    if here is not None:
        return here, False
    try:
        return start(home, arguments), True
    except Conflict as error:
        if error.code != "already_running":
            raise
        here = _awaited(home, time.monotonic() + READY_SECONDS)
        if here is None:
            raise
        return here, False


def _awaited(home: Path, limit: float) -> Running | None:
    """Wait for a server that somebody else is starting."""
    while (here := running(home)) is None and time.monotonic() < limit:
        time.sleep(_LOOK_SECONDS)
    return here


def start(home: Path, arguments: Sequence[str]) -> Running:
    """Start the server in the background and return when it is ready.

    `arguments` are options of `cloche._embedded`. Raises what the server says, and `Failed`
    (`start_failed`) with the end of its log when it says nothing.
    """
    made(home)
    reading, writing = os.pipe()
    argv = [sys.executable, "-P", "-m", "cloche._embedded", "--home", str(home), "--ready-fd", str(writing), *arguments]
    log = os.open(home / LOG, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
    try:
        process = subprocess.Popen(  # noqa: S603 - our own interpreter and module, no shell
            argv, stdin=subprocess.DEVNULL, stdout=log, stderr=log, pass_fds=[writing], start_new_session=True
        )
    finally:
        os.close(log)
        os.close(writing)
    try:
        line = _line(reading, time.monotonic() + READY_SECONDS)
    finally:
        os.close(reading)
    return _answer(line, home, process)


def _line(fd: int, end: float) -> bytes:
    found = b""
    while not found.endswith(b"\n"):
        ready, _, _ = select.select([fd], [], [], max(0.0, end - time.monotonic()))
        piece = os.read(fd, _PIECE) if ready else b""
        if not piece:
            return found
        found += piece
    return found


def _answer(line: bytes, home: Path, process: "subprocess.Popen[bytes]") -> Running:
    try:
        said = json.loads(line)
    except ValueError:
        raise Failed(
            "start_failed",
            "Cloche did not start.",
            why=f"{_silence(process)}{_tail(home / LOG)}",
            todo=f"See {home / LOG}; `cloche doctor` looks for causes.",
        ) from None
    if "error" in said:
        raise told(said["error"])
    process.returncode = 0  # it lives on without us: nobody waits for it
    return _read(said)


def _silence(process: "subprocess.Popen[bytes]") -> str:
    """Return why a process said nothing, and end one that lives on."""
    try:
        return f"Its process ended with {process.wait(timeout=1.0)}."
    except subprocess.TimeoutExpired:
        process.terminate()
        return f"It did not become ready within {READY_SECONDS:.0f} s."


def told(problem: dict[str, object]) -> ClocheError:
    """Return the error that the server wrote before it gave up."""
    code = str(problem.get("code") or "start_failed")
    kind = _KINDS.get(code, Internal if code == "internal" else Failed)
    what, why, todo = (str(problem.get(key) or "") for key in ("what", "why", "todo"))
    return kind(code, what or "Cloche did not start.", why=why, todo=todo)


def _tail(log: Path) -> str:
    try:
        found = log.read_bytes()[-2000:].decode(errors="replace").strip().splitlines()[-5:]
    except OSError:
        return ""
    return "".join(f"\n{line}" for line in found)


def end(pid: int, home: Path, seconds: float) -> bool:
    """Ask a server to end and wait for it; false when it lives on after so many seconds."""
    limit = time.monotonic() + seconds
    try:
        os.kill(pid, signal.SIGTERM)
    except ProcessLookupError:
        return True
    while owns(pid, home) or _alive(pid):
        if time.monotonic() >= limit:
            return False
        time.sleep(0.02)
    return True


def _alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] not in {"Z", "X"}
    except (OSError, IndexError):
        return False
