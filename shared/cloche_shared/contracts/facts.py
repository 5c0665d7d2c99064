"""Every fact and answer of the four services, by owner (design: docs/explanation/architecture.md).

The aggregate that a fact belongs to is named by its event's `subject`; facts do not repeat it.
Sizes are bytes, durations seconds, times RFC 3339 in UTC.
"""

from typing import Literal

from pydantic import Field

from cloche_shared.contracts.common import Digest, Lenient
from cloche_shared.contracts.definition import Definition
from cloche_shared.contracts.fact import Fact
from cloche_shared.contracts.references import (
    Problem,
    References,
    ResolvedEnvironment,
    ResolvedModel,
)
from cloche_shared.contracts.runs import Ended, Resources, RunSpec
from cloche_shared.contracts.services import ServiceSpec

# --- registry: environment/<project>/<name>, model/<project>/<name>, project/<project>/access


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
    """A project exists."""


class ApiKeyIssued(Fact):
    """A key exists. `digest` is its keyed hash, never the key; `expires` an RFC 3339 time or empty."""

    key_id: str
    digest: str
    role: Literal["viewer", "submitter", "admin"]
    projects: tuple[str, ...]
    expires: str = ""


class ApiKeyRevoked(Fact):
    """The key opens nothing any more."""

    key_id: str


class ReferencesResolved(Fact):
    """Answer to whoever submitted references."""

    environment: ResolvedEnvironment
    models: tuple[ResolvedModel, ...] = ()


class ReferencesRefused(Fact):
    """Answer: a reference does not exist or may not be used."""

    problem: Problem


# --- builder: build/<scope>/<e1 hex>.<target>.<platform>

Target = Literal["process"]


class ImageRequested(Fact):
    """Somebody waits for this build: the request (an event's id) and the aggregate that asked.

    `waits` false: it was answered at once, and its project may read the build from now on.
    `environment` is how the asker names it (`name:version`). `at` is the time of record (RFC 3339),
    here and in the other facts of a build.
    """

    request_id: str
    reply_to: str
    project: str
    correlation: str
    definition_hash: str
    definition: Definition
    target: Target = "process"
    refresh: bool = False
    waits: bool = True
    environment: str = ""
    at: str = ""


class ImageReleased(Fact):
    """The aggregate `reply_to` has ended and waits for this build no longer."""

    reply_to: str


class ImageBuildStarted(Fact):
    """A builder works on it. The fact's sequence number is the fence; `attempt` counts the claims."""

    builder: str
    attempt: int = Field(ge=1)
    at: str = ""


class ImageBuilt(Fact):
    """Lock and artefacts are in the builder's blobs of this scope.

    `attempt` names the claim that it ends, `log` the digest of that attempt's log in the same blobs.
    """

    lock_digest: Digest
    image: str
    seconds: float
    artefacts: int
    bytes: int
    attempt: int = 0
    log: str = ""
    at: str = ""


class ImageBuildFailed(Fact):
    """The build ended without a result; its log is kept.

    Before `not_before` (RFC 3339; empty: at once) a mere repetition of the request is refused too.
    """

    problem: Problem
    seconds: float
    attempt: int = 0
    log: str = ""
    not_before: str = ""
    at: str = ""


class ImageEvicted(Fact):
    """What was built is no longer kept; the next request builds it again from its lock."""


class BuildSubmitted(Fact):
    """Somebody wants an environment built (`buildrequest/<project>/<id>`)."""

    references: References
    target: Target = "process"
    refresh: bool = False
    at: str = ""


class BuildAssigned(Fact):
    """The request's references are resolved and its build is known."""

    environment: ResolvedEnvironment
    build_id: str
    scope: str


class BuildCompleted(Fact):
    """What the request asked for can be used."""

    lock_digest: Digest
    image: str
    reused: bool
    at: str = ""


class BuildFailed(Fact):
    """What the request asked for cannot be had."""

    problem: Problem
    at: str = ""


class ImageProvided(Fact):
    """Answer: what was asked for can be used. `reused` tells that nothing had to be built for it."""

    definition_hash: str
    lock_digest: Digest
    scope: str
    target: Target
    image: str
    reused: bool
    build_id: str = ""


class ImageRefused(Fact):
    """Answer: it cannot be had."""

    problem: Problem
    build_id: str = ""


# --- runner: run/<project>/<id>, node/<project>/<id>


class RunSubmitted(Fact):
    """A run was accepted. `at` is the time of record (RFC 3339), here and in the other facts of a run.

    `by` is the subject that submitted it.
    """

    spec: RunSpec
    references: References
    at: str = ""
    by: str = ""


class RunPreparing(Fact):
    """Its references are resolved; it needs an environment."""

    environment: ResolvedEnvironment
    models: tuple[ResolvedModel, ...] = ()
    target: Target = "process"


class RunQueued(Fact):
    """Everything is there; it waits for a node."""

    lock_digest: Digest
    scope: str
    image: str
    reused: bool = False


class AttemptClaimed(Fact):
    """A node took the run. The fact's sequence number is the attempt's fence."""

    attempt: int = Field(ge=1)
    node: str
    gpus: tuple[str, ...] = ()


class RunStarted(Fact):
    """The user's code began."""

    attempt: int
    fence: int
    at: str = ""


class AttemptLost(Fact):
    """The attempt ended for a reason that is not the user's code; `ended` tells what is known of its end.

    It never stands alone: `RunRequeued`, `RunFailed` or `RunCanceled` follows in the same document.
    """

    attempt: int
    fence: int
    problem: Problem
    ended: Ended | None = None


class RunRequeued(Fact):
    """Another attempt will be made, not before `not_before` (RFC 3339; empty: at once)."""

    attempt: int
    cause: Literal["infrastructure", "user"]
    not_before: str = ""
    ended: Ended | None = None


class RunFinalizing(Fact):
    """The user's code ended; outputs and logs are being collected."""

    attempt: int
    fence: int
    ended: Ended
    at: str = ""


class RunCancelRequested(Fact):
    """Somebody asked for the end of a run that a node holds."""


class RunMeasured(Fact):
    """What the script logged since the last such fact: lines of the run's journal, in order.

    They are the bytes from `start` to `end` of that attempt's journal. A line too long for a fact has
    `blob` (the digest of its JSON in the runner's blobs of the project) in place of its value.
    """

    lines: tuple[dict[str, object], ...]
    attempt: int = 0
    fence: int = 0
    start: int = 0
    end: int = 0


class RunCompleted(Fact):
    """Ended well. `outputs` is the digest of the manifest in the runner's blobs of the project."""

    outputs: Digest
    ended: Ended
    environment: ResolvedEnvironment
    at: str = ""


class RunFailed(Fact):
    """Ended badly. Outputs are there when an attempt ran at all."""

    problem: Problem
    outputs: Digest | None = None
    ended: Ended | None = None
    environment: ResolvedEnvironment | None = None
    at: str = ""


class RunCanceled(Fact):
    """Ended because somebody asked for it."""

    outputs: Digest | None = None
    ended: Ended | None = None
    environment: ResolvedEnvironment | None = None
    at: str = ""


class NodeGpu(Lenient):
    """A GPU of a node."""

    uuid: str
    kind: str
    memory: int


class NodeJoined(Fact):
    """A node offers what it has (again: its offer may have changed)."""

    cpus: float
    memory: int
    gpus: tuple[NodeGpu, ...] = ()
    address: str = ""


class NodeLost(Fact):
    """The node's lease ran out."""


class ResourcesAllocated(Fact):
    """One insert gives CPU, memory and all GPUs to one holder (`run/<project>/<id>#<attempt>` or a replica)."""

    holder: str
    resources: Resources
    gpus: tuple[str, ...] = ()


class ResourcesReleased(Fact):
    """The holder is proven to have ended."""

    holder: str


class ReplicaAllocated(Fact):
    """Answer to `ReplicaRequested`."""

    node: str
    holder: str
    gpus: tuple[str, ...] = ()


class ReplicaRefused(Fact):
    """Answer to `ReplicaRequested`."""

    problem: Problem


# --- deployer: service/<project>/<name>


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
    """The revision needs GPUs; the runner decides."""

    revision: int
    replica: int
    resources: Resources


class ReplicaPlaced(Fact):
    """The runner gave the revision its GPUs."""

    revision: int
    node: str
    gpus: tuple[str, ...] = ()


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


# --- everybody


class CommandRefused(Fact):
    """Answer: a command was understood and refused."""

    problem: Problem


TOPICS = {
    "environment": "cloche.environments",
    "model": "cloche.models",
    "build": "cloche.builds",
    "buildrequest": "cloche.builds",
    "run": "cloche.runs",
    "node": "cloche.nodes",
    "service": "cloche.services",
    "access": "cloche.access",
    "answers": "cloche.answers",
}
"""The topic of each kind of aggregate."""
