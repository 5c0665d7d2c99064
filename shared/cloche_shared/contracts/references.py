"""What may be named, and what a name was resolved to."""

from collections.abc import Mapping
from typing import Annotated

from pydantic import Discriminator, Field, StringConstraints, Tag, model_validator

from cloche_shared.contracts.common import Digest, Lenient, Name, Strict
from cloche_shared.contracts.definition import Definition

Version = Annotated[str, StringConstraints(pattern=r"^[1-9]\d{0,8}$")]
"""A version: an integer from 1, as a string."""

Label = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,63}$")]
"""A label of one version; `latest` always names the newest."""


class EnvironmentRef(Strict):
    """Names an environment: by version, by label, or the latest."""

    name: Name
    version: Version | None = None
    label: Label | None = None

    @model_validator(mode="after")
    def _one_way(self) -> "EnvironmentRef":
        if self.version is not None and self.label is not None:
            raise ValueError("give a version or a label, not both")
        return self


class InlineEnvironment(Strict):
    """A definition written into the request: registered under `name` if it is new."""

    name: Name
    definition: Definition


def _environment_kind(value: object) -> str:
    inline = isinstance(value, InlineEnvironment) or (isinstance(value, Mapping) and "definition" in value)
    return "inline" if inline else "named"


Environment = Annotated[
    Annotated[EnvironmentRef, Tag("named")] | Annotated[InlineEnvironment, Tag("inline")],
    Discriminator(_environment_kind),
]
"""An environment that is named, or defined on the spot: a definition tells, so that mistakes are told for one form."""


class ModelRef(Strict):
    """Names a model: by version, or the latest."""

    name: Name
    version: Version | None = None


class References(Lenient):
    """Everything that a run or service refers to. No environment at all means the server's default one."""

    environment: Environment | None = None
    models: tuple[ModelRef, ...] = Field(default=(), max_length=32)


class ResolvedEnvironment(Lenient):
    """An environment version and what it says. `registered` tells that this request made the version."""

    name: str
    version: str
    definition_hash: str
    definition: Definition
    registered: bool = False


class ResolvedModel(Lenient):
    """A model version and its files (a manifest's digest in the registry's blobs of the project)."""

    name: str
    version: str
    manifest: Digest


class Problem(Lenient):
    """Why something was refused or failed: a stable code and sentences for people."""

    code: str
    message: str
    todo: str = ""
    extra: dict[str, object] = Field(default_factory=dict)
