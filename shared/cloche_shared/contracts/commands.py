"""Commands by message: what outside producers may ask for, on the topic `cloche.commands.<project>`.

A command is a CloudEvent whose type is `cloche.<Name>.v<major>` and whose data is one of these contracts. The
project is the topic's and never the message's. Unknown fields are refused: a command that is half understood would
be half obeyed.
"""

from typing import Annotated, ClassVar, Final

from pydantic import Field, StringConstraints, model_validator

from cloche_shared.contracts.common import Digest, Name, Strict, Variables
from cloche_shared.contracts.definition import Definition
from cloche_shared.contracts.envelope import COMMANDS
from cloche_shared.contracts.facts.builder import Target
from cloche_shared.contracts.files import RelativePath
from cloche_shared.contracts.references import Environment, ModelRef
from cloche_shared.contracts.runs import Resources, RunOptions

EVERY_TOPIC: Final = f"{COMMANDS}*"
"""The commands of all projects, also of those that will be created."""
INLINE_BYTES: Final = 64 * 1024
"""Bytes of the files that a command may hold itself, in UTF-8, names included."""

EventId = Annotated[str, StringConstraints(min_length=1, max_length=256)]
RunId = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9._-]{1,64}$")]
Tag = Annotated[str, StringConstraints(max_length=1024)]
Script = Annotated[str, StringConstraints(min_length=1, max_length=1024)]


class Command(Strict):
    """Base of all commands.

    `after` is the id of another command of the same source and project: this one is decided once that one was
    answered, and refused if that one was.
    """

    version: ClassVar[int] = 1
    owner: ClassVar[str]

    after: EventId | None = None


class GitSource(Strict):
    """One commit of a repository: an https URL without credentials, and the full hash of the commit."""

    url: Annotated[str, StringConstraints(pattern=r"^https://", max_length=2048)]
    commit: Annotated[str, StringConstraints(pattern=r"^([0-9a-f]{40}|[0-9a-f]{64})$")]


class Coded(Command):
    """A command that brings code: text files by path (64 KiB in all), or the digest of a snapshot that is here."""

    files: dict[RelativePath, str] | None = Field(default=None, min_length=1, max_length=256)
    snapshot: Digest | None = None

    @model_validator(mode="after")
    def _one_source(self) -> "Coded":
        given = [name for name in ("files", "snapshot", "git") if getattr(self, name, None) is not None]
        if len(given) != 1:
            raise ValueError("give the code in exactly one way")
        size = sum(len(path.encode()) + len(text.encode()) for path, text in (self.files or {}).items())
        if size > INLINE_BYTES:
            raise ValueError(f"the files have {size} bytes, more than {INLINE_BYTES}; send them as a snapshot")
        return self


class RegisterEnvironment(Command):
    """Register a definition, or the text of a pip requirements file, as the next version of an environment."""

    owner: ClassVar[str] = "registry"

    name: Name
    definition: Definition | None = None
    requirements: Annotated[str, StringConstraints(max_length=262_144)] | None = None


class FromRun(Strict):
    """A file or folder below the outputs of a run that ended."""

    run_id: RunId
    path: Annotated[str, StringConstraints(min_length=1, max_length=1024)]


class RegisterModel(Command):
    """Register files as the next version of a model: a manifest that was sent before, or outputs of a run."""

    owner: ClassVar[str] = "registry"

    name: Name
    manifest: Digest | None = None
    from_run: FromRun | None = None
    description: Annotated[str, StringConstraints(max_length=2000)] = ""
    tags: Annotated[dict[str, Tag], Field(max_length=64)] = Field(default_factory=dict)

    @model_validator(mode="after")
    def _one_source(self) -> "RegisterModel":
        if (self.manifest is None) == (self.from_run is None):
            raise ValueError("give exactly one of manifest and from_run")
        return self


class BuildImage(Command):
    """Build an environment. `refresh` solves again, so that unpinned packages may move."""

    owner: ClassVar[str] = "builder"

    environment: Environment
    target: Target = "process"
    refresh: bool = False


class SubmitRun(Coded, RunOptions):
    """Submit a run of a script of the code. Times are seconds; the rest is as with REST.

    No environment means the server's default one; `git` is the third way to bring the code.
    """

    owner: ClassVar[str] = "runner"

    git: GitSource | None = None
    environment: Environment | None = None
    models: tuple[ModelRef, ...] = Field(default=(), max_length=32)


class CancelRun(Command):
    """Ask for the end of a run; one that has ended stays as it is."""

    owner: ClassVar[str] = "runner"

    run_id: RunId


class DeployService(Coded):
    """Bring a service up, or another revision of one that exists."""

    owner: ClassVar[str] = "deployer"

    name: Name
    entry_script: Script
    environment: Environment | None = None
    models: tuple[ModelRef, ...] = Field(default=(), max_length=32)
    workers: int = Field(default=1, ge=1, le=64)
    variables: Variables = Field(default_factory=dict)
    resources: Resources = Resources()
    timeout_ms: int = Field(default=60_000, ge=1, le=3_600_000)
    init_timeout: float = Field(default=300.0, gt=0, le=3600)
    queue: int = Field(default=128, ge=1, le=100_000)
    cors_origins: tuple[Annotated[str, StringConstraints(max_length=255)], ...] = Field(default=(), max_length=32)
    tags: dict[str, str] = Field(default_factory=dict, max_length=64)
    description: Annotated[str, StringConstraints(max_length=2000)] = ""


class DeleteService(Command):
    """Give up a service's name; its workers end."""

    owner: ClassVar[str] = "deployer"

    name: Name


ALL: Final[tuple[type[Command], ...]] = (
    RegisterEnvironment,
    RegisterModel,
    BuildImage,
    SubmitRun,
    CancelRun,
    DeployService,
    DeleteService,
)


def command_type(cls: type[Command]) -> str:
    """Return the wire name of a command class."""
    return f"cloche.{cls.__name__}.v{cls.version}"


BY_TYPE: Final = {command_type(cls): cls for cls in ALL}


def command_topic(project: str) -> str:
    """Return the topic of a project's commands."""
    return COMMANDS + project
