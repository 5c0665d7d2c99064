"""Facts and answers of the registry.

Aggregates: `environment/<project>/<name>, wheel/<project>/<file name, with : for +>, model/<project>/<name>,
project/<project>/access`.
"""

from typing import Literal

from pydantic import Field

from cloche_shared.contracts.common import Digest
from cloche_shared.contracts.definition import Definition
from cloche_shared.contracts.fact import Fact
from cloche_shared.contracts.references import (
    Problem,
    ResolvedEnvironment,
    ResolvedModel,
)


class EnvironmentRegistered(Fact):
    """A new version of an environment. Versions are 1, 2, 3 … without a gap.

    `python` is the interpreter version that the hash holds where the definition leaves it open.
    """

    environment_version: int = Field(ge=1)
    definition: Definition
    definition_hash: str
    python: str = ""
    created_at: str = ""
    created_by: str = ""


class EnvironmentLabeled(Fact):
    """A label names this version from now on (None: the label is gone)."""

    label: str
    environment_version: int | None


class EnvironmentArchived(Fact):
    """Hidden from lists; references keep working."""


class EnvironmentRestored(Fact):
    """Visible in lists again."""


class EnvironmentDeleted(Fact):
    """A tombstone: new references are refused."""


class WheelUploaded(Fact):
    """A private wheel has this content from now on; what names an older one keeps it.

    `filename` is the one that its metadata gives it (`sent_as`: the one it came under), `requires` what it needs.
    """

    filename: str
    digest: Digest
    package: str
    package_version: str
    size: int
    requires: tuple[str, ...] = ()
    requires_python: str = ""
    sent_as: str = ""
    at: str = ""
    by: str = ""


class ModelRegistered(Fact):
    """A new version of a model: its files, where it came from, and in which environment it was made."""

    model_version: int = Field(ge=1)
    manifest: Digest
    size: int
    tags: dict[str, str] = Field(default_factory=dict)
    description: str = ""
    run_id: str = ""
    environment_name: str = ""
    environment_version: str = ""
    created_at: str = ""
    created_by: str = ""


class ModelDeleted(Fact):
    """A tombstone."""


class ProjectCreated(Fact):
    """A project exists; its name is that of the aggregate."""

    description: str = ""
    created_at: str = ""
    created_by: str = ""


class ApiKeyIssued(Fact):
    """A key exists. `digest` is its keyed hash, never the key; `expires` an RFC 3339 time or empty.

    `projects` are those that it opens, `*` every one. `bootstrap` marks the one that a data folder's `token`
    file, or an installation's settings, hold.
    """

    key_id: str
    digest: str
    role: Literal["viewer", "submitter", "admin"]
    projects: tuple[str, ...]
    expires: str = ""
    bootstrap: bool = False
    description: str = ""
    created_at: str = ""
    created_by: str = ""


class ApiKeyRevoked(Fact):
    """The key opens nothing any more."""

    key_id: str
    revoked_at: str = ""
    revoked_by: str = ""


class DeadLetterResent(Fact):
    """An administrator let a message come again that had been put aside: to which group, and why it was put aside."""

    letter: str
    group: str
    event_id: str = ""
    reason: str = ""


class ReferencesResolved(Fact):
    """Answer to whoever submitted references."""

    environment: ResolvedEnvironment
    models: tuple[ResolvedModel, ...] = ()


class ReferencesRefused(Fact):
    """Answer: a reference does not exist or may not be used."""

    problem: Problem
