"""Requests and answers of the registry's REST API."""

from typing import Annotated

from pydantic import BaseModel, Field, StringConstraints

from cloche_shared.contracts.common import Digest, Name, Strict
from cloche_shared.contracts.definition import Definition
from cloche_shared.contracts.files import FileEntry
from cloche_shared.contracts.references import Version

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
