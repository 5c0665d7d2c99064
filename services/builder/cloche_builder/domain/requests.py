"""A request for a build by name (`buildrequest/<project>/<id>`), from references to a result."""

from collections.abc import Callable
from typing import Final, Literal

from cloche_shared.contracts.common import Lenient
from cloche_shared.contracts.fact import Fact
from cloche_shared.contracts.facts import (
    BuildAssigned,
    BuildCompleted,
    BuildExplained,
    BuildFailed,
    BuildSubmitted,
    Explanation,
    ImageProvided,
    Purpose,
    Target,
)
from cloche_shared.contracts.references import Problem, References, ResolvedEnvironment
from cloche_shared.journal.streams import Decision, Kind

Stage = Literal["", "submitted", "assigned", "completed", "failed"]


class BuildRequest(Lenient):
    """The state of a request. `build_id` is the id of the build in URLs, empty until it is known.

    `base` is the lock that there was before; of a drift `lock_digest` names the outlook and no lock.
    """

    stage: Stage = ""
    references: References = References()
    target: Target = "process"
    refresh: bool = False
    purpose: Purpose = "build"
    base: str = ""
    explanation: Explanation | None = None
    environment: ResolvedEnvironment | None = None
    build_id: str = ""
    lock_digest: str = ""
    image: str = ""
    reused: bool = False
    problem: Problem | None = None
    created_at: str = ""
    ended_at: str = ""

    @property
    def ended(self) -> bool:
        """Whether nothing more will happen."""
        return self.stage in {"completed", "failed"}


def _submitted(_: BuildRequest, fact: BuildSubmitted) -> BuildRequest:
    return BuildRequest(
        stage="submitted",
        references=fact.references,
        target=fact.target,
        refresh=fact.refresh,
        purpose=fact.purpose,
        created_at=fact.at,
    )


def _assigned(state: BuildRequest, fact: BuildAssigned) -> BuildRequest:
    update = {"stage": "assigned", "environment": fact.environment, "build_id": fact.build_id, "base": fact.base}
    return state.model_copy(update=update)


def _completed(state: BuildRequest, fact: BuildCompleted) -> BuildRequest:
    return state.model_copy(
        update={
            "stage": "completed",
            "lock_digest": fact.lock_digest,
            "image": fact.image,
            "reused": fact.reused,
            "ended_at": fact.at,
        }
    )


def _explained(state: BuildRequest, fact: BuildExplained) -> BuildRequest:
    return state.model_copy(
        update={
            "stage": "completed",
            "environment": fact.environment,
            "explanation": fact.explanation,
            "build_id": fact.explanation.build_id,
            "lock_digest": fact.explanation.lock_digest,
            "ended_at": fact.at,
        }
    )


def _failed(state: BuildRequest, fact: BuildFailed) -> BuildRequest:
    return state.model_copy(update={"stage": "failed", "problem": fact.problem, "ended_at": fact.at})


_EVOLVE: dict[type[Fact], Callable[..., BuildRequest]] = {
    BuildSubmitted: _submitted,
    BuildAssigned: _assigned,
    BuildCompleted: _completed,
    BuildExplained: _explained,
    BuildFailed: _failed,
}


def evolve(state: BuildRequest, fact: Fact) -> BuildRequest:
    """Return the state after a fact; facts of other aggregates change nothing."""
    change = _EVOLVE.get(type(fact))
    return state if change is None else change(state, fact)


REQUESTS: Final = Kind("buildrequest", BuildRequest, evolve)


def decide_submit(state: BuildRequest, wanted: BuildSubmitted, request_id: str) -> Decision:
    """Accept a request; the same one again changes nothing."""
    return Decision([wanted] if not state.stage else [], json={"id": request_id})


def decide_assign(
    state: BuildRequest, environment: ResolvedEnvironment, build_id: str, scope: str, *, base: str = ""
) -> Decision:
    """Take the registry's answer, once. `base` is the lock that there is."""
    if state.stage != "submitted":
        return Decision()
    return Decision([BuildAssigned(environment=environment, build_id=build_id, scope=scope, base=base)])


def decide_explain(
    state: BuildRequest, environment: ResolvedEnvironment, explanation: Explanation, at: str
) -> Decision:
    """Answer a request that only wanted to know, once."""
    if state.stage != "submitted":
        return Decision()
    return Decision([BuildExplained(environment=environment, explanation=explanation, at=at)])


def decide_complete(state: BuildRequest, answer: ImageProvided, at: str) -> Decision:
    """Take the build's answer, once."""
    if state.stage != "assigned":
        return Decision()
    fact = BuildCompleted(lock_digest=answer.lock_digest, image=answer.image, reused=answer.reused, at=at)
    return Decision([fact])


def decide_fail(state: BuildRequest, problem: Problem, at: str) -> Decision:
    """Take a refusal, once."""
    if state.stage not in {"submitted", "assigned"}:
        return Decision()
    return Decision([BuildFailed(problem=problem, at=at)])
