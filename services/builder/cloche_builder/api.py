"""REST of the builder: `/builds`."""

from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import Annotated

from fastapi import APIRouter, Header, Path, Query, Request
from fastapi.responses import PlainTextResponse, StreamingResponse
from pydantic import Field
from starlette.responses import Response

from cloche_builder.handlers import Requests
from cloche_builder.ports import LogPiece
from cloche_builder.reading import Follower, Reader
from cloche_builder.shown import LIST, SHOWN, BuildView
from cloche_shared.contracts.common import Strict
from cloche_shared.contracts.facts import BuildSubmitted, Target
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

Writes = Annotated[Caller, may("builds.write")]
Reads = Annotated[Caller, may("builds.read")]
BuildId = Annotated[
    str, Path(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,127}$", description="The id of a request or of a build.")
]
EVENTS = "text/event-stream"
_LOG: dict[int | str, dict[str, object]] = {
    200: {"content": {"text/plain": {}, EVENTS: {}, BYTES: {}}, "description": "The log, or its lines as events."}
}


class BuildBody(Strict):
    """What is to be built. `refresh` solves again, so that unpinned packages may move; the old lock is kept."""

    environment: Environment
    target: Target = "process"
    refresh: bool = Field(default=False, description="Make another lock.")


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
        wanted = BuildSubmitted(references=references, target=body.target, refresh=body.refresh)
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
    async def show_all(caller: Reads, paging: Paging) -> Reply:
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


LOCK_TEXT = "The pylock.toml (PEP 751); where conda packages are part of it, the pixi.lock of everything."


def _add_lock(routes: APIRouter, parts: ApiParts) -> None:
    @routes.get(
        "/{build_id}/lock",
        response_class=PlainTextResponse,
        responses={200: {"content": {"text/plain": {}}, "description": LOCK_TEXT}},
        summary="Read the lock of a build",
    )
    async def lock(build_id: BuildId, caller: Reads) -> Response:
        found = await parts.reader.find(build_id, caller.project)
        lock = await parts.reader.lock(found)
        return PlainTextResponse(lock.pixi_lock or lock.pylock)
