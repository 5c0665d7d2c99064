"""Projects and API keys, at a URL: who gets in, where to, for how long, and what of it is on record."""

import json
import re
import time
from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from functools import cache
from importlib import resources
from typing import Any

import httpx2
import pytest

from cloche import AsyncClient, Client, ClocheError
from tests.e2e.problems import problem, refused, said
from tests.e2e.steps import Names, Scripts, completed
from tests.e2e.topology import PATIENCE, Topology, eventually

ROLES = ("viewer", "submitter", "admin")
OF_EACH_SERVICE = ("/api/v1/environments", "/api/v1/builds", "/api/v1/runs", "/api/v1/services")
METHODS = ("get", "put", "post", "delete", "patch")
VALUES = {"digest": "sha256:" + "0" * 64, "which": "primary"}
OWN_KEYS = re.compile(r"/services/\{name\}/(score|swagger\.json|health)$")
"""Paths that ask for a service's own keys."""
PROMISED_S = 1.0
"""Within so many seconds every service knows of a key that was revoked."""


@pytest.fixture
def team(client: Client, unique: Names) -> str:
    """A project of this test's own."""
    return client.projects.create(unique("team")).name


def bearer(token: str | None, project: str = "") -> dict[str, str]:
    return {"authorization": f"Bearer {token}", **({"cloche-project": project} if project else {})}


def statuses(topology: Topology, token: str | None, project: str = "") -> set[int]:
    """Return how each service answers a token."""
    with topology.rest(**bearer(token, project)) as rest:
        return {rest.get(path).status_code for path in OF_EACH_SERVICE}


def admin_of(topology: Topology, project: str) -> Client:
    return Client(topology.url, topology.token, project, home=topology.scratch)


def issued(topology: Topology, project: str, role: Any = "viewer", **options: Any) -> str:
    """Create a token and wait until every service knows it."""
    with admin_of(topology, project) as admin:
        token = admin.tokens.create(role, **options).token
    assert token is not None
    eventually(lambda: statuses(topology, token, project) == {200}, "every service knows the token")
    return token


# --- projects


@pytest.mark.main_job
def test_a_project_must_exist_before_it_can_be_named(topology: Topology, client: Client, unique: Names) -> None:
    name = unique("team")
    with admin_of(topology, name) as beside:
        with pytest.raises(ClocheError) as missing:
            beside.environments.register("sk")
        refused(missing.value, "project_not_found")
        assert client.projects.create(name, description="ours").description == "ours"
        assert beside.environments.register("sk").version == "1"
        assert [one.name for one in beside.environments.list()] == ["sk"]
    assert client.projects.get(name).name == name
    with pytest.raises(ClocheError) as taken:
        client.projects.create(name)
    refused(taken.value, "project_exists", names=name)
    eventually(lambda: name in [one.name for one in client.projects.list()], "the project is listed")


@pytest.mark.main_job
def test_a_run_works_in_a_project_of_its_own_and_is_seen_in_no_other(
    topology: Topology, client: Client, team: str, script: Scripts
) -> None:
    token = issued(topology, team, "submitter")
    with Client(topology.url, token, home=topology.scratch) as own:
        run = completed(own, script("print('hello')"))
        assert [one.id for one in own.runs.list()] == [run.id]
        assert [one.name for one in own.projects.list()] == [team]
    with pytest.raises(ClocheError) as missing:
        client.runs.get(run.id)
    refused(missing.value, "run_not_found")
    assert run.id not in [one.id for one in client.runs.list()]


# --- roles


@cache
def operations() -> list[tuple[str, str, str]]:
    """Return method, path with something put for its parameters, and role of every operation of the API."""
    document = json.loads(resources.files("cloche").joinpath("openapi.json").read_bytes())
    return [
        (method.upper(), re.sub(r"\{(\w+)\}", lambda name: VALUES.get(name[1], "nothing"), path), role)
        for path, item in document["paths"].items()
        for method in METHODS
        if method in item and "x-cloche-action" in item[method] and not OWN_KEYS.search(path)
        for [role] in [item[method]["security"][0]["token"]]
    ]


def ask(rest: httpx2.Client, method: str, path: str, headers: Mapping[str, str]) -> httpx2.Response:
    sends = {} if method in {"GET", "DELETE"} else {"content": b"{}"}
    json_type = {"content-type": "application/json"} if sends else {}
    query = "?follow=false" if path.endswith("/events") else ""
    return rest.request(method, path + query, headers={**json_type, **headers}, **sends)  # type: ignore[arg-type]


@pytest.mark.parametrize("role", ROLES)
def test_every_route_asks_for_its_role_and_knows_no_foreign_project(topology: Topology, team: str, role: str) -> None:
    token = issued(topology, team, role)
    assert len(operations()) > 50
    with topology.rest(**bearer(token)) as rest:
        for method, path, least in operations():
            answer = ask(rest, method, path, {})
            if ROLES.index(role) < ROLES.index(least):
                problem(answer, 403, "not_allowed")
            elif answer.status_code == 403:
                problem(answer, 403, "token_opens_more")
            assert answer.status_code not in {401, 500}, (method, path)
            told = [ask(rest, method, path, {"cloche-project": name}) for name in ("default", "missing")]
            foreign, missing = [
                {**problem(one, 404, "project_not_found"), "request_id": "", "instance": ""} for one in told
            ]
            assert foreign == missing, (method, path)


def test_a_key_for_several_projects_opens_these_and_no_other(topology: Topology, client: Client, unique: Names) -> None:
    red, blue, green = (client.projects.create(unique(name)).name for name in ("red", "blue", "green"))
    token = issued(topology, red, "submitter", projects=[blue])
    eventually(lambda: statuses(topology, token, blue) == {200}, "it opens the second project")
    assert statuses(topology, token, green) == {404}
    assert statuses(topology, token, "default") == {404}
    with topology.rest(**bearer(token)) as rest:
        problem(rest.get("/api/v1/runs"), 422, "project_required", names="Cloche-Project")

        def listed() -> list[str]:
            return [one["name"] for one in rest.get("/api/v1/projects").json()["items"]]

        eventually(lambda: listed() == sorted([red, blue]), "both projects are listed")
    with Client(topology.url, token, blue, home=topology.scratch) as there:
        there.environments.register("sk")
    with Client(topology.url, token, red, home=topology.scratch) as here, pytest.raises(ClocheError) as missing:
        here.environments.get("sk")
    refused(missing.value, "environment_not_found")


def test_an_administrator_of_a_project_gives_away_no_other(topology: Topology, client: Client, team: str) -> None:
    token = issued(topology, team, "admin")
    with Client(topology.url, token, home=topology.scratch) as own:
        assert own.tokens.create("admin").projects == [team]
        for wanted, code in (
            ("default", "project_not_found"),
            ("nowhere", "project_not_found"),
            ("*", "token_opens_more"),
        ):
            with pytest.raises(ClocheError) as denied:
                own.tokens.create("viewer", projects=[wanted])
            refused(denied.value, code)
        with pytest.raises(ClocheError) as denied:
            own.projects.create("another")
        refused(denied.value, "token_opens_more")
        foreign = client.tokens.create("viewer").id
        with pytest.raises(ClocheError) as missing:
            own.tokens.revoke(foreign)
        refused(missing.value, "token_not_found")
    client.tokens.revoke(foreign)


# --- the life of a token


def test_a_token_is_shown_once(topology: Topology, team: str) -> None:
    with admin_of(topology, team) as admin:
        made = admin.tokens.create("viewer", description="CI", expires=timedelta(days=1))
        assert made.token is not None
        secret = made.token.split("_", 2)[2]
        assert secret not in repr(made)
        events = [event.model_dump_json() for event in admin.events(follow=False, from_start=True)]
        eventually(lambda: made.id in [one.id for one in admin.tokens.list()], "it is listed")
        shown = [one.model_dump_json() for one in [*admin.tokens.list(), admin.tokens.get(made.id)]]
    assert all(secret not in text for text in [*events, *shown])
    with topology.rest(**{"cloche-project": team, "idempotency-key": made.id}) as rest:
        first = rest.post("/api/v1/tokens", json={"role": "viewer"})
        again = rest.post("/api/v1/tokens", json={"role": "viewer"})
    assert first.status_code == 201
    assert problem(again, 409, "token_shown")["id"] == first.json()["id"]


@pytest.mark.main_job
def test_a_revoked_token_opens_nothing_in_any_service_within_a_second(topology: Topology, team: str) -> None:
    took = []
    for _ in range(3):  # others keep this machine busy: the best of three counts
        token = issued(topology, team)
        with admin_of(topology, team) as admin:
            assert admin.tokens.revoke(token.split("_")[1]).status == "revoked"
            revoked = time.monotonic()
            eventually(lambda: statuses(topology, token) == {401}, "no service lets it in")  # noqa: B023 - called at once
            took.append(time.monotonic() - revoked)
        if took[-1] < PROMISED_S:
            break
    assert min(took) < PROMISED_S, took


def test_a_token_ends_by_itself(topology: Topology, team: str) -> None:
    until = datetime.now(UTC) + timedelta(seconds=3)
    with admin_of(topology, team) as admin:
        made = admin.tokens.create("viewer", expires=until)
        assert made.status == "valid"
        eventually(lambda: statuses(topology, made.token) == {401}, "it has ended everywhere")
        assert datetime.now(UTC) >= until
        assert admin.tokens.get(made.id).status == "expired"
        with pytest.raises(ClocheError) as past:
            admin.tokens.create("viewer", expires=until)
        refused(past.value, "invalid_expiry")


def test_a_token_says_when_it_was_used_last(topology: Topology, team: str) -> None:
    before = datetime.now(UTC) - timedelta(seconds=2)
    with admin_of(topology, team) as admin:
        unused = admin.tokens.create("viewer")
        used = [issued(topology, team)]
        for path in OF_EACH_SERVICE[1:]:
            with admin_of(topology, team) as fresh:
                token = fresh.tokens.create("viewer").token
            eventually(lambda: _get(topology, token, path) == 200, f"{path} knows it")  # noqa: B023 - called at once
            used.append(str(token))

        def noted() -> bool:
            shown = [admin.tokens.get(token.split("_")[1]).last_used for token in used]
            return all(at is not None and datetime.fromisoformat(at) >= before for at in shown)

        eventually(noted, "each service's uses are known", seconds=PATIENCE)
        assert admin.tokens.get(unused.id).last_used is None


def _get(topology: Topology, token: str | None, path: str) -> int:
    with topology.rest(**bearer(token)) as rest:
        return rest.get(path).status_code


# --- on record


def test_what_is_done_to_keys_is_on_record_with_who_did_it(topology: Topology, team: str) -> None:
    mine = "key:" + topology.token.split("_")[1]
    with admin_of(topology, team) as admin:
        made = admin.tokens.create("submitter", description="CI")
        admin.tokens.revoke(made.id)

        def recorded() -> dict[str, Mapping[str, Any]]:
            kinds = ["ProjectCreated", "ApiKeyIssued", "ApiKeyRevoked"]
            return {event.name: event.data for event in admin.events(follow=False, from_start=True, types=kinds)}

        eventually(lambda: len(recorded()) == 3, "all three are on record")
        found = recorded()
    assert found["ProjectCreated"]["created_by"] == mine
    assert (found["ApiKeyIssued"]["key_id"], found["ApiKeyIssued"]["created_by"]) == (made.id, mine)
    assert (found["ApiKeyRevoked"]["key_id"], found["ApiKeyRevoked"]["revoked_by"]) == (made.id, mine)
    viewer = issued(topology, team)
    with Client(topology.url, viewer, home=topology.scratch) as other:
        assert not [one for one in other.events(follow=False, from_start=True) if one.name.startswith("ApiKey")]


# --- the program, and asyncio


def test_the_program_creates_lists_and_revokes(topology: Topology, unique: Names) -> None:
    name = unique("team")
    assert topology.cli("project", "create", name, "--description", "ours").out.strip() == name
    said(topology.cli("project", "create", name, code=4), "project_exists", names=name)
    eventually(lambda: name in topology.cli("project", "list").out, "it is listed")
    made = topology.cli(
        "token", "create", "--project", name, "--role", "viewer", "--expires", "90d", "--description", "CI"
    )
    token = made.out.strip()
    assert token.startswith("cloche_")
    assert f"viewer of {name} until" in made.err
    eventually(lambda: "CI" in topology.cli("token", "list", "--project", name).out, "it is listed")
    assert token not in topology.cli("token", "list", "--project", name, "--json").out
    gone = topology.cli("token", "revoke", token, "--project", name, "--json").document
    assert (gone["id"], gone["status"]) == (token.split("_")[1], "revoked")
    said(topology.cli("token", "revoke", "0000000000000000", "--project", name, code=3), "token_not_found")
    said(
        topology.cli("token", "create", "--project", name, "--role", "viewer", "--expires", "soon", code=2),
        "invalid_expiry",
    )
    said(topology.cli("run", "list", "--project", "nowhere", code=3), "project_not_found")


async def test_the_asyncio_client_does_the_same(topology: Topology, team: str) -> None:
    async with AsyncClient(topology.url, topology.token, team, home=topology.scratch) as admin:
        made = await admin.tokens.create("viewer")
        assert (await admin.tokens.revoke(made.id)).status == "revoked"
        assert (await admin.projects.get(team)).name == team
