"""Requests and answers of the registry's REST API."""

from typing import Annotated, Literal

from pydantic import AwareDatetime, BaseModel, Field, StringConstraints

from cloche_shared.access import Role
from cloche_shared.contracts.common import Digest, Name, Strict
from cloche_shared.contracts.definition import Definition
from cloche_shared.contracts.files import FileEntry
from cloche_shared.contracts.references import Label, Version

RunId = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9-]{1,64}$")]
Tag = Annotated[str, StringConstraints(max_length=1024)]


class RegisterEnvironment(Strict):
    """A definition to register. `requirements` is the text of a pip requirements file.

    Packages are given in one of the two; interpreter and variables always in `definition`.
    """

    name: Name
    definition: Definition | None = None
    requirements: Annotated[str, StringConstraints(max_length=262_144)] | None = None


class LabelVersion(Strict):
    """The version that a label is to name."""

    version: Version


class EnvironmentView(BaseModel):
    """One version of an environment.

    `python` is the interpreter that hash and lock are made with: the definition's, or what was the
    server's default when the version was registered.
    """

    name: str
    version: str
    definition: Definition
    definition_hash: str = Field(description="`e1:` and 64 hexadecimal digits: what was asked for.")
    python: str
    labels: list[str]
    created_at: str
    created_by: str
    archived: bool
    latest: bool


class CheckEnvironment(Strict):
    """A definition to check, as `RegisterEnvironment` has it; nothing is registered."""

    name: Name | None = None
    definition: Definition | None = None
    requirements: Annotated[str, StringConstraints(max_length=262_144)] | None = None


class FindingView(BaseModel):
    """One thing that is wrong (`error`) or may surprise (`warning`); `pointer` leads into the request."""

    severity: Literal["error", "warning"]
    pointer: str
    code: str
    detail: str


class CheckView(BaseModel):
    """What a check found. `definition_hash` is null where there are errors."""

    valid: bool
    definition_hash: str | None
    problems: list[FindingView]


class CloneEnvironment(Strict):
    """The name of the copy, and which version is copied: the latest, unless a version or label is named."""

    name: Name
    version: Version | None = None
    label: Label | None = None


class DifferenceSide(BaseModel):
    """One of two versions that are compared."""

    name: str
    version: str
    definition_hash: str
    python: str


class ChangeView(BaseModel):
    """One difference; null where there is nothing."""

    pointer: str
    before: str | None
    after: str | None


class DifferenceView(BaseModel):
    """What differs between two versions. With `same_hash` they share lock and build."""

    base: DifferenceSide
    other: DifferenceSide
    same_hash: bool
    changes: list[ChangeView]


class HistoryFact(BaseModel):
    """What happened; null what it does not say."""

    type: str
    version: str | None
    label: str | None
    definition_hash: str | None


class HistoryEntry(BaseModel):
    """One change of an environment: its number, when, by whom."""

    seq: int
    at: str
    actor: str
    facts: list[HistoryFact]


class UseView(BaseModel):
    """A run, service or model, and the version that it uses (empty while it is not known)."""

    kind: Literal["run", "service", "model"]
    id: str
    environment_version: str
    active: bool


class FromRun(Strict):
    """A file or folder below the outputs of a run that ended."""

    run_id: RunId
    path: Annotated[str, StringConstraints(min_length=1, max_length=1024)]


class RegisterModel(Strict):
    """A model to register: exactly one of `manifest` (files sent to `/files/models`) and `from_run`."""

    name: Name
    manifest: Digest | None = None
    from_run: FromRun | None = None
    description: Annotated[str, StringConstraints(max_length=2000)] = ""
    tags: Annotated[dict[str, Tag], Field(max_length=64)] = Field(default_factory=dict)


class ModelView(BaseModel):
    """One version of a model. `size` in bytes; `run_id` and environment are empty where they are not known."""

    name: str
    version: str
    manifest: str
    size: int
    tags: dict[str, str]
    description: str
    run_id: str
    environment_name: str
    environment_version: str
    created_at: str
    created_by: str
    latest: bool


class ModelDetail(ModelView):
    """One version of a model and its files."""

    files: list[FileEntry]


ProjectName = Annotated[str, StringConstraints(pattern=r"^[a-z0-9][a-z0-9-]{0,62}$")]
"""A project's name: it is also a part of topics' and images' names, so it is narrower than other names."""
Description = Annotated[str, StringConstraints(max_length=2000)]


class CreateProject(Strict):
    """A project to create."""

    name: ProjectName
    description: Description = ""


class ProjectView(BaseModel):
    """A project."""

    name: str
    description: str
    created_at: str
    created_by: str


class CreateToken(Strict):
    """A token to create.

    It opens the project that the request is about, and those of `projects`; `*` means every project, also those
    to come. `expires` is a time with its offset from UTC; without it the token holds until it is revoked.
    """

    role: Role
    projects: Annotated[list[ProjectName | Literal["*"]], Field(max_length=100)] | None = None
    expires: AwareDatetime | None = None
    description: Description = ""


class TokenView(BaseModel):
    """A token, without itself.

    `project` is where it was issued (empty: in one that is not open to the caller), `projects` what it opens of
    that which is open to the caller. `last_used` is exact to the hour.
    """

    id: str
    project: str
    projects: list[str]
    role: Role
    status: Literal["valid", "expired", "revoked"]
    description: str
    expires: str | None
    last_used: str | None
    created_at: str
    created_by: str
    revoked_at: str | None
    revoked_by: str | None
    bootstrap: bool = Field(description="Whether it is the installation's first one.")


class NewTokenView(TokenView):
    """A new token; `token` is shown this once."""

    token: str
