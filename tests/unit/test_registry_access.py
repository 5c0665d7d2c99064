"""Projects and API keys over REST: who may issue what, what is shown once, and what is never shown."""

from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from typing import Any

import httpx2
import orjson
import pytest

from tests.unit.registry_world import TOKEN, World, started

LATER = (datetime.now(UTC) + timedelta(days=1)).isoformat()


@pytest.fixture(params=["shared", "exclusive"])
async def world(request: pytest.FixtureRequest) -> AsyncIterator[World]:
    async with started(exclusive=request.param == "exclusive") as made:
        yield made


async def issue(world: World, project: str = "default", role: str = "viewer", **body: Any) -> dict[str, Any]:
    answer = await world.post("/tokens", {"role": role, **body}, **{"cloche-project": project})
    assert answer.status_code == 201, answer.text
    made: dict[str, Any] = answer.json()
    return made


async def create(world: World, *names: str) -> None:
    for name in names:
        assert (await world.post("/projects", {"name": name})).status_code == 201


def by(token: dict[str, Any] | str, project: str = "") -> dict[str, str]:
    bearer = token if isinstance(token, str) else token["token"]
    return {"authorization": f"Bearer {bearer}", **({"cloche-project": project} if project else {})}


def code(answer: httpx2.Response) -> tuple[int, str]:
    return answer.status_code, answer.json()["code"]


async def test_a_project_must_exist_before_it_can_be_named(world: World) -> None:
    named = {"cloche-project": "team"}
    assert code(await world.client.get("/environments", headers=named)) == (404, "project_not_found")
    await create(world, "team")
    assert (await world.client.get("/environments", headers=named)).status_code == 200
    assert code(await world.post("/projects", {"name": "team"})) == (409, "project_exists")
    assert code(await world.post("/projects", {"name": "public"})) == (422, "reserved_project")
    for bad in ("Team", "a_b", "-a", "a" * 64, "", "*", "a/b"):
        assert (await world.post("/projects", {"name": bad})).status_code == 422, bad


async def test_projects_are_listed_for_those_to_whom_they_are_open(world: World) -> None:
    await create(world, "red", "blue", "green")
    own = await issue(world, "red", projects=["blue"])
    position = (await world.post("/projects", {"name": "last"})).headers["cloche-position"]
    whole = await world.client.get("/projects", headers={"cloche-position": position})
    assert [one["name"] for one in whole.json()["items"]] == ["blue", "default", "green", "last", "red"]
    seen = await world.client.get("/projects", headers=by(own))
    assert [one["name"] for one in seen.json()["items"]] == ["blue", "red"]
    first = await world.client.get("/projects?page_size=1", headers=by(own))
    token = first.json()["next_page_token"]
    then = await world.client.get(f"/projects?page_size=1&page_token={token}", headers=by(own))
    assert [one["name"] for one in then.json()["items"]] == ["red"]
    assert then.json()["next_page_token"] is None


async def test_a_foreign_project_and_a_missing_one_are_answered_alike(world: World) -> None:
    await create(world, "red", "blue")
    own = await issue(world, "red", "admin")

    async def told(method: str, path: str, project: str, body: object = None) -> dict[str, Any]:
        answer = await world.client.request(method, path, headers=by(own, project), json=body)
        assert code(answer) == (404, "project_not_found")
        return {name: text for name, text in answer.json().items() if name not in {"request_id", "instance"}}

    for method, path in (("GET", "/environments"), ("POST", "/environments"), ("GET", "/tokens")):
        foreign, missing = [await told(method, path, name, {} if method == "POST" else None) for name in ("blue", "no")]
        assert foreign == missing
    shown = [await told("GET", f"/projects/{name}", "") for name in ("blue", "no")]
    assert shown[0] == shown[1]
    issued = [await told("POST", "/tokens", "", {"role": "viewer", "projects": [name]}) for name in ("blue", "no")]
    assert issued[0] == issued[1]


async def test_a_token_is_shown_once_and_kept_as_a_hash(world: World) -> None:
    made = await issue(world, description="CI", expires=LATER)
    assert made["token"].split("_")[1] == made["id"]
    assert (made["status"], made["projects"], made["description"]) == ("valid", ["default"], "CI")
    assert (await world.client.get("/environments", headers=by(made))).status_code == 200
    secret = made["token"].split("_", 2)[2]
    for path in ("/tokens", f"/tokens/{made['id']}"):
        shown = (await world.client.get(path)).text
        assert secret not in shown
        assert "digest" not in shown
    assert all(secret.encode() not in document.body for document in world.store.documents.values())


async def test_a_role_allows_what_the_table_says(world: World) -> None:
    viewer, submitter = await issue(world), await issue(world, role="submitter")
    new = {"name": "sk", "definition": {}}
    assert code(await world.post("/environments", new, **by(viewer))) == (403, "not_allowed")
    assert (await world.post("/environments", new, **by(submitter))).status_code == 201
    assert code(await world.client.get("/tokens", headers=by(submitter))) == (403, "not_allowed")
    assert code(await world.post("/tokens", {"role": "viewer"}, **by(submitter))) == (403, "not_allowed")
    assert code(await world.post("/projects", {"name": "x"}, **by(submitter))) == (403, "not_allowed")


async def test_an_administrator_of_some_projects_gives_no_more_than_these(world: World) -> None:
    await create(world, "red", "blue")
    own = await issue(world, "red", "admin")
    allowed = await world.post("/tokens", {"role": "admin"}, **by(own))
    assert (allowed.status_code, allowed.json()["projects"]) == (201, ["red"])
    every = await world.post("/tokens", {"role": "viewer", "projects": ["*"]}, **by(own))
    assert code(every) == (403, "token_opens_more")
    assert code(await world.post("/projects", {"name": "mine"}, **by(own))) == (403, "token_opens_more")
    wider = await issue(world, "red", projects=["blue"])
    gone = await world.client.delete(f"/tokens/{wider['id']}", headers=by(own))
    assert code(gone) == (403, "token_opens_more")
    shown = (await world.client.get(f"/tokens/{wider['id']}", headers=by(own))).json()
    assert shown["projects"] == ["red"]


async def test_a_key_for_several_projects_opens_these_and_no_other(world: World) -> None:
    await create(world, "red", "blue", "green")
    own = await issue(world, "red", "submitter", projects=["blue"])
    new = {"name": "sk", "definition": {}}
    assert code(await world.post("/environments", new, **by(own))) == (422, "project_required")
    for project, status in (("red", 201), ("blue", 201), ("green", 404), ("default", 404)):
        assert (await world.post("/environments", new, **by(own, project))).status_code == status
    assert "environment/blue/sk/000000000001" in world.store.documents


async def test_a_key_for_every_project_opens_those_to_come(world: World) -> None:
    own = await issue(world, projects=["*"])
    assert own["projects"] == ["*"]
    await create(world, "new")
    assert (await world.client.get("/environments", headers=by(own, "new"))).status_code == 200


async def test_a_revoked_token_opens_nothing_and_stays_on_record(world: World) -> None:
    made = await issue(world)
    assert (await world.client.get("/environments", headers=by(made))).status_code == 200
    gone = await world.client.delete(f"/tokens/{made['id']}", headers={"x-request-id": "r-1"})
    assert (gone.status_code, gone.json()["status"]) == (200, "revoked")
    assert gone.json()["revoked_by"] == "key:" + TOKEN.split("_")[1]
    assert (await world.client.get("/environments", headers=by(made))).status_code == 401
    assert (await world.client.delete(f"/tokens/{made['id']}")).status_code == 200
    assert code(await world.client.delete("/tokens/0000000000000000")) == (404, "token_not_found")
    seen = {"cloche-position": gone.headers["cloche-position"]}
    valid = (await world.client.get("/tokens", headers=seen)).json()["items"]
    revoked = (await world.client.get("/tokens?revoked=true", headers=seen)).json()["items"]
    assert made["id"] not in [one["id"] for one in valid]
    assert [one["id"] for one in revoked] == [made["id"]]
    body = orjson.loads(world.store.documents[f"access/default/{made['id']}/000000000002"].body)
    assert body["actor"] == ["key:" + TOKEN.split("_")[1], "127.0.0.1", "r-1"]


async def test_tokens_are_listed_newest_first_with_the_first_one(world: World) -> None:
    made = [await issue(world, description=str(number)) for number in range(3)]
    answer = await world.client.get("/tokens", headers={"cloche-position": await position_of(world)})
    items = answer.json()["items"]
    assert [one["description"] for one in items] == ["3", "2", "1", "0", ""]
    assert [one["bootstrap"] for one in items] == [False, False, False, False, True]
    assert {one["id"] for one in made} < {one["id"] for one in items}


async def position_of(world: World) -> str:
    answer = await world.post("/tokens", {"role": "viewer", "description": "3"})
    return str(answer.headers["cloche-position"])


@pytest.mark.parametrize(
    "expires", ["2020-01-01T00:00:00Z", "0001-01-01T00:00:00+23:59", "9999-12-31T23:59:59-12:00", "tomorrow", 5, ""]
)
async def test_a_token_ends_in_the_future(world: World, expires: object) -> None:
    answer = await world.post("/tokens", {"role": "viewer", "expires": expires})
    assert answer.status_code == 422
    assert answer.json()["errors"][0]["pointer"] == "/expires"


async def test_a_repeated_request_issues_one_token_and_does_not_show_it_again(world: World) -> None:
    once = {"idempotency-key": "k1"}
    first = await world.post("/tokens", {"role": "viewer"}, **once)
    assert first.status_code == 201
    again = await world.post("/tokens", {"role": "viewer"}, **once)
    assert code(again) == (409, "token_shown")
    assert again.json()["id"] == first.json()["id"]
    assert (await world.client.get("/environments", headers=by(first.json()))).status_code == 200
    assert code(await world.post("/tokens", {"role": "admin"}, **once)) == (422, "idempotency_key_reused")
    made = [await world.post("/projects", {"name": "p"}, **{"idempotency-key": "k2"}) for _ in range(2)]
    assert [one.status_code for one in made] == [201, 201]
