"""How runs are shown: the list's rows, and the answers of the REST API."""

from collections.abc import Sequence

from pydantic import BaseModel, ConfigDict, Field

from cloche_runner.domain.runs import MissingLog, Run
from cloche_shared.contracts.references import Problem
from cloche_shared.contracts.runs import Ended, Resources, RunStatus
from cloche_shared.journal.commit import StreamId
from cloche_shared.ports.views import Row

RUNS = "runs"
ACTIVE = "runs.active"
"""Runs that have not ended: what a starting process looks at first."""


class EnvironmentView(BaseModel):
    """The environment version that a run uses."""

    name: str
    version: str
    definition_hash: str
    registered: bool = Field(description="Whether this run's request made the version.")


class ProblemView(BaseModel):
    """Why a run failed: a stable code, a sentence, and what to do."""

    model_config = ConfigDict(extra="allow")

    code: str
    message: str
    todo: str = ""


class RunView(BaseModel):
    """A run."""

    id: str
    experiment: str
    display_name: str
    script: str
    arguments: list[str]
    snapshot: str
    status: RunStatus
    attempt: int = Field(description="0: none was claimed yet.")
    environment: EnvironmentView | None
    lock_digest: str | None
    image: str | None
    reused: bool = Field(description="Whether nothing had to be built for it.")
    node: str | None
    gpus: list[str]
    created_at: str
    started_at: str | None
    ended_at: str | None = Field(description="When its process ended.")
    stored_at: str | None = Field(default=None, description="When its outputs and log were stored.")
    exit: Ended | None
    problem: ProblemView | None
    outputs: str | None = Field(description="Digest of the outputs' manifest.")
    left_out: list[str] = Field(default=[], description="What lay among the outputs and was not kept, and why.")
    tags: dict[str, str]
    properties: dict[str, str]
    priority: int
    resources: Resources
    created_by: str
    log_bytes: int
    log_missing: list[MissingLog] = Field(
        default=[], description="From which bytes of the log on those of lost attempts are missing."
    )
    build_id: str | None = Field(
        default=None, description="The build that its environment came from, as `/builds` knows it."
    )


def run_view(stream: StreamId, run: Run, created_by: str = "") -> RunView:
    """Return a run as users see it."""
    spec = run.spec
    if spec is None:
        raise ValueError("a run that exists was submitted")
    return RunView(
        id=stream.id,
        experiment=spec.experiment,
        display_name=spec.display_name,
        script=spec.script,
        arguments=list(spec.arguments),
        snapshot=spec.snapshot,
        status=run.status,
        attempt=run.attempt,
        environment=_environment(run),
        lock_digest=run.lock_digest or None,
        image=run.image or None,
        reused=run.reused,
        node=run.node or None,
        gpus=list(run.gpus),
        created_at=run.created_at,
        started_at=run.started_at or None,
        ended_at=run.ended_at or None,
        stored_at=run.stored_at or None,
        exit=run.ended,
        problem=_problem(run.problem) if run.phase == "failed" else None,
        outputs=run.outputs,
        left_out=list(run.left_out),
        tags=run.measures.tags,
        properties=run.measures.properties,
        priority=spec.priority,
        resources=spec.resources,
        created_by=created_by or run.created_by,
        log_bytes=run.log_before,
        log_missing=list(run.log_missing),
        build_id=run.build_id or None,
    )


def _environment(run: Run) -> EnvironmentView | None:
    found = run.environment
    if found is None:
        return None
    return EnvironmentView(
        name=found.name, version=found.version, definition_hash=found.definition_hash, registered=found.registered
    )


def _problem(problem: Problem | None) -> ProblemView | None:
    if problem is None:
        return None
    return ProblemView(code=problem.code, message=problem.message, todo=problem.todo, **_extra(problem))


def _extra(problem: Problem) -> dict[str, object]:
    return {key: value for key, value in problem.extra.items() if key not in {"code", "message", "todo"}}


def rows_of(stream: StreamId, run: Run, seq: int) -> Sequence[Row]:
    """Return the list's rows: every run, and those that have not ended."""
    if not run.phase:
        return ()
    body = run_view(stream, run).model_dump_json().encode()
    row = Row(RUNS, stream.project, stream.id, seq, run.created_at, body, run.status)
    facet = "ended" if run.is_terminal else "active"
    active = Row(ACTIVE, "-", str(stream).replace("/", ":"), seq, str(stream), str(stream).encode(), facet)
    return (row, active)
