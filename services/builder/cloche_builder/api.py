"""REST of the builder: `/builds`."""

from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import Annotated, Literal

import orjson
from fastapi import APIRouter, Header, Path, Query, Request
from fastapi.responses import PlainTextResponse, StreamingResponse
from pydantic import BaseModel, Field, StringConstraints, model_validator
from starlette.responses import Response

from cloche_builder.handlers import Requests
from cloche_builder.ports import LogPiece
from cloche_builder.reading import Follower, Found, Reader, no_lock
from cloche_builder.shown import LIST, SHOWN, BuildView
from cloche_shared.contracts.common import Digest, Strict
from cloche_shared.contracts.facts import BuildSubmitted, Purpose, Target
from cloche_shared.contracts.references import Environment
from cloche_shared.errors import Invalid
from cloche_shared.http.caller import Caller, may
from cloche_shared.http.conditions import Once, Preferred, etag_of
from cloche_shared.http.elsewhere import Elsewhere, may_go_on, primed
from cloche_shared.http.files import BYTES
from cloche_shared.http.paging import Page, Paging, page_bytes
from cloche_shared.http.position_wait import views_caught_up
from cloche_shared.http.replies import Reply, accepted
from cloche_shared.http.routes import router
from cloche_shared.http.sse import EventStream, LastEventId, ServerEvent
from cloche_shared.http.strict_json import Json
from cloche_shared.ports.platform import Random
from cloche_shared.ports.views import Views
from cloche_shared.store.inline import checked_references
from cloche_shared.store.packages import Packages, package_changes

Writes = Annotated[Caller, may("builds.write")]
Reads = Annotated[Caller, may("builds.read")]
BuildId = Annotated[
    str, Path(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,127}$", description="The id of a request or of a build.")
]
DefinitionHash = Annotated[str, StringConstraints(pattern=r"^e1:[0-9a-f]{64}$")]
EVENTS = "text/event-stream"
_LOG: dict[int | str, dict[str, object]] = {
    200: {"content": {"text/plain": {}, EVENTS: {}, BYTES: {}}, "description": "The log, or its lines as events."}
}


class BuildBody(Strict):
    """What is to be built. `refresh` solves again, so that unpinned packages may move; the old lock is kept.

    `purpose`: `build` it, say what a refresh would change (`drift`), or say what a build would do and why
    (`explain`); the latter two change nothing.
    """

    environment: Environment
    target: Target = "process"
    refresh: bool = Field(default=False, description="Make another lock.")
    purpose: Purpose = "build"

    @model_validator(mode="after")
    def _one_wish(self) -> "BuildBody":
        if self.refresh and self.purpose != "build":
            raise ValueError("a refresh is a build; drift and explain change nothing")
        return self


class SideView(BaseModel):
    """One of two locks; `digest` and `python` are empty where there was none."""

    digest: str
    python: str


class PackageChangeView(BaseModel):
    """A package that came, went or changed; null: not there. A hash is shown where the version is the same."""

    kind: Literal["conda", "pip"]
    name: str
    before: str | None
    after: str | None


class LockChangesView(BaseModel):
    """What differs between two locks of one definition; of a drift `after` is only foreseen, and has no digest."""

    before: SideView
    after: SideView
    packages: list[PackageChangeView]


@dataclass(frozen=True, slots=True)
class ApiParts:
    """What the routes work with."""

    requests: Requests
    reader: Reader
    views: Views
    random: Random
    installation: str
    elsewhere: Elsewhere | None = None

    def follower(self, request: Request, build_id: str, *, follow: bool) -> Follower | None:
        """Return what asks other builders for a log on behalf of this caller; None where all are here."""
        elsewhere, scope = self.elsewhere, request.scope
        if elsewhere is None or not may_go_on(scope):
            return None

        def ask(builder: str, offset: int) -> AsyncIterator[bytes]:
            target = f"{_location(build_id)}/log?offset={offset}{'&follow=true' if follow else ''}"
            return elsewhere.chunks(scope, builder, target)

        return ask


def make_router(parts: ApiParts) -> APIRouter:
    """Return the routes."""
    routes = router("builds", "/builds")
    _add_submit(routes, parts)
    _add_list(routes, parts)
    _add_show(routes, parts)
    _add_log(routes, parts)
    _add_lock(routes, parts)
    _add_packages(routes, parts)
    return routes


def _location(build_id: str) -> str:
    return f"/api/v1/builds/{build_id}"


def _add_submit(routes: APIRouter, parts: ApiParts) -> None:
    @routes.post(
        "",
        status_code=202,
        response_model=BuildView,
        responses={200: {"model": BuildView, "description": "It ended while the caller waited."}},
        summary="Build an environment",
    )
    async def submit(body: Json[BuildBody], caller: Writes, once: Once, preferred: Preferred) -> Reply:
        key = once.request_id(caller.project)
        request_id = key or parts.random.uuid7()
        references = checked_references(body.environment)
        wanted = BuildSubmitted(references=references, target=body.target, refresh=body.refresh, purpose=body.purpose)
        changed = await parts.requests.submit(
            caller.project, request_id, wanted, caller.origin(request_id=key), fingerprint=once.fingerprint
        )
        caller.wrote(changed.stream, changed.seq)
        found = await parts.reader.wait(request_id, caller.project, preferred.wait_s or 0)
        shown = found.shown(caller.project)
        if found.settled:
            return Reply(shown, 200, etag=etag_of(found.seq), location=_location(request_id))
        return accepted(shown, _location(request_id), etag=etag_of(found.seq))


def _add_list(routes: APIRouter, parts: ApiParts) -> None:
    @routes.get(
        "",
        response_model=Page[BuildView],
        dependencies=[views_caught_up(parts.installation, parts.views, {"buildrequest": LIST})],
        summary="List the builds that the project asked for, newest first",
    )
    async def show_all(
        caller: Reads,
        paging: Paging,
        *,
        definition_hash: Annotated[
            DefinitionHash | None, Query(description="Only builds of the definition with this hash.")
        ] = None,
    ) -> Reply:
        if definition_hash is not None:
            found = await parts.reader.named(definition_hash, caller.project)
            items = [one.model_dump(mode="json") for one in found]
            return Reply(orjson.dumps({"items": items, "next_page_token": None}))
        rows = await parts.views.page(
            LIST, caller.project, facet=SHOWN, after=paging.after, limit=paging.limit + 1, descending=True
        )
        return Reply(page_bytes(rows, paging))


def _add_show(routes: APIRouter, parts: ApiParts) -> None:
    @routes.get("/{build_id}", response_model=BuildView, summary="Show a build or a request for one")
    async def show(build_id: BuildId, caller: Reads, preferred: Preferred) -> Reply:
        found = await parts.reader.wait(build_id, caller.project, preferred.wait_s or 0)
        if found.settled:
            caller.wrote(found.stream, found.seq)
        return Reply(found.shown(caller.project), etag=etag_of(found.seq))


def _add_log(routes: APIRouter, parts: ApiParts) -> None:
    @routes.get(
        "/{build_id}/log",
        response_class=PlainTextResponse,
        responses={
            200: {
                "content": {"text/plain": {}, EVENTS: {}, BYTES: {}},
                "description": "The log, or its lines as events.",
            }
        },
        summary="Read the log of a build, as text or live",
    )
    async def log(  # noqa: PLR0913 - each is a parameter of the request
        build_id: BuildId,
        caller: Reads,
        resume: LastEventId,
        request: Request,
        *,
        follow: Annotated[bool, Query(description="Send lines as they come (server-sent events).")] = False,
        offset: Annotated[int, Query(ge=0, le=2**53, description="Begin behind so many bytes.")] = 0,
        accept: Annotated[str, Header(max_length=1024)] = "",
    ) -> Response:
        start = _resumed(resume) if resume else offset
        found = await parts.reader.find(build_id, caller.project)
        if follow and BYTES in accept:
            pieces = parts.reader.follow_here(build_id, caller.project, start)
            return StreamingResponse(_data(pieces), media_type=BYTES)
        if follow or EVENTS in accept:
            there = parts.follower(request, build_id, follow=True)
            return EventStream(_events(parts.reader, build_id, caller.project, start, there))
        there = parts.follower(request, build_id, follow=False)
        builder = parts.reader.builder_of(found)
        body = there(builder, start) if builder and there is not None else _data(parts.reader.log(found, start))
        return StreamingResponse(await primed(body), media_type="text/plain; charset=utf-8")


def _resumed(event_id: str) -> int:
    if event_id.isascii() and event_id.isdigit() and len(event_id) <= 15:  # noqa: PLR2004 - below 2^53
        return int(event_id)
    raise Invalid("invalid_header", "The Last-Event-ID is not one of this stream.", todo="Start without it.")


async def _data(pieces: AsyncIterator[LogPiece]) -> AsyncIterator[bytes]:
    async for piece in pieces:
        yield piece.data


async def _events(
    reader: Reader, build_id: str, project: str, offset: int, there: Follower | None
) -> AsyncIterator[ServerEvent]:
    """Yield each line; an event's id is the offset behind it. The last event, `end`, shows what became of it."""
    rest = b""
    async for piece in reader.follow(build_id, project, offset, there):
        start = piece.offset - len(rest)
        *lines, rest = (rest + piece.data).split(b"\n")
        for line in lines:
            start += len(line) + 1
            yield ServerEvent(line.decode(errors="replace"), id=str(start))
    found = await reader.find(build_id, project)
    yield ServerEvent(found.shown(project).model_dump_json(), event="end")


WhichLock = Annotated[Digest | None, Query(description="An older lock of the build; the newest if left out.")]
LOCK_TEXT = "The pylock.toml (PEP 751); where conda packages are part of it, the pixi.lock of everything."


def _add_lock(routes: APIRouter, parts: ApiParts) -> None:
    @routes.get(
        "/{build_id}/lock",
        response_class=PlainTextResponse,
        responses={200: {"content": {"text/plain": {}}, "description": LOCK_TEXT}},
        summary="Read the lock of a build",
    )
    async def lock(build_id: BuildId, caller: Reads, digest: WhichLock = None) -> Response:
        found = await parts.reader.find(build_id, caller.project)
        lock = await parts.reader.lock(found, digest or "")
        return PlainTextResponse(lock.pixi_lock or lock.pylock)


def _add_packages(routes: APIRouter, parts: ApiParts) -> None:
    @routes.get("/{build_id}/packages", response_model=Packages, summary="List the packages of a lock")
    async def packages(build_id: BuildId, caller: Reads, digest: WhichLock = None) -> Reply:
        found = await parts.reader.find(build_id, caller.project)
        chosen = found.lock_digest(digest or "")
        if not chosen:
            raise no_lock()
        return Reply(await parts.reader.packages(found, chosen))

    @routes.get(
        "/{build_id}/changes",
        response_model=LockChangesView,
        summary="Show what differs from the lock before, or what a refresh would change",
    )
    async def changes(build_id: BuildId, caller: Reads) -> Reply:
        found = await parts.reader.find(build_id, caller.project)
        before, after = await parts.reader.changes(found)
        return Reply(_changes_shown(found, before, after))


def _changes_shown(found: Found, before: Packages | None, after: Packages) -> LockChangesView:
    changed = [
        PackageChangeView(kind=one.kind, name=one.name, before=one.before, after=one.after)
        for one in package_changes(before, after)
    ]
    return LockChangesView(
        before=SideView(digest=found.base, python=before.python if before else ""),
        after=SideView(digest=found.lock_digest(found.outcome), python=after.python),
        packages=changed,
    )
