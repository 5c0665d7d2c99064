"""A small app in process, with routes of each kind, that tests of the kit ask."""

import asyncio
from collections.abc import AsyncIterator
from typing import TYPE_CHECKING, Annotated

import httpx2
from fastapi import APIRouter, Request
from starlette.responses import StreamingResponse
from starlette.types import Receive, Scope, Send

from cloche_shared.access import AccessTable, issue_key
from cloche_shared.adapters.system_clock import SystemClock
from cloche_shared.adapters.system_random import SystemRandom
from cloche_shared.contracts.common import Strict
from cloche_shared.contracts.facts import ApiKeyIssued
from cloche_shared.errors import Conflict, NotFound, Unavailable
from cloche_shared.http.app import App, AppParts, create_app
from cloche_shared.http.caller import Caller, may
from cloche_shared.http.conditions import Matching, Once, Preferred
from cloche_shared.http.front import FrontParts
from cloche_shared.http.health import Version
from cloche_shared.http.paging import Page, Paging, page_bytes
from cloche_shared.http.policy import BodyRule, FrontPolicy, RouteRule
from cloche_shared.http.replies import Reply, accepted
from cloche_shared.http.routes import router
from cloche_shared.http.strict_json import Json
from cloche_shared.ports.views import Row

if TYPE_CHECKING:
    from cloche_shared.http.exchange import Exchange

PEPPER = b"p" * 32
CLOCK, RANDOM = SystemClock(), SystemRandom()


class Thing(Strict):
    name: str
    tags: tuple[str, ...] = ()


def things() -> APIRouter:
    routes = router("things", "/things")

    @routes.post("", status_code=202, response_model=Thing)
    async def make(
        caller: Annotated[Caller, may("runs.write")], body: Json[Thing], once: Once, preferred: Preferred
    ) -> Reply:
        caller.wrote("thing/default/a", 3)
        known = {"x-request-key": once.request_id(caller.project), "x-wait": str(preferred.wait_s)}
        reply = accepted(body, f"/api/v1/things/{body.name}")
        reply.headers.update(known)
        return reply

    @routes.get("", response_model=Page[Thing])
    async def listed(caller: Annotated[Caller, may("runs.read")], paging: Paging) -> Reply:
        everything = [Row("things", caller.project, f"k{n}", 1, f"{n:03}", b'{"name":"%d"}' % n) for n in range(120)]
        behind = [row for row in everything if paging.after is None or (row.sort, row.key) > paging.after]
        return Reply(page_bytes(behind[: paging.limit + 1], paging))

    @routes.get("/more", response_model=Page[Thing])
    async def more(_: Annotated[Caller, may("runs.read")], paging: Paging) -> Reply:
        return Reply(page_bytes([], paging))

    @routes.get("/endless", response_class=StreamingResponse)
    async def endless(_: Annotated[Caller, may("runs.read")]) -> StreamingResponse:
        async def pieces() -> AsyncIterator[bytes]:
            while True:
                yield b"x"
                await asyncio.sleep(0)

        return StreamingResponse(pieces(), media_type="text/plain")

    _add_single(routes)
    return routes


def _add_single(routes: APIRouter) -> None:
    @routes.put("/{name}", response_model=Thing)
    async def change(
        name: str, _: Annotated[Caller, may("runs.write")], body: Json[Thing], matching: Matching
    ) -> Reply:
        matching.check(7)
        return Reply(body, etag='"8"')

    @routes.get("/{name}", response_model=Thing)
    async def show(name: str, caller: Annotated[Caller, may("runs.read")]) -> Reply:
        if name == "crash":
            raise RuntimeError("/secret/path and a password")
        if name == "full":
            raise Unavailable("disk_full", "The disk is full.")
        if name == "busy":
            raise Unavailable("not_caught_up", "Later.", extra={"retry_after": 3})
        if name == "taken":
            raise Conflict("name_taken", "It exists.", extra={"existing": "/api/v1/things/taken"})
        if name != "one":
            raise NotFound("thing_not_found", f"There is no thing {name!r}.")
        return Reply(Thing(name=caller.project))

    @routes.post("/upload", response_model=Thing)
    async def upload(request: Request, _: Annotated[Caller, may("blobs.write")]) -> Reply:
        size = 0
        async for chunk in request.stream():
            size += len(chunk)
        return Reply(Thing(name=str(size)))


class Scoring:
    def takes(self, method: str, path: str) -> bool:
        return path.startswith("/api/v1/services/") and path.endswith("/score")

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if "/broken/" in scope["path"]:
            raise RuntimeError("boom")
        status = 401 if "/closed/" in scope["path"] else 200
        await send({"type": "http.response.start", "status": status, "headers": [(b"x-request-id", b"own-id")]})
        await send({"type": "http.response.body", "body": b"scored"})


class World:
    def __init__(self, requests_per_s: float = 0.0, staleness: float | None = None) -> None:
        self.access = AccessTable(PEPPER, CLOCK, staleness=staleness)
        self.crashes: list[Exception] = []
        self.notes: list[Exchange] = []
        policy = FrontPolicy(
            hosts=frozenset({"cloche.test"}),
            routes=(RouteRule("/api/v1/things/upload", BodyRule(1000, media_types=None, idle_s=0.02)),),
            requests_per_s=requests_per_s,
        )
        front = FrontParts(
            self.access,
            CLOCK,
            RANDOM,
            policy,
            ahead=[Scoring()],
            note=lambda exchange, _: self.notes.append(exchange),
            crashed=lambda _, error: self.crashes.append(error),
        )
        version = Version(name="cloche", version="1.2.3", installation="home")
        self.app: App = create_app([things()], AppParts(version, front, checks={"disk": self.disk}))
        self.trouble: str | None = None

    async def disk(self) -> str | None:
        return self.trouble

    def token(self, role: str = "admin", projects: tuple[str, ...] = ("default",)) -> str:
        key = issue_key(RANDOM, PEPPER)
        data = {"key_id": key.key_id, "digest": key.digest, "role": role, "projects": projects}
        self.access.apply(ApiKeyIssued.model_validate(data))
        return key.token

    def client(self, token: str | None = None) -> httpx2.AsyncClient:
        headers = {"authorization": f"Bearer {token}"} if token else {}
        transport = httpx2.ASGITransport(app=self.app)
        return httpx2.AsyncClient(transport=transport, base_url="http://cloche.test", headers=headers)
