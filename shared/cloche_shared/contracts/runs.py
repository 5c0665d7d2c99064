"""What a run is asked to do, and how it ended."""

from typing import Annotated, Literal

from pydantic import Field, StringConstraints

from cloche_shared.contracts.common import Digest, Lenient, Name, Strict, Variables

Argument = Annotated[str, StringConstraints(max_length=32_768)]

RunStatus = Literal[
    "NotStarted",
    "Preparing",
    "Queued",
    "Starting",
    "Running",
    "CancelRequested",
    "Finalizing",
    "Completed",
    "Failed",
    "Canceled",
]
TERMINAL: frozenset[str] = frozenset({"Completed", "Failed", "Canceled"})

RUNS_OWN = ("outputs", "logs")
"""Folders that belong to a run: what it writes there is kept, and nothing of its source is put there."""
Folder = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9_][A-Za-z0-9._-]{0,99}$")]
"""A folder at the top of a run's working folder."""


def _usual(folders: tuple[str, ...]) -> bool:
    """Whether the folders are those of every run: they are left out of JSON then."""
    return folders == RUNS_OWN


MIN_MEMORY = 16 * 1024 * 1024
"""Bytes that a user may ask for at least."""


class Resources(Strict):
    """What a run or replica gets for itself. `memory` in bytes; `gpu_kind` restricts which GPUs count."""

    cpus: float = Field(default=1.0, ge=0, le=1024)
    memory: int = Field(default=512 * 1024 * 1024, ge=0)
    gpus: int = Field(default=0, ge=0, le=64)
    gpu_kind: Annotated[str, StringConstraints(max_length=64)] = ""


class AskedResources(Resources):
    """What a user may ask for: nothing runs without a CPU, and no interpreter starts in less than 16 MiB."""

    cpus: float = Field(default=1.0, gt=0, le=1024)
    memory: int = Field(default=512 * 1024 * 1024, ge=MIN_MEMORY)

    def plain(self) -> Resources:
        """Return what is kept."""
        return Resources.model_construct(**{name: getattr(self, name) for name in Resources.model_fields})


class RunOptions(Strict):
    """How a run of some code is to be made, wherever the code comes from.

    `script` is a path inside the code. `deadline` and `grace` are seconds; `retries` counts further attempts
    after the user's code failed; a higher `priority` goes first. `collect` are the folders, at the top of the working
    folder, that belong to the run: what it leaves there is kept, and nothing of its source is put there.
    """

    script: Annotated[str, StringConstraints(min_length=1, max_length=1024)]
    arguments: tuple[Argument, ...] = Field(default=(), max_length=1000)
    experiment: Name = "default"
    display_name: Annotated[str, StringConstraints(max_length=255)] = ""
    variables: Variables = Field(default_factory=dict)
    resources: Resources = Resources()
    priority: int = Field(default=0, ge=-100, le=100)
    deadline: float | None = Field(default=None, gt=0, le=30 * 86400)
    grace: float = Field(default=10.0, ge=0, le=600)
    retries: int = Field(default=0, ge=0, le=10)
    tags: dict[str, str] = Field(default_factory=dict, max_length=64)
    collect: tuple[Folder, ...] = Field(default=RUNS_OWN, max_length=16, exclude_if=_usual)


class RunSpec(RunOptions):
    """The user's code and how to run it: `snapshot` is a manifest's digest in the runner's blobs of the project."""

    snapshot: Digest


def kept_spec(asked: RunOptions, resources: AskedResources, snapshot: str) -> RunSpec:
    """Return what is kept of a run that was asked for, by REST or by message."""
    kept = {name: getattr(asked, name) for name in RunOptions.model_fields}
    return RunSpec.model_construct(**{**kept, "resources": resources.plain(), "snapshot": snapshot})


class Ended(Lenient):
    """How an attempt's process group ended (see `cloche_shared.ports.executor.Exit`).

    `log` is the digest of the attempt's log in the runner's blobs of the project, or empty.
    """

    ending: str
    code: int | None = None
    signal: int | None = None
    log_bytes: int = 0
    log_dropped: int = 0
    wall_seconds: float = 0.0
    cpu_seconds: float = 0.0
    peak_memory: int = 0
    detail: str = ""
    log: str = ""
