"""Specs, processes, ends and errors as they travel; everything that comes in is checked here."""

import re
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Final, cast, get_args

from cloche_shared.adapters.socket_executor.frames import LARGEST, Document, FrameError
from cloche_shared.errors import (
    ClocheError,
    Conflict,
    Failed,
    Internal,
    Invalid,
    NotFound,
    Throttled,
    Unauthenticated,
    Unavailable,
)
from cloche_shared.ports.executor import Ending, Exit, Limits, ProcessSpec

ID = 128
ARGUMENTS = 8192
VALUES = 8192
VALUE = 128 * 1024
"""Characters of one argument or variable: what Linux takes."""
PATH = 4096
FOLDERS = 64
SECRETS = 4096
SENTENCE = 4000
SECONDS = 10.0**9
PAGE = 50
"""Processes in one answer, which must fit into a frame."""
DETAIL = 2000
UNKNOWN: Final = "unknown_process"

_ENDINGS = frozenset(get_args(Ending))
_NAME = re.compile(r"[a-z0-9-]+")
_PID = 2**31
_ERRORS: Mapping[str, type[ClocheError]] = {
    one.__name__: one
    for one in (Conflict, Failed, Internal, Invalid, NotFound, Throttled, Unauthenticated, Unavailable)
}

Members = dict[str, object]


def spec_members(spec: ProcessSpec) -> Members:
    """Return a spec as it travels; the connection says whose it is."""
    return {
        "id": spec.id,
        "argv": list(spec.argv),
        "cwd": str(spec.cwd),
        "env": dict(spec.env),
        "limits": asdict(spec.limits),
        "redact": list(spec.redact),
        "writes": [str(one) for one in spec.writes],
    }


def spec_from(found: Document, owner: str) -> ProcessSpec:
    """Return a spec that is safe to act on. Raises `FrameError`."""
    argv = found.texts("argv", ARGUMENTS, VALUE)
    env = found.mapping("env", VALUES, VALUE)
    if not argv or not argv[0]:
        raise FrameError("argv is empty")
    if any(not name or "=" in name for name in env):
        raise FrameError("env has a name that is none")
    return ProcessSpec(
        id=found.text("id", ID),
        owner=owner,
        argv=argv,
        cwd=_folder(found.text("cwd", PATH)),
        env=env,
        limits=_limits(found.inner("limits")),
        redact=found.texts("redact", SECRETS, VALUE),
        writes=[_folder(one) for one in found.texts("writes", FOLDERS, PATH)],
    )


def _folder(text: str) -> Path:
    path = Path(text)
    if not path.is_absolute() or ".." in path.parts:
        raise FrameError("a folder is no absolute path")
    return path


def _limits(found: Document) -> Limits:
    return Limits(
        memory=found.optional("memory", found.whole),
        deadline=found.optional("deadline", lambda name: found.number(name, SECONDS)),
        grace=found.number("grace", SECONDS),
        log=found.whole("log"),
        orphan_after=found.number("orphan_after", SECONDS),
    )


def present_members(process_id: str, pid: int, *, began: bool | None, ended: Exit | None) -> Members:
    """Return what there is to say of a process."""
    found = None if ended is None else {**asdict(ended), "detail": ended.detail.replace("\0", " ")[:DETAIL]}
    return {"id": process_id, "pid": pid, "began": began, "exit": found}


class Present:
    """What the executor says of a process, checked. Raises `FrameError`."""

    def __init__(self, found: Document, longest_log: int) -> None:
        self.id = found.text("id", ID)
        if _NAME.fullmatch(self.id) is None:
            raise FrameError("a process has an id that is none")
        self.pid = found.whole("pid", most=_PID)
        self.began = found.optional("began", found.flag)
        self.exit = found.optional("exit", lambda name: exit_from(found.inner(name), longest_log))


def exit_from(found: Document, longest_log: int = LARGEST) -> Exit:
    """Return an end whose members are what they must be. Raises `FrameError`."""
    ending = found.text("ending", ID)
    if ending not in _ENDINGS:
        raise FrameError("ending is none that we know")
    return Exit(
        ending=cast("Ending", ending),
        code=found.optional("code", lambda name: found.whole(name, most=255)),
        signal=found.optional("signal", lambda name: found.whole(name, least=1, most=255)),
        started=found.flag("started"),
        log_bytes=found.whole("log_bytes", most=longest_log),
        log_dropped=found.whole("log_dropped"),
        wall_seconds=found.number("wall_seconds"),
        cpu_seconds=found.number("cpu_seconds"),
        peak_memory=found.whole("peak_memory"),
        detail=_printable(found.text("detail", SENTENCE)),
    )


def error_members(error: ClocheError) -> Members:
    """Return an error as it travels."""
    kind = next((one.__name__ for one in type(error).__mro__ if one.__name__ in _ERRORS), Internal.__name__)
    texts = {"code": error.code, "what": error.what, "why": error.why, "todo": error.todo}
    return {"kind": kind, **{name: text[:SENTENCE] for name, text in texts.items()}}


def error_from(found: Document) -> ClocheError:
    """Return the error that an answer holds. Raises `FrameError`."""
    kind = _ERRORS.get(found.text("kind", ID))
    code = found.text("code", ID)
    if kind is None or not code.isascii() or not code.replace("_", "").isalnum():
        raise FrameError("an error of a kind or code that is none")
    what, why, todo = (_printable(found.text(name, SENTENCE)) for name in ("what", "why", "todo"))
    return kind(code, what, why=why, todo=todo)


def _printable(text: str) -> str:
    """Return a text without what could forge lines or colours where it is shown."""
    return "".join(one if one.isprintable() else " " for one in text)
