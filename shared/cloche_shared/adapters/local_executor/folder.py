"""A group's folder, seen from the service: made whole, read, judged, removed. Everything here blocks.

What lies in it is described in `cloche_runtime.supervisor`, which writes most of it.
"""

import fcntl
import json
import os
import shutil
import signal
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import cast

from cloche_runtime import procfs
from cloche_shared.adapters.removal import remove_folder
from cloche_shared.errors import Invalid
from cloche_shared.ports.executor import Exit, ProcessSpec

_ID = frozenset("abcdefghijklmnopqrstuvwxyz0123456789-")


@dataclass(frozen=True, slots=True)
class State:
    """What a supervisor wrote down about the living: (pid, start time) of each, under one boot."""

    boot: str
    child: tuple[int, int]
    started: bool | None
    strays: tuple[tuple[int, int], ...]


def place(root: Path, process_id: str) -> Path:
    """Return the folder of an id. Raises `Invalid` for what is not an id of ours."""
    if not process_id or len(process_id) > 128 or not _ID.issuperset(process_id):  # noqa: PLR2004 - far below NAME_MAX
        raise Invalid(
            "invalid_process_id", f"{process_id!r} is no process id.", why="Ids are [a-z0-9-], 1 to 128 long."
        )
    return root / process_id


def create(folder: Path, spec: ProcessSpec) -> bool:
    """Make the folder with its spec, whole or not at all; false when it exists already."""
    fresh = folder.with_name(f".new-{folder.name}")
    with suppress(FileExistsError):
        fresh.mkdir(mode=0o700)
    document = {
        "id": spec.id,
        "owner": spec.owner,
        "argv": list(spec.argv),
        "cwd": str(spec.cwd),
        "env": dict(spec.env),
        "limits": asdict(spec.limits),
        "redact": list(spec.redact),
        "writes": [str(one) for one in spec.writes],
    }
    fd = os.open(fresh / "spec.json", os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
    with os.fdopen(fd, "wb") as file:
        file.write(json.dumps(document).encode())
    if folder.exists():
        shutil.rmtree(fresh)
        return False
    fresh.rename(folder)
    return True


def owner_of(folder: Path) -> str | None:
    """Return whose group this is, None when the folder is not one."""
    document = _read(folder / "spec.json")
    return None if document is None else str(document["owner"])


def writes_of(folder: Path) -> list[Path]:
    """Return the folders that the group writes to."""
    document = _read(folder / "spec.json") or {}
    texts = [document.get("cwd"), *cast("list[object]", document.get("writes") or [])]
    return [Path(one) for one in texts if isinstance(one, str)]


def tell_to_end(folder: Path) -> None:
    """Have the supervisor end its group as lost, as when the machine goes down; the dead need no word."""
    found = _read(folder / "state.json")
    if found is None or found["boot"] != procfs.boot_id():
        return
    pid, start = cast("list[int]", found["supervisor"])
    with suppress(ProcessLookupError):
        if procfs.start_time(pid) == start:
            os.kill(pid, signal.SIGTERM)


def state_of(folder: Path) -> State | None:
    """Return what the supervisor wrote down, None when it never got so far."""
    found = _read(folder / "state.json")
    if found is None:
        return None
    strays = tuple((pid, start) for pid, start in cast("list[list[int]]", found["strays"]))
    pid, start = cast("list[int]", found["child"])
    return State(str(found["boot"]), (pid, start), cast("bool | None", found["started"]), strays)


def exit_of(folder: Path) -> Exit | None:
    """Return how the group ended, None when it is not written down."""
    found = _read(folder / "exit.json")
    return None if found is None else exit_from(found)


def exit_from(found: dict[str, object]) -> Exit:
    """Read an exit record; what a newer supervisor adds is ignored."""
    known = {one.name for one in fields(Exit)}
    return Exit(**{name: value for name, value in found.items() if name in known})  # type: ignore[arg-type]


def settle(folder: Path) -> Exit | None:
    """Return the end of the group, deciding it where the supervisor is dead; None while it lives.

    The lock proves the supervisor dead. Then what it left is killed, and the end is written while
    the lock is held, so that a supervisor that is late finds it and does nothing.
    """
    ended = exit_of(folder)
    if ended is not None:
        return ended
    with _dead_supervisor(folder) as dead:
        if not dead:
            return None
        ended = exit_of(folder) or _verdict(folder)
        _write(folder / "exit.json", asdict(ended))
        return ended


def _verdict(folder: Path) -> Exit:
    """Decide what became of a group without a supervisor, and make sure that none of it lives."""
    state = state_of(folder)
    log = folder / "log"
    size = log.stat().st_size if log.exists() else 0
    if state is None:
        detail = _trouble(folder) or "no supervisor came up for it"
        return Exit("not_started", started=False, log_bytes=size, detail=detail)
    if state.boot == procfs.boot_id():
        _exterminate(lambda: _left_over(state))
        detail = "the supervisor vanished; what it left was ended"
    else:
        detail = "the machine was restarted"
    return Exit("lost", started=bool(state.started), log_bytes=size, detail=_trouble(folder) or detail)


def _left_over(state: State) -> list[int]:
    """Return the living processes of the group: its session, its group, and known strays with their offspring."""
    everything = [one for one in procfs.everything() if one.state != b"Z"]
    pid, start = state.child
    reused = any(one.pid == pid and one.start != start for one in everything)
    found = {
        one.pid
        for one in everything
        if (one.pid, one.start) in state.strays
        or (one.pid, one.start) == (pid, start)
        or (not reused and pid in (one.session, one.group))
    }
    for one in list(found):
        found.update(procfs.descendants(one))
    return list(found)


def _exterminate(living: Callable[[], list[int]]) -> None:
    """SIGKILL until none is left. A process that the kernel cannot end now is waited for."""
    pause = 0.002
    while pids := living():
        for pid in pids:
            with suppress(OSError):
                os.kill(pid, signal.SIGKILL)
        time.sleep(pause)
        pause = min(0.1, pause * 2)


@contextmanager
def _dead_supervisor(folder: Path) -> Iterator[bool]:
    """Hold the group's lock; false when a living supervisor has it."""
    fd = os.open(folder / "spec.json", os.O_RDWR | os.O_CLOEXEC)
    try:
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            yield False
        else:
            yield True
    finally:
        os.close(fd)


def remove(folder: Path) -> None:
    """Remove the folder; what an interrupted removal leaves is never taken for a group."""
    gone = folder.with_name(f".gone-{folder.name}-{time.monotonic_ns()}")
    with suppress(FileNotFoundError):
        folder.rename(gone)
        remove_folder(gone)


def tidy(root: Path) -> None:
    """Make the root, and remove what interrupted work of a former owner left in it."""
    root.mkdir(mode=0o700, parents=True, exist_ok=True)
    for folder in root.glob(".*-*"):
        shutil.rmtree(folder, ignore_errors=True)


def owned(root: Path, owner: str) -> list[Path]:
    """Return the folders of an owner's groups."""
    return [one for one in sorted(root.iterdir()) if not one.name.startswith(".") and owner_of(one) == owner]


def read_log(folder: Path, offset: int, size: int) -> bytes:
    """Return up to `size` bytes of the log from `offset` on."""
    try:
        fd = os.open(folder / "log", os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW)
    except FileNotFoundError:
        return b""
    try:
        return os.pread(fd, size, offset)
    finally:
        os.close(fd)


def _trouble(folder: Path) -> str:
    text = procfs.read(str(folder / "trouble")).decode("utf-8", "replace").strip()
    return f"the supervisor failed: {text.splitlines()[-1]}" if text else ""


def _read(path: Path) -> dict[str, object] | None:
    """Return a document, None where there is none or where a power cut left half of one."""
    try:
        found: object = json.loads(procfs.read(str(path)))
    except ValueError:
        return None
    return found if isinstance(found, dict) else None


def _write(path: Path, value: dict[str, object]) -> None:
    fresh = path.with_name(f"{path.name}.new")
    fd = os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
    with os.fdopen(fd, "wb") as file:
        file.write(json.dumps(value).encode())
        file.flush()
        os.fsync(fd)
    fresh.replace(path)
