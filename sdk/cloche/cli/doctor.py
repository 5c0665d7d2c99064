"""`doctor`: what Cloche needs of this machine, each with what to do where it is missing."""

import asyncio
import errno
import os
import shutil
import socket
import sqlite3
import subprocess
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from tempfile import mkdtemp
from typing import Final, Literal

import typer

from cloche._config import LOG
from cloche._errors import ClocheError
from cloche.cli import exits, processes
from cloche.cli.options import command
from cloche.cli.session import Session
from cloche.cli.text import fields, size

State = Literal["ok", "warning", "broken"]
GIB: Final = 1024**3
LITTLE: Final = 5 * GIB
TOO_LITTLE: Final = GIB // 2
DEFAULT_PORT: Final = 8571
SKEW_SECONDS: Final = 2.0
FILES_WANTED: Final = 1024


@dataclass(frozen=True, slots=True)
class Check:
    """What was looked at, how it is, and what to do about it."""

    name: str
    state: State
    detail: str
    todo: str = ""

    def shown(self) -> dict[str, str]:
        """Return it as JSON shows it."""
        return {"name": self.name, "state": self.state, "detail": self.detail, "todo": self.todo}


def install(app: typer.Typer) -> None:
    """Add the command."""
    command(app, "doctor", doctor)


def doctor(session: Session) -> None:
    """Check what Cloche needs of this machine. Exits with 1 when something is broken."""
    session.about_this_machine()
    found = examine(session.folder)
    broken = [check for check in found if check.state == "broken"]
    if session.output.mode.json:
        session.output.document({"ok": not broken, "checks": [check.shown() for check in found]})
    else:
        session.output.line("\n".join(report(found)))
    if broken:
        raise typer.Exit(exits.FAILURE)


def report(found: list[Check]) -> list[str]:
    """Return the checks for people."""
    told = [(f"{check.state:<7}  {check.name}", _advice(check)) for check in found]
    worse = [check for check in found if check.state != "ok"]
    last = f"{len(worse)} of {len(found)} want attention." if worse else "All is well."
    return [*fields(told), "", last]


def _advice(check: Check) -> str:
    return f"{check.detail}\n-> {check.todo}" if check.todo and check.state != "ok" else check.detail


def examine(home: Path) -> list[Check]:
    """Make all checks. One that breaks down is a broken one."""
    checks: list[tuple[str, Callable[[], Check]]] = [
        ("python", _python),
        ("uv", _uv),
        ("sqlite", _sqlite),
        ("data folder", lambda: _home(home)),
        ("disk", lambda: _disk(home)),
        ("hard links", lambda: _hard_links(home)),
        ("clock", lambda: _clock(home)),
        ("open files", _open_files),
        ("gpus", _gpus),
        ("settings", lambda: _settings(home)),
        ("server", lambda: _server(home)),
        ("port", lambda: _port(home)),
    ]
    return [_safely(name, check) for name, check in checks]


def _safely(name: str, check: Callable[[], Check]) -> Check:
    try:
        return check()
    except Exception as error:  # noqa: BLE001 - whatever is wrong with the machine, the other checks are made
        return Check(name, "broken", f"{type(error).__name__}: {error}", "Report this with the whole output.")


def _python() -> Check:
    from cloche_shared.adapters.interpreters import Interpreters  # noqa: PLC0415 - it starts each Python that is here

    found = asyncio.run(Interpreters().all())
    versions = ", ".join(
        sorted({one.version for one in found}, key=lambda text: [int(part) for part in text.split(".")])
    )
    return Check("python", "ok", f"environments can have {versions}")


def _uv() -> Check:
    import uv  # noqa: PLC0415 - only here

    try:
        program = uv.find_uv_bin()
        done = subprocess.run([program, "--version"], capture_output=True, text=True, timeout=10, check=True)  # noqa: S603 - the program that the package names
    except (OSError, subprocess.SubprocessError) as error:
        return Check("uv", "broken", str(error), "Install Cloche again: `pip install --force-reinstall cloche`.")
    return Check("uv", "ok", done.stdout.strip())


def _sqlite() -> Check:
    if sqlite3.sqlite_version_info < (3, 35):
        return Check(
            "sqlite", "broken", sqlite3.sqlite_version, "Use a Python that is built with SQLite 3.35 or newer."
        )
    return Check("sqlite", "ok", sqlite3.sqlite_version)


def _standing(home: Path) -> Path:
    """Return the data folder, or the nearest folder above it that exists."""
    return next((folder for folder in (home, *home.parents) if folder.is_dir()), Path("/"))


def _home(home: Path) -> Check:
    where = _standing(home)
    if not os.access(where, os.W_OK | os.X_OK):
        return Check("data folder", "broken", f"{where} cannot be written to", "Choose another with CLOCHE_HOME.")
    if where != home:
        return Check("data folder", "ok", f"{home} (made at the first start)")
    stat = home.stat()
    if stat.st_uid != os.getuid():
        return Check("data folder", "broken", f"{home} is another user's", "Choose another with CLOCHE_HOME.")
    open_to = [str(path) for path in (home, home / "token", home / "identity.json") if _open_to_others(path)]
    if open_to:
        todo = f"chmod go-rwx {' '.join(open_to)}"
        return Check("data folder", "warning", f"other users may read {', '.join(open_to)}", todo)
    return Check("data folder", "ok", str(home))


def _scratch(home: Path) -> Path | None:
    """Return a new folder on the data folder's disk; None where none can be made."""
    try:
        return Path(mkdtemp(prefix=".cloche-doctor-", dir=_standing(home)))
    except OSError:
        return None


def _open_to_others(path: Path) -> bool:
    return path.exists() and bool(path.stat().st_mode & 0o077)


def _disk(home: Path) -> Check:
    free = shutil.disk_usage(_standing(home)).free
    state: State = "ok" if free >= LITTLE else "warning" if free >= TOO_LITTLE else "broken"
    return Check("disk", state, f"{size(free)} free", "Make room, or choose another disk with CLOCHE_HOME.")


def _hard_links(home: Path) -> Check:
    folder = _scratch(home)
    if folder is None:
        return Check("hard links", "warning", "not looked at, because the data folder cannot be written to")
    try:
        (folder / "one").write_bytes(b"")
        try:
            os.link(folder / "one", folder / "two")
        except OSError as error:
            told = f"this file system makes none ({error.strerror})"
            return Check(
                "hard links", "warning", told, "Prefixes are copied: put CLOCHE_HOME on a local disk for speed."
            )
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    return Check("hard links", "ok", "prefixes share their files with the store")


def _clock(home: Path) -> Check:
    folder = _scratch(home)
    if folder is None:
        return Check("clock", "warning", "not looked at, because the data folder cannot be written to")
    try:
        skew = abs(folder.stat().st_mtime - time.time())
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    if skew > SKEW_SECONDS:
        return Check("clock", "warning", f"the disk's clock is {skew:.0f} s off", "Set both clocks by NTP.")
    return Check("clock", "ok", time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()))


def _open_files() -> Check:
    import resource  # noqa: PLC0415 - only here

    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    if 0 <= soft < FILES_WANTED:
        return Check("open files", "warning", f"{soft} at most", f"Raise the limit: `ulimit -n {FILES_WANTED * 4}`.")
    return Check("open files", "ok", "without limit" if soft < 0 else f"{soft} at most")


def _gpus() -> Check:
    from cloche_shared.adapters.devices import NvmlDevices  # noqa: PLC0415 - the driver's library, only here

    found = asyncio.run(NvmlDevices().offer()).gpus
    if found:
        return Check("gpus", "ok", ", ".join(f"{gpu.kind} ({size(gpu.memory)})" for gpu in found))
    if Path("/dev/nvidiactl").exists() or Path("/proc/driver/nvidia").exists():
        todo = "Run nvidia-smi; driver and library must be of one version, and /dev/nvidia* be readable."
        return Check("gpus", "broken", "there is a driver, but no GPU can be reached", todo)
    return Check("gpus", "ok", "none here")


def _settings(home: Path) -> Check:
    from cloche._embedded import settings  # noqa: PLC0415 - the services' settings, only here

    try:
        loaded = settings(home)
    except ClocheError as error:
        return Check("settings", "broken", f"{error.what} {error.why}".strip(), error.todo)
    changed = len(loaded.sources)
    return Check("settings", "ok", f"{changed} differ from the defaults" if changed else "defaults")


def _server(home: Path) -> Check:
    here = processes.running(home)
    if here is None:
        return Check("server", "ok", "not running: `cloche up -d` starts it")
    from cloche.client import Client  # noqa: PLC0415 - only where a server is asked

    try:
        with Client(url=here.url, token=Path(here.token_file).read_text().strip()) as client:
            ready = client.ready()
            client.nodes.list()
    except (ClocheError, OSError) as error:
        return Check("server", "broken", f"{here.url} (process {here.pid}): {error}", f"See {home / LOG}.")
    if ready.get("status") != "ok":
        return Check("server", "broken", f"not ready: {ready.get('failing')}", f"See {home / LOG}.")
    return Check("server", "ok", f"ready at {here.url} (process {here.pid})")


def _port(home: Path) -> Check:
    from cloche._embedded import settings  # noqa: PLC0415 - the services' settings, only here

    try:
        wanted = settings(home).value.http
    except ClocheError:
        return Check("port", "warning", "not looked at, because the settings are wrong")
    here = processes.running(home)
    if here is not None and here.url.endswith(f":{wanted.port}"):
        return Check("port", "ok", f"{wanted.port} is the server's")
    return _port_free(wanted.host, wanted.port)


def _port_free(host: str, port: int) -> Check:
    with socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
        except OSError as error:
            state: State = "warning" if error.errno == errno.EADDRINUSE else "broken"
            todo = "End what has it, or start with `cloche up --port 0`."
            return Check("port", state, f"{host}:{port} cannot be had: {error.strerror}", todo)
    return Check("port", "ok", f"{port} is free")
