"""How builds and requests look to users."""

from typing import Literal

from pydantic import BaseModel, Field

from cloche_builder.domain.builds import Build
from cloche_builder.domain.names import shown_id
from cloche_builder.domain.requests import BuildRequest
from cloche_shared.contracts.facts import Explanation, Purpose
from cloche_shared.contracts.references import EnvironmentRef, InlineEnvironment, Problem
from cloche_shared.journal.commit import StreamId

LIST = "builds"
"""The view that users page through, by project."""
SHOWN, HIDDEN = "shown", "hidden"
"""The facets of that view."""

BuildStatus = Literal["NotStarted", "Queued", "Building", "Completed", "Failed", "Evicted"]


class BuildView(BaseModel):
    """A build, or a request for one.

    A request's id is its own; `build_id` names the build that it led to, which several requests,
    runs and services may share.
    """

    id: str
    build_id: str = Field(default="", description="The build behind a request; equal to `id` for a build.")
    status: BuildStatus
    environment: str = Field(default="", description="`name:version`, as this project asked for it.")
    definition_hash: str = ""
    target: str = "process"
    shared: bool = Field(default=False, description="Built from public sources alone, for all projects.")
    lock_digest: str = ""
    image: str = ""
    reused: bool = Field(default=False, description="Nothing had to be built for this request.")
    refresh: bool = False
    purpose: Purpose = "build"
    base_lock: str = Field(default="", description="The lock before; of a drift the one that there is.")
    locks: list[str] = Field(default=[], description="All locks of the build that are kept, the newest last.")
    explanation: Explanation | None = Field(default=None, description="What a build would do, where that was asked.")
    attempt: int = 0
    builder: str = ""
    waiting: int = Field(default=0, description="How many of this project's requests wait for it.")
    artefacts: int = 0
    bytes: int = 0
    seconds: float = 0.0
    problem: Problem | None = None
    created_at: str = ""
    started_at: str = ""
    ended_at: str = ""


def _build_status(build: Build) -> BuildStatus:
    if build.claim is not None:
        return "Building"
    if build.waiters:
        return "Queued"
    if build.last == "failed":
        return "Failed"
    return "Evicted" if build.evicted else "Completed"


def build_shown(stream: StreamId, build: Build, project: str) -> BuildView:
    """Return a build as a project that asked for it sees it."""
    asker = build.asked_by(project)
    return BuildView(
        id=shown_id(stream),
        build_id=shown_id(stream),
        status=_build_status(build),
        environment=asker.environment if asker else "",
        definition_hash=build.definition_hash,
        target=build.target,
        shared=stream.project != project,
        lock_digest=build.lock_digest,
        image=build.image,
        base_lock=build.base,
        locks=list(build.locks),
        attempt=build.claims,
        builder=build.claim.builder if build.claim else "",
        waiting=sum(1 for waiter in build.waiters if waiter.project == project),
        artefacts=build.artefacts,
        bytes=build.bytes,
        seconds=build.seconds,
        problem=build.problem,
        created_at=asker.at if asker else build.created_at,
        started_at=build.started_at,
        ended_at=build.ended_at,
    )


def _request_status(state: BuildRequest, build: Build | None) -> BuildStatus:
    if state.stage == "completed":
        return "Completed"
    if state.stage == "failed":
        return "Failed"
    if state.stage == "assigned":
        return "Building" if build is not None and build.claim is not None else "Queued"
    return "NotStarted"


def _asked_for(state: BuildRequest) -> str:
    if state.environment is not None:
        return f"{state.environment.name}:{state.environment.version}"
    wanted = state.references.environment
    if isinstance(wanted, EnvironmentRef):
        part = wanted.version or wanted.label
        return f"{wanted.name}:{part}" if part else wanted.name
    return wanted.name if isinstance(wanted, InlineEnvironment) else ""


def request_shown(stream: StreamId, state: BuildRequest, build: Build | None) -> BuildView:
    """Return a request, with what is known of its build."""
    return BuildView(
        id=stream.id,
        build_id=state.build_id,
        status=_request_status(state, build),
        environment=_asked_for(state),
        definition_hash=state.environment.definition_hash if state.environment else "",
        target=state.target,
        shared=state.build_id.startswith("public-"),
        lock_digest=state.base if state.purpose == "drift" else state.lock_digest,
        image=state.image,
        reused=state.reused,
        refresh=state.refresh,
        purpose=state.purpose,
        base_lock=state.base,
        locks=list(build.locks) if build and state.purpose == "build" else [],
        explanation=state.explanation,
        attempt=build.claims if build else 0,
        builder=build.claim.builder if build and build.claim else "",
        waiting=0 if state.ended else 1,
        artefacts=build.artefacts if build else 0,
        bytes=build.bytes if build else 0,
        seconds=build.seconds if build else 0.0,
        problem=state.problem,
        created_at=state.created_at,
        started_at=build.started_at if build else "",
        ended_at=state.ended_at,
    )
