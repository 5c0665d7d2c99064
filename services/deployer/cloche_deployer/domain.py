"""Scoring services: what they are, and every decision about them. Pure.

A service is a row of revisions. At most one has the traffic (`active`); a newer one may be on its way
(`candidate`) and takes the traffic only once its workers passed their health check. A revision that
fails leaves the older one where it is.
"""

from collections.abc import Mapping
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field

from cloche_shared.contracts.fact import Fact
from cloche_shared.contracts.facts import (
    ImageProvided,
    ReferencesResolved,
    ReplicaAllocated,
    ReplicaEnded,
    ReplicaPlaced,
    ReplicaRequested,
    RevisionProvided,
    ServiceDeleted,
    ServiceDeployed,
    ServiceFailed,
    ServicePreparing,
    ServiceSubmitted,
    ServiceUpdated,
)
from cloche_shared.contracts.references import Problem, References, ResolvedEnvironment, ResolvedModel
from cloche_shared.contracts.services import ServiceSpec
from cloche_shared.errors import Conflict, NotFound
from cloche_shared.journal.streams import Decision

KEYS = ("primary", "secondary")
KEPT_REVISIONS = 10

Stage = Literal["submitted", "preparing", "provided", "deployed", "failed", "retired"]
Status = Literal["Transitioning", "Healthy", "Failed", "Deleted"]


class Revision(BaseModel):
    """One revision: what was asked for, and how far it is. `placed` tells that its GPUs are given."""

    model_config = ConfigDict(frozen=True)

    number: int
    spec: ServiceSpec
    references: References
    stage: Stage = "submitted"
    environment: ResolvedEnvironment | None = None
    models: tuple[ResolvedModel, ...] = ()
    lock_digest: str = ""
    scope: str = ""
    image: str = ""
    placed: bool = False
    gpus: tuple[str, ...] = ()
    problem: Problem | None = None

    @property
    def startable(self) -> bool:
        """Whether workers can be started for it."""
        return self.stage in {"provided", "deployed"} and (self.placed or self.spec.resources.gpus == 0)


class ServiceState(BaseModel):
    """A service. `incarnation` counts how often the name was taken; `keys` are generations by name.

    `holding` are the revisions that asked for GPUs and whose workers are not proven ended; it outlives
    the service.
    """

    model_config = ConfigDict(frozen=True)

    incarnation: int = 0
    deleted: bool = False
    latest: int = 0
    active: int = 0
    revisions: Mapping[int, Revision] = Field(default_factory=dict)
    keys: Mapping[str, int] = Field(default_factory=dict)
    scoring_url: str = ""
    holding: frozenset[int] = frozenset()

    @property
    def exists(self) -> bool:
        """Whether the name is taken."""
        return self.incarnation > 0 and not self.deleted

    @property
    def newest(self) -> Revision:
        """The revision that was asked for last."""
        return self.revisions[self.latest]

    @property
    def candidate(self) -> Revision | None:
        """The newest revision while it is on its way."""
        newest = self.revisions.get(self.latest)
        return newest if newest is not None and newest.stage in {"submitted", "preparing", "provided"} else None

    @property
    def status(self) -> Status:
        """What users see; a failed update leaves a service with traffic healthy."""
        if self.deleted:
            return "Deleted"
        if self.candidate is not None:
            return "Transitioning"
        return "Healthy" if self.active else "Failed"


def evolve(state: ServiceState, fact: Fact) -> ServiceState:
    """Return the state after a fact."""
    if isinstance(fact, ServiceSubmitted):
        return _submitted(state, fact)
    if isinstance(fact, ServiceUpdated):
        return state.model_copy(update={"keys": {**state.keys, **{name: int(gen) for name, gen in fact.keys.items()}}})
    if isinstance(fact, ServiceDeleted):
        return state.model_copy(update={"deleted": True, "active": 0, "revisions": {}})
    if isinstance(fact, ServiceDeployed):
        return _deployed(state, fact)
    if isinstance(fact, ServiceFailed):
        left = 0 if state.active == fact.revision else state.active
        return _revised(state, fact.revision, stage="failed", problem=fact.problem).model_copy(update={"active": left})
    return _progressed(state, fact)


def _progressed(state: ServiceState, fact: Fact) -> ServiceState:
    if isinstance(fact, ServicePreparing):
        return _revised(
            state, fact.revision, stage="preparing", environment=fact.environment, models=tuple(fact.models)
        )
    if isinstance(fact, RevisionProvided):
        provided = {"lock_digest": fact.lock_digest, "scope": fact.scope, "image": fact.image}
        return _revised(state, fact.revision, stage="provided", **provided)
    if isinstance(fact, ReplicaRequested):
        return state.model_copy(update={"holding": state.holding | {fact.revision}})
    if isinstance(fact, ReplicaEnded):
        return state.model_copy(update={"holding": state.holding - {fact.revision}})
    if isinstance(fact, ReplicaPlaced):
        return _revised(state, fact.revision, placed=True, gpus=tuple(fact.gpus))
    return state


def _revised(state: ServiceState, number: int, **changes: object) -> ServiceState:
    revision = state.revisions.get(number)
    if revision is None:
        return state
    return state.model_copy(
        update={"revisions": {**state.revisions, number: revision.model_copy(update=dict(changes))}}
    )


def _submitted(state: ServiceState, fact: ServiceSubmitted) -> ServiceState:
    fresh = not state.exists
    kept = {} if fresh else dict(state.revisions)
    former = kept.get(state.latest)
    if former is not None and former.stage in {"submitted", "preparing", "provided"}:
        kept[former.number] = former.model_copy(update={"stage": "retired"})
    kept[fact.revision] = Revision(number=fact.revision, spec=fact.spec, references=fact.references)
    surplus = [number for number in sorted(kept) if number not in {state.active, fact.revision}]
    for number in surplus[:-KEPT_REVISIONS]:
        del kept[number]
    return state.model_copy(
        update={
            "incarnation": state.incarnation + fresh,
            "deleted": False,
            "latest": fact.revision,
            "active": 0 if fresh else state.active,
            "revisions": kept,
            "keys": dict.fromkeys(KEYS, 1) if fresh else state.keys,
        }
    )


def _deployed(state: ServiceState, fact: ServiceDeployed) -> ServiceState:
    if state.active and state.active != fact.revision:
        state = _revised(state, state.active, stage="retired")
    state = _revised(state, fact.revision, stage="deployed", problem=None)
    return state.model_copy(update={"active": fact.revision, "scoring_url": fact.scoring_url})


# --- decisions


def decide_deploy(state: ServiceState, spec: ServiceSpec, references: References) -> Decision:
    """Take the name. Raises `Conflict` (`service_exists`)."""
    if state.exists:
        raise Conflict(
            "service_exists",
            "A service of this name exists.",
            todo="Update it (`cloche deploy --update`, or PUT), delete it first, or take another name.",
            extra={"revision": state.latest},
        )
    return Decision([ServiceSubmitted(revision=state.latest + 1, spec=spec, references=references)])


def decide_update(state: ServiceState, spec: ServiceSpec, references: References) -> Decision:
    """Ask for a new revision. Raises `NotFound` (`service_not_found`)."""
    must_exist(state)
    return Decision([ServiceSubmitted(revision=state.latest + 1, spec=spec, references=references)])


def decide_resolved(state: ServiceState, revision: int, answer: ReferencesResolved) -> Decision:
    """Go on to the environment, unless a newer revision took over meanwhile."""
    if not _awaited(state, revision, "submitted"):
        return Decision()
    return Decision([ServicePreparing(revision=revision, environment=answer.environment, models=answer.models)])


def decide_provided(state: ServiceState, revision: int, answer: ImageProvided) -> Decision:
    """Go on to the workers, or first ask for the GPUs."""
    if not _awaited(state, revision, "preparing"):
        return Decision()
    facts: list[Fact] = [
        RevisionProvided(revision=revision, lock_digest=answer.lock_digest, scope=answer.scope, image=answer.image)
    ]
    resources = state.revisions[revision].spec.resources
    if resources.gpus:
        facts.append(ReplicaRequested(revision=revision, replica=0, resources=resources))
    return Decision(facts)


def decide_placed(state: ServiceState, revision: int, answer: ReplicaAllocated) -> Decision:
    """Note the GPUs."""
    if not _awaited(state, revision, "provided") or state.revisions[revision].placed:
        return Decision()
    return Decision([ReplicaPlaced(revision=revision, node=answer.node, gpus=answer.gpus)])


def decide_deployed(state: ServiceState, revision: int, scoring_url: str) -> Decision:
    """Give the traffic to a revision whose workers are healthy, if it is still the one that is awaited."""
    if not _awaited(state, revision, "provided"):
        return Decision()
    found = state.revisions[revision]
    if found.environment is None:
        return Decision()
    return Decision(
        [
            ServiceDeployed(
                revision=revision, scoring_url=scoring_url, environment=found.environment, models=found.models
            )
        ]
    )


def decide_failed(state: ServiceState, revision: int, problem: Problem) -> Decision:
    """Record that a revision could not be brought up, or went down for good."""
    found = state.revisions.get(revision)
    if not state.exists or found is None or found.stage in {"failed", "retired"}:
        return Decision()
    return Decision([ServiceFailed(revision=revision, problem=problem)])


def decide_ended(state: ServiceState, revision: int) -> Decision:
    """Record that nothing of a revision lives any more, so that its GPUs can be given to others."""
    return Decision([ReplicaEnded(revision=revision)] if revision in spent(state) else [])


def decide_rekey(state: ServiceState, which: str) -> Decision:
    """Make a new key. Raises `NotFound` (`service_not_found`, `key_not_found`)."""
    must_exist(state)
    if which not in KEYS:
        raise NotFound("key_not_found", f"A service has the keys {' and '.join(KEYS)}.")
    return Decision([ServiceUpdated(keys={which: str(state.keys[which] + 1)})])


def decide_delete(state: ServiceState) -> Decision:
    """Give up the name. Raises `NotFound` (`service_not_found`)."""
    must_exist(state)
    return Decision([ServiceDeleted()])


def must_exist(state: ServiceState) -> None:
    """Raise `NotFound` (`service_not_found`) unless the service exists."""
    if not state.exists:
        raise NotFound(
            "service_not_found",
            "There is no service of this name.",
            todo="`cloche service list` shows those there are.",
        )


def wanted(state: ServiceState) -> list[int]:
    """Return the revisions that are to have workers, the one with the traffic first."""
    if not state.exists:
        return []
    numbers = [state.active] if state.active else []
    candidate = state.candidate
    if candidate is not None and candidate.startable:
        numbers.append(candidate.number)
    return numbers


def spent(state: ServiceState) -> list[int]:
    """Return the revisions that hold GPUs, or asked for them, and will never have workers again."""
    candidate = state.candidate
    kept = {state.active, candidate.number if candidate is not None else 0}
    return sorted(state.holding - kept)


def _awaited(state: ServiceState, revision: int, stage: Stage) -> bool:
    found = state.revisions.get(revision)
    return state.exists and state.latest == revision and found is not None and found.stage == stage
