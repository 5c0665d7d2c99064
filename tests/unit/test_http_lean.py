"""Routes that are served without FastAPI's resolver answer as all others do."""

import re
from collections.abc import AsyncIterator
from typing import TYPE_CHECKING, Annotated, NoReturn

import httpx2
import pytest
from fastapi import APIRouter, Path, Query
from starlette.responses import Response

from cloche_shared.access import AccessTable, issue_key
from cloche_shared.adapters.system_clock import SystemClock
from cloche_shared.adapters.system_random import SystemRandom
from cloche_shared.contracts.common import Strict
from cloche_shared.contracts.facts import ApiKeyIssued
from cloche_shared.errors import Conflict
from cloche_shared.http.app import AppParts, create_app
from cloche_shared.http.caller import Caller, may
from cloche_shared.http.conditions import Once, Preferred
from cloche_shared.http.front import FrontParts
from cloche_shared.http.health import Version
from cloche_shared.http.lean import Lean, Shown, lean, lean_show
from cloche_shared.http.policy import FrontPolicy
from cloche_shared.http.replies import Reply
from cloche_shared.http.routes import router
from cloche_shared.http.strict_json import Json

if TYPE_CHECKING:
    from cloche_shared.http.exchange import Exchange

PEPPER = b"p" * 32
NAME = re.compile(r"^[a-z]{1,8}$")
CLOCK, RANDOM = SystemClock(), SystemRandom()


class Thing(Strict):
    name: str


def things() -> APIRouter:
    routes = router("things", "/things")

    @lean(routes, "", Lean("environments.write", Thing), response_model=Thing, operation_id="make_thing")
    async def make(caller: Annotated[Caller, may("environments.write")], once: Once, body: Json[Thing]) -> Response:
        if body.name == "taken":
            raise Conflict("name_taken", "There is one.")
        if body.name == "crash":
            raise ZeroDivisionError
        caller.wrote("thing/default/a", 3)
        return Reply(body, 201, headers={"x-request-key": once.request_id(caller.project)})

    @routes.get("", response_model=list[Thing], operation_id="list_things")
    async def list_all(caller: Annotated[Caller, may("environments.read")]) -> Response:
        return Reply(b"[]")

    prefers = Lean("environments.write", Thing, prefers=True)

    @lean(routes, "/slow", prefers, response_model=Thing, operation_id="make_slowly")
    async def slow(
        caller: Annotated[Caller, may("environments.write")], once: Once, preferred: Preferred, body: Json[Thing]
    ) -> Response:
        return Reply(body, 202, headers={"x-waits": str(preferred.wait_s)})

    @lean_show(routes, "/{name}", Shown("environments.read", NAME), response_model=Thing, operation_id="get_thing")
    async def show(
        caller: Annotated[Caller, may("environments.read")],
        preferred: Preferred,
        name: Annotated[str, Path(pattern=NAME.pattern)],
        wait: Annotated[int | None, Query(ge=0, le=60)] = None,
    ) -> Response:
        caller.wrote("thing/default/a", 4)
        return Reply(Thing(name=name), headers={"x-waits": str(preferred.wait_s if wait is None else wait)})

    return routes


class World:
    def __init__(self) -> None:
        self.access = AccessTable(PEPPER, CLOCK)
        self.notes: list[Exchange] = []
        self.crashes: list[Exception] = []
        front = FrontParts(
            self.access,
            CLOCK,
            RANDOM,
            FrontPolicy(hosts=frozenset({"cloche.test"})),
            note=lambda exchange, _: self.notes.append(exchange),
            crashed=lambda _, error: self.crashes.append(error),
        )
        self.app = create_app([things()], AppParts(Version(name="cloche", version="1", installation="home"), front))

    def client(self, role: str) -> httpx2.AsyncClient:
        key = issue_key(RANDOM, PEPPER)
        data = {"key_id": key.key_id, "digest": key.digest, "role": role, "projects": ("default",)}
        self.access.apply(ApiKeyIssued.model_validate(data))
        headers = {"authorization": f"Bearer {key.token}", "content-type": "application/json"}
        transport = httpx2.ASGITransport(app=self.app)
        return httpx2.AsyncClient(transport=transport, base_url="http://cloche.test", headers=headers)


@pytest.fixture
def world() -> World:
    return World()


@pytest.fixture
async def client(world: World) -> AsyncIterator[httpx2.AsyncClient]:
    async with world.client("admin") as client:
        yield client


async def test_it_answers_with_status_position_and_key(client: httpx2.AsyncClient) -> None:
    found = await client.post("/api/v1/things", content=b'{"name":"a"}', headers={"idempotency-key": "k"})
    assert (found.status_code, found.json()) == (201, {"name": "a"})
    assert found.headers["cloche-position"] == "home:thing/default/a@3"
    assert found.headers["x-request-key"]


async def test_it_needs_nothing_of_the_router_though_another_route_has_its_path(
    world: World, client: httpx2.AsyncClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert (await client.get("/api/v1/things")).json() == []
    monkeypatch.setattr(world.app.api, "middleware_stack", _fails)
    assert (await client.post("/api/v1/things", content=b'{"name":"a"}')).status_code == 201
    assert (await client.get("/api/v1/things/a")).status_code == 200


def _fails(*_: object) -> NoReturn:
    raise AssertionError("the router was asked")


async def test_it_is_noted_with_its_route_and_project(world: World, client: httpx2.AsyncClient) -> None:
    await client.post("/api/v1/things", content=b'{"name":"a"}')
    note = world.notes[-1]
    assert (note.method, note.route, note.status, note.project) == ("POST", "/things", 201, "default")


async def test_an_answer_that_cannot_be_read_is_not_made(client: httpx2.AsyncClient) -> None:
    found = await client.post("/api/v1/things", content=b'{"name":"a"}', headers={"accept": "text/html"})
    assert (found.status_code, found.json()["code"]) == (406, "not_acceptable")
    assert "cloche-position" not in found.headers


@pytest.mark.parametrize(
    ("body", "status", "code"),
    [
        (b'{"name":"taken"}', 409, "name_taken"),
        (b'{"name":1}', 422, "invalid_type"),
        (b'{"name":"a","more":1}', 422, "unknown_field"),
        (b'{"name":"a","name":"b"}', 400, "malformed_json"),
        (b"{", 400, "malformed_json"),
    ],
)
async def test_what_is_wrong_is_a_problem(client: httpx2.AsyncClient, body: bytes, status: int, code: str) -> None:
    found = await client.post("/api/v1/things", content=body)
    assert (found.status_code, found.json()["code"]) == (status, code)
    assert found.headers["content-type"] == "application/problem+json"


async def test_a_query_that_it_does_not_have_is_refused(client: httpx2.AsyncClient) -> None:
    found = await client.post("/api/v1/things?dry=1", content=b'{"name":"a"}')
    assert (found.status_code, found.json()["code"]) == (422, "unknown_field")


async def test_a_key_that_comes_twice_is_one_key(client: httpx2.AsyncClient) -> None:
    twice = [("idempotency-key", "one"), ("idempotency-key", "one")]
    both = await client.post("/api/v1/things", content=b'{"name":"a"}', headers=twice)
    first = await client.post("/api/v1/things", content=b'{"name":"a"}', headers=twice[:1])
    assert both.headers["x-request-key"] == first.headers["x-request-key"]


async def test_a_body_in_pieces_is_read_whole(client: httpx2.AsyncClient) -> None:
    async def pieces() -> AsyncIterator[bytes]:
        yield b'{"name":'
        yield b'"a"}'

    found = await client.post("/api/v1/things", content=pieces())
    assert (found.status_code, found.json()) == (201, {"name": "a"})


async def test_a_crash_tells_nothing_but_is_recorded(world: World, client: httpx2.AsyncClient) -> None:
    found = await client.post("/api/v1/things", content=b'{"name":"crash"}')
    assert (found.status_code, found.json()["code"]) == (500, "internal")
    assert [type(error) for error in world.crashes] == [ZeroDivisionError]


async def test_a_role_that_is_too_low_is_refused(world: World) -> None:
    async with world.client("viewer") as viewer:
        found = await viewer.post("/api/v1/things", content=b'{"name":"a"}')
    assert (found.status_code, found.json()["code"]) == (403, "not_allowed")


async def test_other_methods_are_refused_as_everywhere(client: httpx2.AsyncClient) -> None:
    found = await client.put("/api/v1/things", content=b'{"name":"a"}')
    assert (found.status_code, found.headers["allow"]) == (405, "GET, HEAD, POST")


async def test_one_thing_is_shown_and_noted_as_by_every_route(world: World, client: httpx2.AsyncClient) -> None:
    found = await client.get("/api/v1/things/a", headers={"prefer": "wait=7"})
    assert (found.status_code, found.json(), found.headers["x-waits"]) == (200, {"name": "a"}, "7")
    assert found.headers["cloche-position"] == "home:thing/default/a@4"
    assert (world.notes[-1].route, world.notes[-1].status) == ("/things/{name}", 200)


async def test_what_else_is_asked_of_a_shown_thing_is_answered_too(client: httpx2.AsyncClient) -> None:
    waited = await client.get("/api/v1/things/a?wait=3")
    assert (waited.status_code, waited.headers["x-waits"]) == (200, "3")
    for path, code in (("a?wait=x", "invalid_type"), ("a?more=1", "unknown_field"), ("A", "invalid_field")):
        found = await client.get(f"/api/v1/things/{path}")
        assert (found.status_code, found.json()["code"]) == (422, code)


@pytest.mark.parametrize(("method", "path"), [("GET", "a"), ("POST", "slow")])
async def test_a_preference_that_is_too_long_is_refused(client: httpx2.AsyncClient, method: str, path: str) -> None:
    url, headers = f"/api/v1/things/{path}", {"prefer": "wait=1," + "a" * 256}
    found = await client.request(method, url, headers=headers, content=b'{"name":"a"}' if method == "POST" else None)
    assert found.status_code == 422
    assert found.json()["errors"][0]["pointer"] == "#header/prefer"


async def test_who_prefers_to_wait_is_heard(client: httpx2.AsyncClient) -> None:
    found = await client.post("/api/v1/things/slow", content=b'{"name":"a"}', headers={"prefer": "wait=5"})
    assert (found.status_code, found.headers["x-waits"]) == (202, "5")


async def test_a_shown_thing_needs_a_key(world: World) -> None:
    async with world.client("admin") as client:
        found = await client.get("/api/v1/things/a", headers={"authorization": "Bearer none"})
    assert found.status_code == 401


@pytest.mark.parametrize("keys", [("",), ("a", "b"), ("a", ""), ("", "a")])
async def test_an_idempotency_key_that_is_empty_or_not_the_only_one_is_refused(
    client: httpx2.AsyncClient, keys: tuple[str, ...]
) -> None:
    headers = [("content-type", "application/json"), *(("idempotency-key", key) for key in keys)]
    answer = await client.post("/api/v1/things", content=b'{"name":"a"}', headers=headers)
    assert (answer.status_code, answer.json()["code"]) == (422, "invalid_idempotency_key")
