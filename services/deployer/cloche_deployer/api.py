"""REST of the deployer (prefix `/api/v1`)."""

import asyncio
from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import dataclass, replace
from typing import Annotated

import orjson
from fastapi import APIRouter, Path, Query, Request
from fastapi.params import Depends
from pydantic import Field
from starlette.responses import Response

from cloche_deployer.domain import KEYS, ServiceState, must_exist
from cloche_deployer.driver import Driver
from cloche_deployer.handlers import Deployment, Handlers
from cloche_deployer.keys import keys_of
from cloche_deployer.views import LIVE, VIEW, KeysView, ServiceView, WorkersShown, located, staffed, unhealthy, view_of
from cloche_shared.contracts.common import Digest, Name, Strict, Variables
from cloche_shared.contracts.references import Environment, ModelRef, References
from cloche_shared.contracts.runs import AskedResources
from cloche_shared.contracts.services import ServiceSpec
from cloche_shared.errors import Internal, Unavailable
from cloche_shared.http.caller import Caller, may
from cloche_shared.http.conditions import Matching, Once, Preferred, RequestKey, etag_of
from cloche_shared.http.elsewhere import Elsewhere, may_go_on
from cloche_shared.http.files import files_router
from cloche_shared.http.paging import Page, Paging, page_bytes
from cloche_shared.http.position_wait import views_caught_up
from cloche_shared.http.problems import MEDIA_TYPE
from cloche_shared.http.replies import Reply, accepted, no_content
from cloche_shared.http.routes import router
from cloche_shared.http.sse import EventStream, ServerEvent
from cloche_shared.http.strict_json import Json
from cloche_shared.journal.commit import StreamId
from cloche_shared.journal.streams import Present
from cloche_shared.ports.blobs import BlobStore
from cloche_shared.ports.views import Row, Views
from cloche_shared.store.inline import checked_references

Reader = Annotated[Caller, may("services.read")]
Writer = Annotated[Caller, may("services.write")]
Remover = Annotated[Caller, may("services.delete")]
KeyHolder = Annotated[Caller, may("services.keys")]
ServiceName = Annotated[Name, Path(description="The service's name.")]
_POLL = 0.05
LIST_PATIENCE_S = 2.0
"""Seconds that a list waits for what other replicas know of their workers."""
_SCORING_ANSWERS = {
    200: "What run() returned.",
    400: "The body is not what run() takes.",
    404: "There is no such service, or no such version of the swagger document.",
    405: "The script does not take this method.",
    415: "The script takes JSON.",
    431: "A request id is over 100 characters.",
    500: "run() raised, or took longer than it may.",
}
"""What the scoring front says besides the problems of every route (docs/reference/scoring-contract.md)."""


class ServiceUpdate(Strict):
    """What a revision of a service is to be. No environment means the server's default one."""

    entry_script: Annotated[str, Field(min_length=1, max_length=1024)]
    snapshot: Digest
    environment: Environment | None = None
    models: tuple[ModelRef, ...] = Field(default=(), max_length=32)
    workers: int = Field(default=1, ge=1, le=64)
    variables: Variables = Field(default_factory=dict)
    resources: AskedResources = AskedResources()
    timeout_ms: int = Field(default=60_000, ge=1, le=3_600_000)
    init_timeout: float = Field(default=300.0, gt=0, le=3600)
    queue: int = Field(default=128, ge=1, le=100_000)
    cors_origins: tuple[Annotated[str, Field(max_length=255)], ...] = Field(default=(), max_length=32)
    tags: dict[str, str] = Field(default_factory=dict, max_length=64)
    description: Annotated[str, Field(max_length=2000)] = ""

    def spec(self) -> ServiceSpec:
        """Return the revision's settings."""
        fields = self.model_dump(exclude={"environment", "models", "name", "resources"})
        return ServiceSpec(**fields, resources=self.resources.plain())

    def references(self) -> References:
        """Return what it refers to."""
        return checked_references(self.environment, self.models)


class ServiceCreate(ServiceUpdate):
    """A new service."""

    name: Name


@dataclass(frozen=True, slots=True)
class Parts:
    """What the routes work with."""

    handlers: Handlers
    driver: Driver
    views: Views
    blobs: BlobStore
    installation: str
    pepper: bytes
    base_url: Callable[[], str]
    elsewhere: Elsewhere | None = None

    async def answered_there(self, request: Request, state: ServiceState) -> Response | None:
        """Return what answers from the node that has the service's workers, None where that is this one."""
        node = self.driver.other_node(state)
        return await self.elsewhere.answer(request, node) if node and self.elsewhere is not None else None

    async def listed_there(self, request: Request, project: str, rows: Sequence[Row]) -> Sequence[Row]:
        """Return a page's rows as the nodes show them that have the services' workers, where they answer."""
        places = {row.key: self._place(project, row.key) for row in rows}
        nodes = sorted(set(places.values()) - {""})
        if self.elsewhere is None or not nodes or not may_go_on(request.scope):
            return rows
        pages = await asyncio.gather(*(self._page_of(self.elsewhere, request, node) for node in nodes))
        told = dict(zip(nodes, pages, strict=True))
        return [replace(row, body=told.get(places[row.key], {}).get(row.key, row.body)) for row in rows]

    def _place(self, project: str, name: str) -> str:
        """Return the other node that answers for a service, as far as it is known here."""
        present = self.handlers.streams.peek(self.handlers.streams.id(project, name))
        return self.driver.other_node(present.state) if present is not None else ""

    async def _page_of(self, elsewhere: Elsewhere, request: Request, node: str) -> dict[str, bytes]:
        """Return the same page's items by name as the replica of a node shows them; nothing when it does not answer."""
        try:
            async with asyncio.timeout(LIST_PATIENCE_S):
                target = elsewhere.asked(request.scope).target
                chunks = elsewhere.chunks(request.scope, node, target, accept=b"application/json")
                page = orjson.loads(b"".join([data async for data in chunks]))
        except (Unavailable, TimeoutError, orjson.JSONDecodeError):
            return {}
        return {item["name"]: orjson.dumps(item) for item in page["items"]}


def service_router(parts: Parts) -> APIRouter:
    """Return all routes of the deployer."""
    seen = [views_caught_up(parts.installation, parts.views, {"service": VIEW})]
    routes = router("services", "/services")
    _add_reading(routes, parts, seen)
    _add_changing(routes, parts)
    _add_keys(routes, parts)
    _add_log(routes, parts)
    _add_scoring(routes)
    whole = APIRouter()
    for one in (files_router("services", parts.blobs, "deployer"), routes):
        whole.routes.extend(one.routes)
    return whole


def _live(parts: Parts, stream: StreamId, state: ServiceState) -> ServiceView:
    """Return the view with what this node knows of the workers, and the address as it is now."""
    shown = view_of(stream.id, state)
    if shown.scoring_uri is not None:
        shown = shown.model_copy(update={"scoring_uri": parts.base_url() + shown.scoring_uri})
    changes: dict[str, object] = {}
    if shown.status == "Healthy" and parts.driver.trouble(stream, state.active) is not None:
        changes["status"] = "Unhealthy"
    pool = parts.driver.active_pool(stream)
    if pool is not None:
        changes["workers"] = WorkersShown(wanted=shown.workers.wanted, ready=pool.ready_workers)
    return shown.model_copy(update=changes)


def _listed(parts: Parts, project: str, row: Row) -> Row:
    """Return a row of the list with what is shown of the service alone, too."""
    body = located(row.body, parts.base_url())
    stream = parts.handlers.streams.id(project, row.key)
    present = parts.handlers.streams.peek(stream)
    if present is not None and parts.driver.trouble(stream, present.state.active) is not None:
        body = unhealthy(body)
    pool = parts.driver.active_pool(stream)
    if pool is not None:
        body = staffed(body, pool.ready_workers)
    return replace(row, body=body)


async def _existing(parts: Parts, caller: Caller, name: str) -> tuple[StreamId, ServiceState, int]:
    stream = parts.handlers.streams.id(caller.project, name)
    present = await parts.handlers.streams.get(stream)
    must_exist(present.state)
    return stream, present.state, present.seq


async def _settled(parts: Parts, stream: StreamId, revision: int, seconds: float) -> tuple[ServiceState, int]:
    """Wait, at most `seconds`, until a revision is up, has failed, or was overtaken."""
    streams = parts.handlers.streams
    loop = asyncio.get_running_loop()
    end = loop.time() + seconds
    while True:
        present = await streams.get(stream)
        candidate = present.state.candidate
        if candidate is None or candidate.number != revision or loop.time() >= end:
            return present.state, present.seq
        await asyncio.sleep(_POLL)


def _add_reading(routes: APIRouter, parts: Parts, seen: Sequence[Depends]) -> None:
    @routes.get("", response_model=Page[ServiceView], summary="List services", dependencies=seen)
    async def list_services(caller: Reader, paging: Paging, request: Request) -> Response:
        rows = await parts.views.page(VIEW, caller.project, facet=LIVE, after=paging.after, limit=paging.limit + 1)
        shown = [_listed(parts, caller.project, row) for row in rows]
        shown = list(await parts.listed_there(request, caller.project, shown))
        return Reply(page_bytes(shown, paging))

    @routes.get("/{name}", response_model=ServiceView, summary="Show a service")
    async def show_service(caller: Reader, name: ServiceName, preferred: Preferred, request: Request) -> Response:
        stream, state, seq = await _existing(parts, caller, name)
        if state.candidate is None and (there := await parts.answered_there(request, state)) is not None:
            return there
        if preferred.wait_s and state.candidate is not None:
            state, seq = await _settled(parts, stream, state.latest, preferred.wait_s)
            must_exist(state)
        parts.driver.route(stream, Present(state, seq))
        caller.wrote(stream, seq)
        return Reply(_live(parts, stream, state), etag=etag_of(seq))


def _add_changing(routes: APIRouter, parts: Parts) -> None:
    async def submit(
        caller: Caller, name: str, body: ServiceUpdate, once: RequestKey, matching: Matching | None, wait: int | None
    ) -> Response:
        origin = caller.origin(request_id=once.request_id(caller.project))
        changed = await parts.handlers.deploy(
            caller.project,
            Deployment(name, body.spec(), body.references()),
            origin,
            update=matching is not None,
            fingerprint=once.fingerprint,
            check=matching.check if matching is not None else None,
        )
        caller.wrote(changed.stream, changed.seq)
        state, seq = changed.state, changed.seq
        if wait and not changed.replayed:
            state, seq = await _settled(parts, changed.stream, state.latest, wait)
        return accepted(_live(parts, changed.stream, state), f"/api/v1/services/{name}", etag=etag_of(seq))

    @routes.post("", status_code=202, response_model=ServiceView, summary="Deploy a new service")
    async def deploy_service(caller: Writer, body: Json[ServiceCreate], once: Once, preferred: Preferred) -> Response:
        return await submit(caller, body.name, body, once, None, preferred.wait_s)

    @routes.put("/{name}", status_code=202, response_model=ServiceView, summary="Update a service")
    async def update_service(
        caller: Writer,
        name: ServiceName,
        body: Json[ServiceUpdate],
        once: Once,
        matching: Matching,
        preferred: Preferred,
    ) -> Response:
        return await submit(caller, name, body, once, matching, preferred.wait_s)

    @routes.delete("/{name}", status_code=204, summary="Delete a service")
    async def delete_service(caller: Remover, name: ServiceName, once: Once, matching: Matching) -> Response:
        origin = caller.origin(request_id=once.request_id(caller.project))
        stream = parts.handlers.streams.id(caller.project, name)
        changed = await parts.handlers.delete(stream, origin, once.fingerprint, matching.check)
        caller.wrote(changed.stream, changed.seq)
        return no_content()


def _add_keys(routes: APIRouter, parts: Parts) -> None:
    def keys(stream: StreamId, state: ServiceState) -> KeysView:
        return KeysView(**keys_of(parts.pepper, stream.project, stream.id, state))

    @routes.get("/{name}/keys", response_model=KeysView, summary="Show the keys of a service")
    async def show_keys(caller: KeyHolder, name: ServiceName) -> Response:
        stream, state, _ = await _existing(parts, caller, name)
        return Reply(keys(stream, state))

    @routes.post("/{name}/keys/{which}", response_model=KeysView, summary="Replace a key of a service")
    async def replace_key(
        caller: KeyHolder,
        name: ServiceName,
        which: Annotated[str, Path(description=f"{' or '.join(KEYS)}.", max_length=32)],
        once: Once,
    ) -> Response:
        stream = parts.handlers.streams.id(caller.project, name)
        origin = caller.origin(request_id=once.request_id(caller.project))
        changed = await parts.handlers.rekey(stream, which, origin, once.fingerprint)
        caller.wrote(changed.stream, changed.seq)
        parts.driver.rekeyed(stream, changed.state)
        return Reply(keys(stream, changed.state))


def _add_log(routes: APIRouter, parts: Parts) -> None:
    @routes.get(
        "/{name}/log",
        response_class=Response,
        summary="Read the log of a service's workers",
        responses={200: {"content": {"text/plain": {}, "text/event-stream": {}}}},
    )
    async def show_log(
        caller: Reader,
        name: ServiceName,
        request: Request,
        *,
        follow: Annotated[bool, Query(description="Stream what comes.")] = False,
    ) -> Response:
        stream, state, _ = await _existing(parts, caller, name)
        there = await parts.answered_there(request, state)
        if there is not None:
            return there
        if follow:
            return EventStream(_followed(parts.driver, stream))
        text = parts.driver.kept_log(stream) + await _present_log(parts.driver, stream)
        return Response(text, media_type="text/plain; charset=utf-8")


async def _present_log(driver: Driver, stream: StreamId) -> bytes:
    living = [serving.workers for serving in driver.serving(stream) if serving.workers is not None]
    return b"".join([worker.log() + await worker.tail() for worker in living])


async def _followed(driver: Driver, stream: StreamId) -> AsyncIterator[ServerEvent]:
    kept = driver.kept_log(stream)
    if kept:
        yield ServerEvent(kept.decode(errors="replace"))
    living = [serving.workers for serving in driver.serving(stream) if serving.workers is not None]
    if living:
        async for chunk in living[-1].follow():
            yield ServerEvent(chunk.decode(errors="replace"))
    yield ServerEvent("{}", event="end")


def _scoring_types(status: int) -> tuple[str, ...]:
    """Return the media types of an answer: the script's own, and ours where it is refused before the script."""
    own = ("application/json", "text/plain")
    return own if status < 400 else (*own, MEDIA_TYPE)  # noqa: PLR2004 - from here on statuses are errors


def _add_scoring(routes: APIRouter) -> None:
    """Document the scoring routes, which the scoring front answers before any request gets here."""
    said: dict[int | str, dict[str, object]] = {
        status: {"description": text, "content": {kind: {} for kind in _scoring_types(status)}}
        for status, text in _SCORING_ANSWERS.items()
    }

    @routes.post("/{name}/score", response_class=Response, responses=said, summary="Score: call the script's run()")
    async def score(caller: Reader, name: ServiceName) -> Response:
        raise Internal("scoring_not_mounted", f"Nothing scores for {name} of {caller.project} here.")

    @routes.get("/{name}/health", response_class=Response, responses=said, summary="Tell whether workers can answer")
    async def health(caller: Reader, name: ServiceName) -> Response:
        raise Internal("scoring_not_mounted", f"Nothing scores for {name} of {caller.project} here.")

    @routes.get("/{name}/swagger.json", response_class=Response, responses=said, summary="Describe run()'s input")
    async def swagger(caller: Reader, name: ServiceName) -> Response:
        raise Internal("scoring_not_mounted", f"Nothing scores for {name} of {caller.project} here.")
