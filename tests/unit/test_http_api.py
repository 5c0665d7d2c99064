"""The kit as a client of the REST API meets it: one small app, in process."""

import asyncio
import base64
from collections.abc import AsyncIterator

import httpx2
import orjson
import pytest

from cloche_shared.access import ON_ITS_WAY_S
from cloche_shared.errors import Internal
from cloche_shared.http.app import AppParts, create_app, openapi_document
from cloche_shared.http.front import FrontParts
from cloche_shared.http.health import Version
from cloche_shared.http.routes import router
from tests.unit.http_world import CLOCK, RANDOM, World


@pytest.fixture
def world() -> World:
    return World()


@pytest.fixture
async def client(world: World) -> AsyncIterator[httpx2.AsyncClient]:
    async with world.client(world.token()) as client:
        yield client


async def test_a_mutation_answers_with_location_position_and_request_id(client: httpx2.AsyncClient) -> None:
    answer = await client.post("/api/v1/things", json={"name": "a", "tags": ["x"]}, headers={"x-request-id": "mine-1"})
    assert answer.status_code == 202
    assert answer.json() == {"name": "a", "tags": ["x"]}
    assert answer.headers["location"] == "/api/v1/things/a"
    assert answer.headers["retry-after"] == "1"
    assert answer.headers["cloche-position"] == "home:thing/default/a@3"
    assert answer.headers["x-request-id"] == "mine-1"
    assert answer.headers["x-content-type-options"] == "nosniff"
    assert answer.headers["cache-control"] == "no-store"


async def test_a_trace_goes_on_and_a_bad_one_is_replaced(client: httpx2.AsyncClient) -> None:
    trace = "0af7651916cd43dd8448eb211c80319c"
    answer = await client.get("/livez", headers={"traceparent": f"00-{trace}-b7ad6b7169203331-01"})
    assert answer.headers["traceparent"].startswith(f"00-{trace}-")
    assert answer.headers["traceparent"].endswith("-01")
    other = await client.get("/livez", headers={"traceparent": "00-" + "0" * 32 + "-b7ad6b7169203331-01"})
    assert "0" * 32 not in other.headers["traceparent"]


@pytest.mark.parametrize(
    ("body", "status", "code", "pointer"),
    [
        (b'{"name": 1}', 422, "invalid_type", "/name"),
        (b'{"nam": "a", "name": "b"}', 422, "unknown_field", "/nam"),
        (b"{}", 422, "missing_field", "/name"),
        (b'{"name": "a", "tags": ["x", 5]}', 422, "invalid_type", "/tags/1"),
        (b'{"name": "a", "name": "b"}', 400, "malformed_json", None),
        (b'{"name": NaN}', 400, "malformed_json", None),
        (b'{"name": "\\ud800"}', 400, "malformed_json", None),
        (b"{", 400, "malformed_json", None),
        (b"[" * 40 + b"]" * 40, 422, "invalid_field", None),
        (b"", 422, "missing_field", ""),
    ],
)
async def test_a_bad_body_is_a_problem_with_a_pointer(
    client: httpx2.AsyncClient, body: bytes, status: int, code: str, pointer: str | None
) -> None:
    answer = await client.post("/api/v1/things", content=body, headers={"content-type": "application/json"})
    problem = answer.json()
    assert answer.headers["content-type"] == "application/problem+json"
    assert (answer.status_code, problem["status"], problem["code"]) == (status, status, code)
    assert problem["request_id"] == answer.headers["x-request-id"]
    if pointer is not None:
        assert problem["errors"][0]["pointer"] == pointer


@pytest.mark.parametrize(
    ("path", "status", "code"),
    [
        ("/api/v1/things/none", 404, "thing_not_found"),
        ("/api/v1/things/taken", 409, "name_taken"),
        ("/api/v1/things/full", 507, "disk_full"),
        ("/api/v1/things/busy", 503, "not_caught_up"),
        ("/api/v1/nowhere", 404, "route_not_found"),
        ("/api/v1/things?page_size=0", 422, "invalid_field"),
        ("/api/v1/things?page_token=zzz", 422, "invalid_page_token"),
    ],
)
async def test_each_kind_of_error_has_its_status(client: httpx2.AsyncClient, path: str, status: int, code: str) -> None:
    answer = await client.get(path)
    assert (answer.status_code, answer.json()["code"]) == (status, code)


async def test_extra_members_and_retry_after_travel_with_the_problem(client: httpx2.AsyncClient) -> None:
    assert (await client.get("/api/v1/things/taken")).json()["existing"] == "/api/v1/things/taken"
    assert (await client.get("/api/v1/things/busy")).headers["retry-after"] == "3"


async def test_a_wrong_method_says_which_are_allowed(client: httpx2.AsyncClient) -> None:
    answer = await client.patch("/api/v1/things")
    assert (answer.status_code, answer.json()["code"]) == (405, "method_not_allowed")
    assert answer.headers["allow"]


async def test_a_crash_carries_only_the_request_id(world: World, client: httpx2.AsyncClient) -> None:
    answer = await client.get("/api/v1/things/crash")
    assert answer.status_code == 500
    assert answer.json()["code"] == "internal"
    assert "secret" not in answer.text
    assert [str(error) for error in world.crashes] == ["/secret/path and a password"]


async def test_every_path_but_the_open_ones_needs_a_token(world: World) -> None:
    async with world.client() as nobody:
        for path in ("/api/v1/things", "/api/v1/nowhere", "/metrics", "/anything"):
            answer = await nobody.get(path)
            assert (answer.status_code, answer.json()["code"]) == (401, "unauthenticated")
            assert answer.headers["www-authenticate"].startswith("Bearer")
        for path in ("/livez", "/readyz", "/healthz", "/version", "/openapi.json", "/docs"):
            assert (await nobody.get(path)).status_code == 200


@pytest.mark.looptime
async def test_an_open_path_does_not_wait_for_a_key_that_may_be_on_its_way() -> None:
    async with World(staleness=900).client("cloche_0000_guess") as stranger:
        assert (await stranger.get("/livez")).status_code == 200
    assert asyncio.get_running_loop().time() < ON_ITS_WAY_S


async def test_failures_are_limited_per_address_and_known_tokens_go_on(world: World) -> None:
    async with world.client(world.token()) as known, world.client("cloche_0000_guess") as guesser:
        assert (await known.get("/api/v1/things/one")).status_code == 200
        statuses = [(await guesser.get("/api/v1/things/one")).status_code for _ in range(22)]
        assert statuses == [401] * 20 + [429] * 2
        assert (await guesser.get("/api/v1/things")).headers["retry-after"]
        assert (await known.get("/api/v1/things/one")).status_code == 200


async def test_who_sends_no_token_guesses_nothing(world: World) -> None:
    async with world.client(world.token()) as known, world.client() as nobody:
        assert {(await nobody.get("/api/v1/things")).status_code for _ in range(25)} == {401}
        assert (await known.get("/api/v1/things/one")).status_code == 200


async def test_the_address_of_the_server_can_be_opened_in_a_browser(world: World) -> None:
    async with world.client() as nobody:
        answer = await nobody.get("/")
        assert (answer.status_code, answer.headers["location"]) == (307, "/docs")
        assert (await nobody.get("/favicon.ico")).status_code == 204


@pytest.mark.parametrize("path", ["/livez", "/api/v1/things", "/api/v1/things/one", "/api/v1/things/none", "/docs"])
async def test_head_is_answered_as_get_without_a_body(client: httpx2.AsyncClient, path: str) -> None:
    whole, head = await client.get(path), await client.head(path)
    assert (head.status_code, head.content) == (whole.status_code, b"")
    assert head.headers["content-type"] == whole.headers["content-type"]


async def test_head_of_a_stream_ends_with_its_head(world: World, client: httpx2.AsyncClient) -> None:
    answer = await client.head("/api/v1/things/endless")
    assert (answer.status_code, answer.content) == (200, b"")
    assert not world.crashes


async def test_a_role_that_is_too_low_is_refused(world: World) -> None:
    async with world.client(world.token("viewer")) as viewer:
        assert (await viewer.get("/api/v1/things/one")).status_code == 200
        answer = await viewer.post("/api/v1/things", json={"name": "a"})
        assert (answer.status_code, answer.json()["code"]) == (403, "not_allowed")


async def test_the_project_comes_from_the_token_or_the_header(world: World) -> None:
    async with world.client(world.token(projects=("red", "blue"))) as client:
        assert (await client.get("/api/v1/things/one")).json()["code"] == "project_required"
        chosen = await client.get("/api/v1/things/one", headers={"cloche-project": "blue"})
        assert chosen.json()["name"] == "blue"
        foreign = await client.get("/api/v1/things/one", headers={"cloche-project": "green"})
        assert (foreign.status_code, foreign.json()["code"]) == (404, "project_not_found")
        bad = await client.get("/api/v1/things/one", headers={"cloche-project": "../x"})
        assert bad.json()["code"] == "invalid_name"


async def test_foreign_hosts_and_origins_are_refused(client: httpx2.AsyncClient) -> None:
    host = await client.get("/livez", headers={"host": "evil.test"})
    assert (host.status_code, host.json()["code"]) == (421, "bad_host")
    origin = await client.post("/api/v1/things", json={"name": "a"}, headers={"origin": "http://evil.test"})
    assert (origin.status_code, origin.json()["code"]) == (403, "bad_origin")
    own = await client.post("/api/v1/things", json={"name": "a"}, headers={"origin": "http://cloche.test"})
    assert own.status_code == 202
    assert (await client.get("/livez", headers={"origin": "http://evil.test"})).status_code == 200


async def test_bodies_have_a_type_and_a_limit(client: httpx2.AsyncClient) -> None:
    text = await client.post("/api/v1/things", content=b"x", headers={"content-type": "text/plain"})
    assert (text.status_code, text.json()["code"]) == (415, "unsupported_media_type")
    body = orjson.dumps({"name": "a" * 2**20})
    large = await client.post("/api/v1/things", content=body, headers={"content-type": "application/json"})
    assert (large.status_code, large.json()["code"]) == (413, "too_large")


async def test_the_limit_holds_for_bytes_that_come_without_a_length(client: httpx2.AsyncClient) -> None:
    async def chunks(count: int) -> AsyncIterator[bytes]:
        for _ in range(count):
            yield b"x" * 100

    assert (await client.post("/api/v1/things/upload", content=chunks(10))).json()["name"] == "1000"
    over = await client.post("/api/v1/things/upload", content=chunks(11))
    assert (over.status_code, over.json()["code"]) == (413, "too_large")


async def test_a_body_that_stalls_is_cut_off(client: httpx2.AsyncClient) -> None:
    async def stalls() -> AsyncIterator[bytes]:
        yield b"x"
        await asyncio.Event().wait()

    answer = await client.post("/api/v1/things/upload", content=stalls())
    assert (answer.status_code, answer.json()["code"]) == (408, "slow_body")


async def test_a_body_that_drips_is_cut_off_though_it_never_stalls(client: httpx2.AsyncClient) -> None:
    async def drips() -> AsyncIterator[bytes]:
        for _ in range(1000):
            yield b"x"
            await asyncio.sleep(0.002)

    answer = await client.post("/api/v1/things/upload", content=drips())
    assert (answer.status_code, answer.json()["code"]) == (408, "slow_body")


async def test_an_answer_that_cannot_be_read_is_not_made(client: httpx2.AsyncClient) -> None:
    for method, path in (("GET", "/one"), ("POST", ""), ("PUT", "/one")):
        answer = await client.request(
            method, f"/api/v1/things{path}", json={"name": "a"}, headers={"accept": "application/xml"}
        )
        assert (answer.status_code, answer.json()["code"]) == (406, "not_acceptable")
        assert "cloche-position" not in answer.headers
    browser = {"accept": "text/html,application/xhtml+xml,application/xml;q=0.9,*/*;q=0.8"}
    assert (await client.get("/api/v1/things/one", headers=browser)).status_code == 200
    assert (await client.get("/api/v1/things/one", headers={"accept": "application/*"})).status_code == 200


async def test_a_key_that_asks_too_much_is_told_when_to_go_on() -> None:
    world = World(requests_per_s=1)
    async with world.client(world.token()) as client, world.client(world.token()) as other:
        statuses = [(await client.get("/api/v1/things/one")).status_code for _ in range(12)]
        assert statuses[:10] == [200] * 10
        last = await client.get("/api/v1/things/one")
        assert (last.status_code, last.json()["code"], last.headers["retry-after"]) == (429, "rate_limited", "1")
        assert (await client.get("/livez")).status_code == 200
        assert (await other.get("/api/v1/things/one")).status_code == 200


async def test_pages_follow_each_other_to_the_end(client: httpx2.AsyncClient) -> None:
    names: list[str] = []
    token: str | None = None
    while True:
        params = {"page_size": "50"} | ({"page_token": token} if token else {})
        page = (await client.get("/api/v1/things", params=params)).json()
        names += [item["name"] for item in page["items"]]
        token = page["next_page_token"]
        if token is None:
            break
    assert names == [str(n) for n in range(120)]


async def test_if_match_guards_a_change(client: httpx2.AsyncClient) -> None:
    body = {"name": "a"}
    assert (await client.put("/api/v1/things/a", json=body, headers={"if-match": '"7"'})).headers["etag"] == '"8"'
    stale = await client.put("/api/v1/things/a", json=body, headers={"if-match": '"6"'})
    assert (stale.status_code, stale.json()["code"], stale.json()["etag"]) == (412, "etag_mismatch", '"7"')
    assert (await client.put("/api/v1/things/a", json=body, headers={"if-match": "7"})).status_code == 422


async def test_idempotency_keys_are_checked_and_named(client: httpx2.AsyncClient) -> None:
    body = {"name": "a"}
    first = await client.post("/api/v1/things", json=body, headers={"idempotency-key": "k/1"})
    again = await client.post("/api/v1/things", json=body, headers={"idempotency-key": "k/1"})
    assert first.headers["x-request-key"] == again.headers["x-request-key"] != ""
    bad = await client.post("/api/v1/things", json=body, headers={"idempotency-key": "has space"})
    assert bad.json()["code"] == "invalid_idempotency_key"
    assert (await client.post("/api/v1/things", json=body)).headers["x-request-key"] == ""


async def test_what_is_mounted_ahead_answers_itself_behind_the_host_check(world: World) -> None:
    async with world.client() as nobody:
        assert (await nobody.post("/api/v1/services/a/score", content=b"1")).text == "scored"
        refused = await nobody.post("/api/v1/services/a/score", content=b"1", headers={"host": "evil.test"})
        assert refused.status_code == 421


async def test_what_escapes_an_app_ahead_is_a_problem_and_is_noted(world: World) -> None:
    async with world.client() as nobody:
        answer = await nobody.post("/api/v1/services/broken/score", content=b"1")
    assert (answer.status_code, answer.json()["code"]) == (500, "internal")
    assert [str(error) for error in world.crashes] == ["boom"]
    assert (world.notes[-1].status, world.notes[-1].request_id) == (500, answer.headers["x-request-id"])


async def test_an_app_ahead_is_noted_only_when_it_refuses(world: World) -> None:
    async with world.client() as nobody:
        await nobody.post("/api/v1/services/a/score", content=b"1")
        assert not world.notes
        await nobody.post("/api/v1/services/closed/score", content=b"1")
    note = world.notes[-1]
    assert (note.path, note.status, note.request_id) == ("/api/v1/services/closed/score", 401, "own-id")


async def test_readiness_names_the_failing_part(world: World, client: httpx2.AsyncClient) -> None:
    world.trouble = "nearly full"
    answer = await client.get("/readyz")
    assert (answer.status_code, answer.json()["failing"]) == (503, {"disk": "nearly full"})
    world.app.drain.set()
    assert (await client.get("/healthz")).json()["failing"] == {"server": "draining"}
    assert (await client.get("/livez")).status_code == 200


async def test_metrics_and_version_are_served(client: httpx2.AsyncClient) -> None:
    assert b"python_info" in (await client.get("/metrics")).content
    assert (await client.get("/version")).json()["version"] == "1.2.3"


async def test_the_docs_page_loads_nothing_from_elsewhere(client: httpx2.AsyncClient) -> None:
    page = await client.get("/docs")
    assert "default-src 'self'" in page.headers["content-security-policy"]
    assert "http" not in page.text.replace("http-equiv", "")
    assert "innerHTML" not in (await client.get("/docs/page.js")).text


async def test_each_finished_request_is_noted_with_its_route(world: World, client: httpx2.AsyncClient) -> None:
    await client.get("/api/v1/things/one")
    note = world.notes[-1]
    assert (note.method, note.route, note.status, note.project) == ("GET", "/things/{name}", 200, "default")


async def test_websockets_are_refused(world: World) -> None:
    sent: list[dict[str, object]] = []

    async def receive() -> dict[str, object]:
        return {"type": "websocket.connect"}

    async def send(message: object) -> None:
        assert isinstance(message, dict)
        sent.append(message)

    await world.app({"type": "websocket", "path": "/", "headers": []}, receive, send)
    assert sent == [{"type": "websocket.close", "code": 1008, "reason": ""}]


def test_the_openapi_document_describes_every_answer_as_a_problem(world: World) -> None:
    whole = orjson.loads(openapi_document(world.app.api))
    make = whole["paths"]["/api/v1/things"]["post"]
    assert make["requestBody"]["content"]["application/json"]["schema"] == {"$ref": "#/components/schemas/Thing"}
    assert {"202", "400", "401", "403", "409", "412", "413", "415", "421", "422", "429", "503"} <= set(
        make["responses"]
    )
    assert "application/problem+json" in make["responses"]["422"]["content"]
    assert make["security"] == [{"token": ["submitter"]}]
    assert "HttpProblem" in whole["components"]["schemas"]
    assert "HTTPValidationError" not in whole["components"]["schemas"]


def test_a_route_without_an_action_is_refused_when_the_app_is_made(world: World) -> None:
    routes = router("open", "/open")

    @routes.get("")
    async def anybody() -> None:
        return None

    front = FrontParts(world.access, CLOCK, RANDOM)
    with pytest.raises(Internal) as caught:
        create_app([routes], AppParts(Version(name="c", version="1", installation="i"), front))
    assert caught.value.code == "unguarded_route"


@pytest.mark.parametrize("keys", [("",), ("a", "b"), ("a", ""), ("", "a")])
async def test_an_idempotency_key_that_is_empty_or_not_the_only_one_is_refused(
    client: httpx2.AsyncClient, keys: tuple[str, ...]
) -> None:
    headers = [("content-type", "application/json"), *(("idempotency-key", key) for key in keys)]
    answer = await client.post("/api/v1/things", content=b'{"name":"a"}', headers=headers)
    assert (answer.status_code, answer.json()["code"]) == (422, "invalid_idempotency_key")


async def test_a_page_token_is_for_its_own_list(client: httpx2.AsyncClient) -> None:
    token = (await client.get("/api/v1/things?page_size=1")).json()["next_page_token"]
    assert (await client.get(f"/api/v1/things?page_token={token}")).status_code == 200
    made = base64.urlsafe_b64encode(b'["\\u0000","x"]').decode().rstrip("=")
    for path in (f"/api/v1/things/more?page_token={token}", f"/api/v1/things?page_token={made}"):
        answer = await client.get(path)
        assert (answer.status_code, answer.json()["code"]) == (422, "invalid_page_token")
