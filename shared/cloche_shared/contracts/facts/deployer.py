"""Facts of the deployer.

Aggregates: `service/<project>/<name>`.
"""

from pydantic import Field

from cloche_shared.contracts.common import Digest
from cloche_shared.contracts.fact import Fact
from cloche_shared.contracts.facts.builder import Target
from cloche_shared.contracts.references import (
    Problem,
    References,
    ResolvedEnvironment,
    ResolvedModel,
)
from cloche_shared.contracts.runs import Resources
from cloche_shared.contracts.services import ServiceSpec


class ServiceSubmitted(Fact):
    """A new revision was asked for. Revisions are 1, 2, 3 … without a gap."""

    revision: int = Field(ge=1)
    spec: ServiceSpec
    references: References


class ServicePreparing(Fact):
    """The revision's references are resolved; it needs an environment."""

    revision: int
    environment: ResolvedEnvironment
    models: tuple[ResolvedModel, ...] = ()
    target: Target = "process"


class ReplicaRequested(Fact):
    """The revision needs a place: a node, and GPUs there; the runner decides. `replica` counts its places.

    `resources` are allocated; `within` is what the node must have in all, shared with others.
    """

    revision: int
    replica: int
    resources: Resources
    within: Resources | None = None


class ReplicaPlaced(Fact):
    """The runner gave the revision its node and GPUs."""

    revision: int
    node: str
    gpus: tuple[str, ...] = ()


class ReplicaLost(Fact):
    """The node of the revision was declared lost; it needs another place."""

    revision: int
    node: str


class ReplicaEnded(Fact):
    """No worker of the revision lives any more in its place `replica` (null: in any); what it held there is free."""

    revision: int
    replica: int | None = None


class RevisionProvided(Fact):
    """The revision's environment can be used; workers are started from here on."""

    revision: int
    lock_digest: Digest
    scope: str
    image: str


class ServiceDeployed(Fact):
    """The revision's workers passed their health check and it gets all requests now."""

    revision: int
    scoring_url: str
    environment: ResolvedEnvironment
    models: tuple[ResolvedModel, ...] = ()


class ServiceUpdated(Fact):
    """Settings changed that need no new revision (keys)."""

    keys: dict[str, str] = Field(default_factory=dict)


class ServiceFailed(Fact):
    """The revision could not be brought up, or went down for good; an older one keeps its traffic."""

    revision: int
    problem: Problem


class ServiceDeleted(Fact):
    """The service is gone and so are its workers and keys."""
