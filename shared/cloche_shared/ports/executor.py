"""Executor: starts supervised processes that outlive the service, and tells what became of them."""

from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal, Protocol


@dataclass(frozen=True, slots=True)
class Limits:
    """What the supervisor enforces. None means no limit.

    `memory` is in bytes for the whole process group; `deadline` in seconds from the start of the
    user's program; `grace` the seconds between SIGTERM and SIGKILL; `log` the bytes kept of the log;
    `orphan_after` the seconds that the group may live without word from its owner.
    """

    memory: int | None = None
    deadline: float | None = None
    grace: float = 10.0
    log: int = 1024 * 1024 * 1024
    orphan_after: float = 24 * 3600.0


@dataclass(frozen=True, slots=True)
class ProcessSpec:
    """One supervised process group.

    `id` is ours (`[a-z0-9-]+`), never a user's text; it names the folder of its spool. `argv` is
    started without a shell, with exactly `env`, in `cwd`. `owner` says which service it belongs to.
    `redact` are secret values that are masked before the log is spooled. `writes` are folders that the
    group writes to besides `cwd`: where it has a user of its own, they are opened to the service's once
    it has ended.
    """

    id: str
    owner: str
    argv: Sequence[str]
    cwd: Path
    env: Mapping[str, str]
    limits: Limits = field(default_factory=Limits)
    redact: Sequence[str] = ()
    writes: Sequence[Path] = ()


Ending = Literal["exited", "signaled", "deadline", "canceled", "out_of_memory", "orphaned", "not_started", "lost"]


@dataclass(frozen=True, slots=True)
class Exit:
    """How a group ended: proof that none of its processes lives any more.

    `code` is the exit code of the first process (None unless it exited by itself), `signal` the
    number of the signal that ended it. `lost` means that the supervisor itself vanished.
    `started` is false when the user's program never began. `log_bytes` is the length of the log,
    `log_dropped` what was cut from it. `detail` explains `not_started` and `lost`.
    """

    ending: Ending
    code: int | None = None
    signal: int | None = None
    started: bool = True
    log_bytes: int = 0
    log_dropped: int = 0
    wall_seconds: float = 0.0
    cpu_seconds: float = 0.0
    peak_memory: int = 0
    detail: str = ""


@dataclass(frozen=True, slots=True)
class LogChunk:
    """Bytes of the log (stdout and stderr as they came), from `offset` on."""

    offset: int
    data: bytes


class Process(Protocol):
    """A supervised group, freshly started or adopted."""

    @property
    def id(self) -> str: ...

    @property
    def pid(self) -> int:
        """The process id of the user's program on its machine (0 before it began)."""

    async def started(self) -> bool:
        """Wait until the user's program began (true) or can no longer begin (false)."""

    async def wait(self) -> Exit:
        """Wait for the end of the whole group; may be called again and by several."""

    async def cancel(self, *, grace: float | None = None) -> None:
        """SIGTERM to the group, SIGKILL after `grace` seconds. Returns at once; harmless when it ended."""

    async def grant(self, seconds: float) -> None:
        """Allow the group to live for `seconds` more from now; the first grant arms the deadline."""

    def log(self, offset: int = 0, *, follow: bool = True) -> AsyncIterator[LogChunk]:
        """Yield the log from `offset`; with `follow` until its end, else what there is now."""


class Executor(Protocol):
    """Starts groups on one node and adopts those that a former owner left."""

    async def start(self, spec: ProcessSpec) -> Process:
        """Start a group and return when its supervisor is up (before the user's program began).

        Starting an `id` that exists returns the existing process, so a lost answer is harmless.
        Raises `Unavailable` when no supervisor can be started.
        """

    async def adopt(self, owner: str) -> list[Process]:
        """Return every process of `owner` whose folder is still here, living or ended."""

    async def forget(self, process_id: str) -> None:
        """Remove the folder of an ended process. Raises `Conflict` while it lives."""
