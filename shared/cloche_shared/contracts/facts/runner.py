"""Facts and answers of the runner.

Aggregates: `run/<project>/<id>, node/<project>/<id>`.
"""

from typing import Literal

from pydantic import Field

from cloche_shared.contracts.common import Digest, Lenient
from cloche_shared.contracts.fact import Fact
from cloche_shared.contracts.facts.builder import Target
from cloche_shared.contracts.references import (
    Problem,
    References,
    ResolvedEnvironment,
    ResolvedModel,
)
from cloche_shared.contracts.runs import Ended, Resources, RunSpec


class RunSubmitted(Fact):
    """A run was accepted. `at` is the time of record (RFC 3339), here and in the other facts of a run.

    `by` is the subject that submitted it; `chain` the correlation id of the command that asked for it, empty
    where the run begins a chain of its own.
    """

    spec: RunSpec
    references: References
    at: str = ""
    by: str = ""
    chain: str = ""


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
    build_id: str = ""


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


class RunLogKept(Fact):
    """So much of a running attempt's log was stored that it outlives the attempt's node.

    `log` is the digest, in the runner's blobs of the project, of `size` bytes from byte `start` of that attempt's log.
    """

    attempt: int
    fence: int
    start: int
    size: int
    log: Digest


class RunCompleted(Fact):
    """Ended well. `outputs` is the digest of the manifest in the runner's blobs of the project.

    `at` is when the user's code ended, `stored_at` when its outputs and log were stored; `left_out` names what lay
    among the outputs and was not kept.
    """

    outputs: Digest
    ended: Ended
    environment: ResolvedEnvironment
    at: str = ""
    stored_at: str = ""
    left_out: tuple[str, ...] = ()


class RunFailed(Fact):
    """Ended badly. Outputs are there when an attempt ran at all."""

    problem: Problem
    outputs: Digest | None = None
    ended: Ended | None = None
    environment: ResolvedEnvironment | None = None
    at: str = ""
    stored_at: str = ""
    left_out: tuple[str, ...] = ()


class RunCanceled(Fact):
    """Ended because somebody asked for it."""

    outputs: Digest | None = None
    ended: Ended | None = None
    environment: ResolvedEnvironment | None = None
    at: str = ""
    stored_at: str = ""
    left_out: tuple[str, ...] = ()


class NodeGpu(Lenient):
    """A GPU of a node."""

    uuid: str
    kind: str
    memory: int


class NodeJoined(Fact):
    """A node offers what it has (again: its offer may have changed).

    `shared`: it takes the runs and services of any project. Where not it takes those of one: of `project`, or
    (empty) of the first that gets anything there.
    """

    cpus: float
    memory: int
    gpus: tuple[NodeGpu, ...] = ()
    address: str = ""
    shared: bool = True
    project: str = ""


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
