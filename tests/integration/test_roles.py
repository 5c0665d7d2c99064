"""Every route of the mounted app, for every role and for a foreign project (security rules 5 and 6)."""

import re
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any, get_args

import httpx2
import orjson
import pytest
from fastapi.routing import APIRoute

from cloche._embedded import Settings, _compose
from cloche_shared.access import ACTIONS, Role
from cloche_shared.adapters.system_clock import SystemClock
from cloche_shared.http.app import PREFIX, App, action_of, openapi_document
from cloche_shared.logs import Log

ROLES: tuple[Role, ...] = get_args(Role)
BASE = "http://localhost/api/v1"
OWN_KEYS = re.compile(r"/services/\{[^}]*\}/(score|swagger\.json|health)$")
"""Paths that ask for a service's own keys."""
ENDLESS = "/events"
VALUES = {"digest": "sha256:" + "0" * 64, "which": "primary"}


class Keys:
    """An app with two projects, and a token for each role in the first of them."""

    def __init__(self, app: App, tokens: dict[Role, str]) -> None:
        self.app = app
        self.tokens = tokens
        self.routes: list[APIRoute] = [route for route in app.api.state.known if not OWN_KEYS.search(route.path)]

    def client(self, role: Role) -> httpx2.AsyncClient:
        headers = {"authorization": f"Bearer {self.tokens[role]}"}
        return httpx2.AsyncClient(transport=httpx2.ASGITransport(app=self.app), base_url=BASE, headers=headers)


@pytest.fixture
async def keys(tmp_path: Path) -> AsyncIterator[Keys]:
    log = Log("cloche", write=lambda _line: None, clock=SystemClock())
    async with _compose(tmp_path, Settings(), log, lambda: "") as embedded:
        first = {"authorization": f"Bearer {(tmp_path / 'token').read_text().strip()}"}
        transport = httpx2.ASGITransport(app=embedded.app)
        async with httpx2.AsyncClient(transport=transport, base_url=BASE, headers=first) as client:
            for project in ("mine", "foreign"):
                assert (await client.post("/projects", json={"name": project})).status_code == 201
            tokens: dict[Role, str] = {}
            for role in ROLES:
                made = await client.post("/tokens", json={"role": role}, headers={"cloche-project": "mine"})
                tokens[role] = made.json()["token"]
        yield Keys(embedded.app, tokens)


def asked(route: APIRoute) -> list[tuple[str, str]]:
    """Return methods and path of a route with something put for its parameters."""
    path = re.sub(r"\{(\w+)(:\w+)?\}", lambda found: VALUES.get(found[1], "nothing"), route.path)
    return [(method, path) for method in sorted(route.methods or ())]


async def send(client: httpx2.AsyncClient, method: str, path: str, **headers: str) -> httpx2.Response:
    content = None if method in {"GET", "DELETE"} else b"{}"
    json_type = {} if content is None else {"content-type": "application/json"}
    query = "?follow=false" if path == ENDLESS else ""
    return await client.request(method, path + query, content=content, headers={**json_type, **headers})


@pytest.mark.parametrize("role", ROLES)
async def test_a_role_opens_the_routes_whose_action_it_may_and_no_others(keys: Keys, role: Role) -> None:
    allowed = denied = 0
    async with keys.client(role) as client:
        for route in keys.routes:
            action = action_of(route.dependant)
            for method, path in asked(route):
                answer = await send(client, method, path)
                assert answer.status_code != 401
                if ROLES.index(role) < ROLES.index(ACTIONS[action]):
                    assert (answer.status_code, answer.json()["code"]) == (403, "not_allowed"), (method, path)
                    assert action in answer.json()["detail"]
                    denied += 1
                else:
                    refused = answer.json()["code"] if answer.status_code == 403 else ""
                    # what needs all projects besides its role says so
                    assert refused in {"", "token_opens_more"}, (method, path)
                    allowed += 1
    assert allowed > 20
    assert (denied == 0) is (role == "admin")


@pytest.mark.parametrize("role", ROLES)
async def test_on_every_route_a_foreign_project_is_one_that_is_not_there(keys: Keys, role: Role) -> None:
    async with keys.client(role) as client:
        for route in keys.routes:
            for method, path in asked(route):
                told: list[Any] = []
                for project in ("foreign", "missing", "min", "mine2", "MINE"):
                    answer = await send(client, method, path, **{"cloche-project": project})
                    assert (answer.status_code, answer.json()["code"]) == (404, "project_not_found"), (method, path)
                    body = {name: text for name, text in answer.json().items() if name != "request_id"}
                    headers = {
                        name: text
                        for name, text in answer.headers.items()
                        if name not in {"x-request-id", "traceparent"}
                    }
                    told.append((body, headers))
                assert all(one == told[0] for one in told), (method, path)


async def test_every_action_of_the_table_that_has_a_route_is_named_in_the_document(keys: Keys) -> None:
    document = orjson.loads(openapi_document(keys.app.api))
    for route in keys.routes:
        for method in route.methods or ():
            told = document["paths"][PREFIX + route.path_format][method.lower()]
            action = action_of(route.dependant)
            assert (told["x-cloche-action"], told["security"]) == (action, [{"token": [ACTIONS[action]]}])
