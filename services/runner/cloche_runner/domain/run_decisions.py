"""What may be done with a run, by whom, and what follows."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from cloche_runner.domain.endings import Verdict
from cloche_runner.domain.runs import Run, evolve
from cloche_shared.contracts.fact import Fact
from cloche_shared.contracts.facts import (
    AttemptClaimed,
    AttemptLost,
    ImageProvided,
    ReferencesResolved,
    RunCanceled,
    RunCancelRequested,
    RunCompleted,
    RunFailed,
    RunFinalizing,
    RunLogKept,
    RunMeasured,
    RunPreparing,
    RunQueued,
    RunRequeued,
    RunStarted,
    RunSubmitted,
)
from cloche_shared.contracts.references import Problem, References
from cloche_shared.contracts.runs import Ended, RunSpec
from cloche_shared.errors import Conflict, NotFound
from cloche_shared.journal.streams import Decision
from cloche_shared.ports.blobs import Blob

NOTHING = Decision()


@dataclass(frozen=True, slots=True)
class Again:
    """When a lost attempt is followed by another: at most `losses` are borne; the next not before `not_before`."""

    losses: int = 3
    not_before: str = ""


def run_not_found(run_id: str) -> NotFound:
    """Return the error for an id that no run of the project has."""
    return NotFound("run_not_found", f"There is no run {run_id!r}.", todo="`cloche run list` shows the runs.")


def _stale(run: Run, fence: int) -> Conflict:
    return Conflict(
        "stale_fence",
        f"The attempt with fence {fence} does not hold the run.",
        why=f"The run is {run.status}, its present fence is {run.fence}.",
    )


def hold(run: Run, fence: int) -> None:
    """Refuse whoever does not hold the run. Raises `Conflict` (code `stale_fence`)."""
    if not run.is_held or run.fence != fence:
        raise _stale(run, fence)


@dataclass(frozen=True, slots=True)
class Accepted:
    """Under which id a run is accepted, when, who submitted it, and to whose chain it belongs (empty: its own)."""

    run_id: str
    at: str
    by: str = ""
    chain: str = ""


def decide_submit(run: Run, spec: RunSpec, references: References, accepted: Accepted) -> Decision:
    """Accept a run; one that was accepted already stays as it is."""
    fact = RunSubmitted(spec=spec, references=references, at=accepted.at, by=accepted.by, chain=accepted.chain)
    return Decision(() if run.phase else (fact,), json={"id": accepted.run_id})


def decide_preparing(run: Run, answer: ReferencesResolved) -> Decision:
    """Take the registry's answer."""
    if run.phase != "submitted":
        return NOTHING
    return Decision([RunPreparing(environment=answer.environment, models=answer.models)])


def decide_refused(run: Run, problem: Problem, at: str) -> Decision:
    """Take a refusal of the registry or the builder: the run fails."""
    if run.phase not in ("submitted", "preparing"):
        return NOTHING
    return Decision([RunFailed(problem=problem, environment=run.environment, at=at)])


def decide_queued(run: Run, answer: ImageProvided) -> Decision:
    """Take the builder's answer."""
    if run.phase != "preparing":
        return NOTHING
    fact = RunQueued(
        lock_digest=answer.lock_digest,
        scope=answer.scope,
        image=answer.image,
        reused=answer.reused,
        build_id=answer.build_id,
    )
    return Decision([fact])


def decide_claim(run: Run, node: str, attempt: int, gpus: tuple[str, ...]) -> Decision:
    """Give the run to a node as its attempt number `attempt`. Raises `Conflict` (code `not_queued`)."""
    if run.phase != "queued" or attempt != run.attempt + 1:
        raise Conflict("not_queued", "The run does not wait for this attempt.", why=f"It is {run.status}.")
    return Decision([AttemptClaimed(attempt=attempt, node=node, gpus=gpus)])


def decide_started(run: Run, fence: int, at: str) -> Decision:
    """Record that the user's code began. Raises `Conflict` (code `stale_fence`)."""
    hold(run, fence)
    if run.phase != "claimed":
        return NOTHING
    return Decision([RunStarted(attempt=run.attempt, fence=fence, at=at)])


def decide_all(run: Run, *steps: Callable[[Run], Decision]) -> Decision:
    """Decide the last steps of a run at once, each on what the one before leaves: they become one document.

    The last of them must end the run: the fence of an attempt that followed would count them singly.
    """
    facts: list[Fact] = []
    for step in steps:
        found = step(run).facts
        facts.extend(found)
        for fact in found:
            run = evolve(run, fact)
    return Decision(facts)


def decide_measured(run: Run, fence: int, lines: tuple[dict[str, object], ...], start: int, end: int) -> Decision:
    """Record journal bytes `[start, end)`; what was recorded before is passed over.

    Raises `Conflict` (code `stale_fence`).
    """
    hold(run, fence)
    if start != run.measures.offset or end <= start:
        return NOTHING
    return Decision([RunMeasured(lines=lines, attempt=run.attempt, fence=fence, start=start, end=end)])


def decide_log_kept(run: Run, fence: int, start: int, part: Blob) -> Decision:
    """Record that bytes of the present attempt's log from `start` on are stored; what is recorded is passed over.

    Raises `Conflict` (code `stale_fence`).
    """
    hold(run, fence)
    if start != run.log_kept or not part.size:
        return NOTHING
    return Decision([RunLogKept(attempt=run.attempt, fence=fence, start=start, size=part.size, log=part.digest)])


def decide_finalizing(run: Run, fence: int, ended: Ended, at: str) -> Decision:
    """Record that the user's code ended. Raises `Conflict` (code `stale_fence`)."""
    hold(run, fence)
    if run.phase == "finalizing":
        return NOTHING
    return Decision([RunFinalizing(attempt=run.attempt, fence=fence, ended=ended, at=at)])


def decide_ended(run: Run, fence: int, verdict: Verdict, ended: Ended, outputs: str | None, at: str) -> Decision:
    """Record the outcome, or that the user's code is tried again as was asked.

    Raises `Conflict` (code `stale_fence`).
    """
    hold(run, fence)
    return Decision([_outcome(run, verdict, ended, outputs, at)])


def _outcome(run: Run, verdict: Verdict, ended: Ended, outputs: str | None, at: str) -> Fact:
    environment = run.environment
    kept: dict[str, Any] = {"at": at, "stored_at": verdict.stored_at, "left_out": verdict.left_out}
    if verdict.kind == "completed" and environment is not None and outputs is not None:
        return RunCompleted(outputs=outputs, ended=ended, environment=environment, **kept)
    if verdict.problem is None:
        return RunCanceled(outputs=outputs, ended=ended, environment=environment, **kept)
    retries = run.spec.retries if run.spec is not None else 0
    if verdict.kind == "user" and run.failures < retries and not run.canceling:
        return RunRequeued(attempt=run.attempt + 1, cause="user", ended=ended)
    return RunFailed(problem=verdict.problem, outputs=outputs, ended=ended, environment=environment, **kept)


def decide_abandoned(run: Run, fence: int, problem: Problem, at: str) -> Decision:
    """Fail a run whose attempt cannot be prepared (its environment cannot be made here).

    Raises `Conflict` (code `stale_fence`).
    """
    hold(run, fence)
    if run.canceling:
        return Decision([RunCanceled(environment=run.environment, at=at)])
    return Decision([RunFailed(problem=problem, environment=run.environment, at=at)])


def decide_lost(run: Run, fence: int, problem: Problem, ended: Ended | None, again: Again, at: str) -> Decision:
    """Record that an attempt is lost, and what follows. Raises `Conflict` (code `stale_fence`)."""
    hold(run, fence)
    lost = AttemptLost(attempt=run.attempt, fence=fence, problem=problem, ended=ended)
    return Decision([lost, _after_loss(run, problem, again, at)])


def _after_loss(run: Run, problem: Problem, again: Again, at: str) -> Fact:
    if run.canceling:
        return RunCanceled(environment=run.environment, at=at)
    if run.losses + 1 < again.losses:
        return RunRequeued(attempt=run.attempt + 1, cause="infrastructure", not_before=again.not_before)
    failure = Problem(
        code="infrastructure_failure",
        message=f"{again.losses} attempts were lost; the last one: {problem.message}",
        todo="Look at the nodes and at the run's log, then submit it again.",
        extra={"cause": problem.code},
    )
    return RunFailed(problem=failure, environment=run.environment, at=at)


def decide_cancel(run: Run, at: str) -> Decision:
    """Cancel: at once while nobody holds the run, else the holder is asked to. Harmless when it ended."""
    if run.is_terminal or run.canceling:
        return NOTHING
    if run.is_held:
        return Decision([RunCancelRequested()])
    return Decision([RunCanceled(environment=run.environment, at=at)])
