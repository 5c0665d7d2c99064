"""Facts and answers of the builder.

Aggregates: `build/<scope>/<e1 hex>.<target>.<platform>`.
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
)

Target = Literal["process"]
Purpose = Literal["build", "drift", "explain"]
"""What a request is for: a build, what a refresh would change, or what a build would do and why."""
Action = Literal["reuse", "restore", "build", "join"]


class Explanation(Lenient):
    """What a build of an environment would do, and why.

    `reason` is a stable code, `text` says it in a sentence. `shared` tells whether the build is everybody's,
    `scope_text` why or why not. `steps` say what a new lock would be made from. `artefacts` and `bytes` are those
    of the lock that there is, `missing` how many of its files are no longer kept.
    """

    action: Action
    reason: str
    text: str
    shared: bool
    scope_text: str
    build_id: str
    definition_hash: str
    lock_digest: str = ""
    artefacts: int = 0
    bytes: int = 0
    missing: int = 0
    steps: tuple[str, ...] = ()


class ImageRequested(Fact):
    """Somebody waits for this build: the request (an event's id) and the aggregate that asked.

    `waits` false: it was answered at once, and its project may read the build from now on.
    `environment` is how the asker names it (`name:version`). With `outlook` nothing is made, and only said what a new
    lock would hold. `at` is the time of record (RFC 3339),
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
    outlook: bool = False


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
    purpose: Purpose = "build"


class BuildAssigned(Fact):
    """The request's references are resolved and its build is known.

    `base` is the lock that there was then (empty: none), with which a refresh or an outlook is compared.
    """

    environment: ResolvedEnvironment
    build_id: str
    scope: str
    base: str = ""


class BuildCompleted(Fact):
    """What the request asked for can be used."""

    lock_digest: Digest
    image: str
    reused: bool
    at: str = ""


class BuildExplained(Fact):
    """What a build would do, as it was when the request's references were resolved; nothing is built for it."""

    environment: ResolvedEnvironment
    explanation: Explanation
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
