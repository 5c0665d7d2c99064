"""A run: what it asks for, which attempt holds it, how it ended.

The number of an attempt's claim in the stream is its fence. A fact that names another fence than the
present one is refused, so whoever was declared lost can change nothing any more. A terminal state is
never left.

Every document of a run holds one fact, save that `AttemptLost` has a rider (requeued, failed or
canceled) in its own document, and that the document that ends a run may tell the steps before its end
too; so `documents` is the stream's sequence number as long as an attempt can follow.
"""

from collections.abc import Callable, Mapping
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field

from cloche_runner.domain.measures import Measures
from cloche_shared.contracts.fact import Fact
from cloche_shared.contracts.facts import (
    AttemptClaimed,
    AttemptLost,
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
from cloche_shared.contracts.references import Problem, References, ResolvedEnvironment, ResolvedModel
from cloche_shared.contracts.runs import Ended, RunSpec, RunStatus

Phase = Literal[
    "", "submitted", "preparing", "queued", "claimed", "running", "finalizing", "completed", "failed", "canceled"
]
ENDED: frozenset[Phase] = frozenset({"completed", "failed", "canceled"})
HELD: frozenset[Phase] = frozenset({"claimed", "running", "finalizing"})
"""Phases in which a node holds the run."""
NODE_LOST = "node_lost"
"""Why attempts on a node are lost that did not renew its lease."""

_STATUS: Mapping[Phase, RunStatus] = {
    "": "NotStarted",
    "submitted": "NotStarted",
    "preparing": "Preparing",
    "queued": "Queued",
    "claimed": "Starting",
    "running": "Running",
    "finalizing": "Finalizing",
    "completed": "Completed",
    "failed": "Failed",
    "canceled": "Canceled",
}


class LogPart(BaseModel):
    """A part of a run's log that is stored, or the line that stands where the rest of an attempt's log is missing.

    `mark` is that line, and then there is no digest.
    """

    model_config = ConfigDict(frozen=True)

    digest: str
    size: int
    attempt: int = 0
    mark: str = ""


class MissingLog(BaseModel):
    """From byte `offset` of the run's log on, that of an attempt is missing; a line there says so."""

    model_config = ConfigDict(frozen=True)

    attempt: int
    offset: int


class Run(BaseModel):
    """A run as it is. A default instance does not exist.

    `losses` counts attempts that ended for a reason of the infrastructure, `failures` those that the
    user's code ended. `logs` are the earlier attempts' logs: a run's log is all of them in a row. `shipped` is what
    is stored of the present attempt's log while it runs: all that is left of it when its node is lost.
    """

    model_config = ConfigDict(frozen=True)

    phase: Phase = ""
    documents: int = 0
    riding: bool = False
    spec: RunSpec | None = None
    references: References | None = None
    environment: ResolvedEnvironment | None = None
    models: tuple[ResolvedModel, ...] = ()
    lock_digest: str = ""
    scope: str = ""
    image: str = ""
    reused: bool = False
    build_id: str = ""
    attempt: int = 0
    fence: int = 0
    node: str = ""
    gpus: tuple[str, ...] = ()
    canceling: bool = False
    losses: int = 0
    failures: int = 0
    not_before: str = ""
    problem: Problem | None = None
    ended: Ended | None = None
    outputs: str | None = None
    logs: tuple[LogPart, ...] = ()
    shipped: tuple[LogPart, ...] = ()
    chain: str = ""
    created_by: str = ""
    created_at: str = ""
    started_at: str = ""
    ended_at: str = ""
    stored_at: str = ""
    left_out: tuple[str, ...] = ()
    measures: Measures = Field(default_factory=Measures)

    @property
    def status(self) -> RunStatus:
        """What users see."""
        if self.canceling and self.phase in ("claimed", "running"):
            return "CancelRequested"
        return _STATUS[self.phase]

    @property
    def is_terminal(self) -> bool:
        """Whether nothing will change any more."""
        return self.phase in ENDED

    @property
    def is_held(self) -> bool:
        """Whether an attempt of some node holds it."""
        return self.phase in HELD

    @property
    def log_before(self) -> int:
        """Bytes of log that earlier attempts wrote: where the present attempt's log begins."""
        return sum(part.size for part in self.logs)

    @property
    def log_kept(self) -> int:
        """Bytes of the present attempt's log that are stored."""
        return sum(part.size for part in self.shipped)

    @property
    def log_missing(self) -> tuple[MissingLog, ...]:
        """Where the logs of lost attempts break off."""
        found, begin = [], 0
        for part in self.logs:
            if part.mark:
                found.append(MissingLog(attempt=part.attempt, offset=begin))
            begin += part.size
        return tuple(found)

    def log_resumes(self, offset: int, attempt: int) -> int:
        """Return where whoever read an attempt's log up to `offset` goes on: at most where that log breaks off now."""
        return min([offset, *(cut.offset for cut in self.log_missing if cut.attempt == attempt)])


def holder(run: str, attempt: int) -> str:
    """Return how an attempt is named in a node's stream; `run` is the stream's name."""
    return f"{run}#{attempt}"


def _submitted(run: Run, fact: RunSubmitted) -> Run:
    measures = Measures(tags=dict(fact.spec.tags))
    changes: dict[str, object] = {
        "phase": "submitted",
        "spec": fact.spec,
        "references": fact.references,
        "chain": fact.chain,
        "created_by": fact.by,
        "created_at": fact.at,
        "measures": measures,
    }
    return run.model_copy(update=changes)


def _preparing(run: Run, fact: RunPreparing) -> Run:
    return run.model_copy(update={"phase": "preparing", "environment": fact.environment, "models": fact.models})


def _queued(run: Run, fact: RunQueued) -> Run:
    changes = {"lock_digest": fact.lock_digest, "scope": fact.scope, "image": fact.image, "reused": fact.reused}
    return run.model_copy(update={**changes, "build_id": fact.build_id, "phase": "queued"})


def _claimed(run: Run, fact: AttemptClaimed) -> Run:
    changes: dict[str, object] = {
        "phase": "claimed",
        "attempt": fact.attempt,
        "fence": run.documents,
        "node": fact.node,
        "gpus": fact.gpus,
        "started_at": "",
        "ended": None,
        "shipped": (),
        "measures": run.measures.of_next_attempt(),
    }
    return run.model_copy(update=changes)


def _started(run: Run, fact: RunStarted) -> Run:
    return run.model_copy(update={"phase": "running", "started_at": fact.at})


def _measured(run: Run, fact: RunMeasured) -> Run:
    return run.model_copy(update={"measures": run.measures.take(fact.lines, fact.end)})


def _cancel_requested(run: Run, _: RunCancelRequested) -> Run:
    return run.model_copy(update={"canceling": True})


def _finalizing(run: Run, fact: RunFinalizing) -> Run:
    return run.model_copy(update={"phase": "finalizing", "ended": fact.ended})


def _log_kept(run: Run, fact: RunLogKept) -> Run:
    part = LogPart(digest=fact.log, size=fact.size, attempt=fact.attempt)
    return run.model_copy(update={"shipped": (*run.shipped, part)})


def _with_log(run: Run, ended: Ended | None) -> tuple[LogPart, ...]:
    """Return the run's log with the present attempt's, as far as it is stored."""
    if ended is None or (not ended.log and not ended.log_bytes):
        return run.logs
    if ended.log:
        return (*run.logs, LogPart(digest=ended.log, size=ended.log_bytes, attempt=run.attempt))
    return _cut_off(run, "it went with its process")


def _cut_off(run: Run, why: str) -> tuple[LogPart, ...]:
    """Return the run's log with what is stored of the present attempt's, and a line that says what is not."""
    offset = run.log_before + run.log_kept
    mark = f"[cloche: from byte {offset} on the log of attempt {run.attempt} is missing: {why}]\n"
    return (*run.logs, *run.shipped, LogPart(digest="", size=len(mark.encode()), attempt=run.attempt, mark=mark))


def _lost(run: Run, fact: AttemptLost) -> Run:
    changes = {"losses": run.losses + 1, "problem": fact.problem, "ended": fact.ended, "riding": True}
    # an attempt whose code did not begin has no log; of a lost node nobody knows how far it came
    began = run.phase != "claimed" or fact.problem.code == NODE_LOST
    unknown = fact.ended is None and began
    logs = _cut_off(run, fact.problem.code) if unknown else _with_log(run, fact.ended)
    return run.model_copy(update={**changes, "logs": logs, "shipped": ()})


def _requeued(run: Run, fact: RunRequeued) -> Run:
    changes: dict[str, object] = {"phase": "queued", "node": "", "gpus": (), "not_before": fact.not_before}
    if fact.cause == "user":
        changes |= {"failures": run.failures + 1, "logs": _with_log(run, fact.ended), "shipped": ()}
    return run.model_copy(update=changes)


def _end(run: Run, phase: Phase, fact: RunCompleted | RunFailed | RunCanceled, problem: Problem | None) -> Run:
    ended = fact.ended or (run.ended if run.riding else None)
    changes: dict[str, object] = {
        "phase": phase,
        "problem": problem,
        "outputs": fact.outputs,
        "ended": fact.ended,
        "ended_at": fact.at,
        "stored_at": fact.stored_at,
        "left_out": fact.left_out,
    }
    if not run.riding:
        changes |= {"logs": _with_log(run, ended), "shipped": ()}
    return run.model_copy(update=changes)


_EVOLVE: Mapping[type[Fact], Callable[..., Run]] = {
    RunSubmitted: _submitted,
    RunPreparing: _preparing,
    RunQueued: _queued,
    AttemptClaimed: _claimed,
    RunStarted: _started,
    RunMeasured: _measured,
    RunLogKept: _log_kept,
    RunCancelRequested: _cancel_requested,
    RunFinalizing: _finalizing,
    AttemptLost: _lost,
    RunRequeued: _requeued,
    RunCompleted: lambda run, fact: _end(run, "completed", fact, None),
    RunFailed: lambda run, fact: _end(run, "failed", fact, fact.problem),
    RunCanceled: lambda run, fact: _end(run, "canceled", fact, None),
}


def evolve(run: Run, fact: Fact) -> Run:
    """Return the run after a fact; facts of other kinds change nothing."""
    change = _EVOLVE.get(type(fact))
    if change is None:
        return run
    if run.riding:
        return change(run, fact).model_copy(update={"riding": False})
    return change(run.model_copy(update={"documents": run.documents + 1}), fact)
