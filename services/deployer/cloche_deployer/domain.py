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
    ReplicaLost,
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
from cloche_shared.contracts.runs import Resources
from cloche_shared.contracts.services import ServiceSpec
from cloche_shared.errors import Conflict, NotFound
from cloche_shared.journal.streams import Decision

KEYS = ("primary", "secondary")
KEPT_REVISIONS = 10

Stage = Literal["submitted", "preparing", "provided", "deployed", "failed", "retired"]
Status = Literal["Transitioning", "Healthy", "Failed", "Deleted"]


class Revision(BaseModel):
    """One revision: what was asked for, and how far it is.

    `placed` tells that the runner gave it a node (`node`) and its GPUs; a revision that asked for none
    has neither, and runs wherever a node is driven.
    """

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
    node: str = ""
    gpus: tuple[str, ...] = ()
    problem: Problem | None = None


class ServiceState(BaseModel):
    """A service. `incarnation` counts how often the name was taken; `keys` are generations by name.

    `holding` are the revisions that asked the runner for a place and whose workers are not proven ended,
    each with its node (empty: not placed), and `places` the number of its latest place. `left` are the places
    (`2.0`: revision and number) on nodes that were declared lost, until it is proven there that nothing lives.
    All of it outlives the service.
    """

    model_config = ConfigDict(frozen=True)

    incarnation: int = 0
    deleted: bool = False
    latest: int = 0
    active: int = 0
    revisions: Mapping[int, Revision] = Field(default_factory=dict)
    keys: Mapping[str, int] = Field(default_factory=dict)
    scoring_url: str = ""
    holding: Mapping[int, str] = Field(default_factory=dict)
    places: Mapping[int, int] = Field(default_factory=dict)
    left: Mapping[str, str] = Field(default_factory=dict)

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
    return _replica(state, fact)


def _replica(state: ServiceState, fact: Fact) -> ServiceState:
    if isinstance(fact, ReplicaRequested):
        places = {**state.places, fact.revision: fact.replica}
        return _held(state.model_copy(update={"places": places}), fact.revision, "")
    if isinstance(fact, ReplicaEnded):
        return _ended(state, fact)
    if isinstance(fact, ReplicaPlaced):
        state = _revised(state, fact.revision, placed=True, node=fact.node, gpus=tuple(fact.gpus))
        return _held(state, fact.revision, fact.node)
    if isinstance(fact, ReplicaLost):
        left = {**state.left, f"{fact.revision}.{state.places.get(fact.revision, 0)}": fact.node}
        state = state.model_copy(update={"left": left})
        state = _revised(state, fact.revision, placed=False, node="", gpus=())
        return _held(state, fact.revision, "")
    return state


def _ended(state: ServiceState, fact: ReplicaEnded) -> ServiceState:
    number, every = fact.revision, fact.replica is None
    left = {place: node for place, node in state.left.items() if place != f"{number}.{fact.replica}"}
    if not every and fact.replica != state.places.get(number, 0):
        return state.model_copy(update={"left": left})
    return state.model_copy(
        update={
            "holding": {one: node for one, node in state.holding.items() if one != number},
            "places": {one: place for one, place in state.places.items() if one != number},
            "left": {place: node for place, node in left.items() if not (every and place.startswith(f"{number}."))},
        }
    )


def _held(state: ServiceState, number: int, node: str) -> ServiceState:
    return state.model_copy(update={"holding": {**state.holding, number: node}})


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
    """Take the name, or try again what has failed: it keeps its keys. Raises `Conflict` (`service_exists`)."""
    if state.exists and state.status != "Failed":
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


def decide_provided(state: ServiceState, revision: int, answer: ImageProvided, *, many: bool = False) -> Decision:
    """Go on to the workers, or first ask for a place: for GPUs, for much of a node, and where there may be `many`."""
    if not _awaited(state, revision, "preparing"):
        return Decision()
    facts: list[Fact] = [
        RevisionProvided(revision=revision, lock_digest=answer.lock_digest, scope=answer.scope, image=answer.image)
    ]
    if many or _is_much(state.revisions[revision].spec.resources):
        facts.append(_request(state.revisions[revision], 0))
    return Decision(facts)


def _request(revision: Revision, replica: int) -> ReplicaRequested:
    """Ask for a place. Without GPUs a service shares its node, and asks for nothing but that the node has enough."""
    wanted = revision.spec.resources
    resources = wanted if wanted.gpus else Resources(cpus=0, memory=0)
    return ReplicaRequested(revision=revision.number, replica=replica, resources=resources, within=wanted)


def _is_much(wanted: Resources) -> bool:
    """Whether there may be no node that has so much; what is asked for by default every node has."""
    usual = Resources()
    return bool(wanted.gpus) or wanted.cpus > usual.cpus or wanted.memory > usual.memory


def decide_placed(state: ServiceState, revision: int, answer: ReplicaAllocated) -> Decision:
    """Note the node and the GPUs."""
    if revision not in _living(state) or revision not in state.holding or state.revisions[revision].placed:
        return Decision()
    if answer.holder.rpartition("#")[2] != f"{revision}.{state.places.get(revision, 0)}":
        return Decision()  # the answer to a request before the one that is open now
    return Decision([ReplicaPlaced(revision=revision, node=answer.node, gpus=answer.gpus)])


def decide_displaced(state: ServiceState, node: str) -> Decision:
    """Ask for another place for what lived on a lost node. That it has ended there only that node can say."""
    facts: list[Fact] = []
    for number, holder in sorted(state.holding.items()):
        if holder == node and number in _living(state):
            following = state.places.get(number, 0) + 1
            facts += [ReplicaLost(revision=number, node=node), _request(state.revisions[number], following)]
    return Decision(facts)


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
    ended = ReplicaEnded(revision=revision, replica=state.places.get(revision, 0))
    return Decision([ended] if revision in spent(state) else [])


def decide_left(state: ServiceState, revision: int, replica: int) -> Decision:
    """Record that nothing lives any more in a place on a node that was lost: its GPUs are free."""
    is_left = f"{revision}.{replica}" in state.left
    return Decision([ReplicaEnded(revision=revision, replica=replica)] if is_left else [])


def left_on(state: ServiceState, node: str) -> list[tuple[int, int]]:
    """Return the places (revision and number) that a node had when it was declared lost."""
    found = (place.split(".") for place, holder in state.left.items() if holder == node)
    return sorted((int(number), int(replica)) for number, replica in found)


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


def wanted(state: ServiceState, node: str = "") -> list[int]:
    """Return the revisions that are to have workers, the one with the traffic first; with `node` those there."""
    return [number for number in _living(state) if _startable(state, number) and _is_on(state, number, node)]


def _living(state: ServiceState) -> list[int]:
    """Return the revision with the traffic, and the one on its way when it is provided."""
    if not state.exists:
        return []
    candidate = state.candidate
    numbers = [state.active] if state.active else []
    return numbers + ([candidate.number] if candidate is not None and candidate.stage == "provided" else [])


def _startable(state: ServiceState, number: int) -> bool:
    """Whether workers can be started: it asked for no place, or has one."""
    return state.revisions[number].placed or number not in state.holding


def _is_on(state: ServiceState, number: int, node: str) -> bool:
    return not node or state.revisions[number].node in {"", node}


def spent(state: ServiceState, node: str = "") -> list[int]:
    """Return the revisions that hold a place, or asked for one, and will never have workers again.

    With `node` only those that are there, or that have no place.
    """
    candidate = state.candidate
    kept = {state.active, candidate.number if candidate is not None else 0}
    gone = (number for number in state.holding if number not in kept)
    return sorted(number for number in gone if not node or state.holding[number] in {"", node})


def _awaited(state: ServiceState, revision: int, stage: Stage) -> bool:
    found = state.revisions.get(revision)
    return state.exists and state.latest == revision and found is not None and found.stage == stage
