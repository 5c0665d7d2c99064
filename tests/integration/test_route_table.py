"""Every route of the mounted app, of whatever framework, asks for a credential (security rule 1)."""

import re
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import httpx2
import pytest
from starlette.types import Message

from cloche._embedded import Settings, _compose
from cloche_shared.adapters.system_clock import SystemClock
from cloche_shared.http.app import App
from cloche_shared.http.policy import OPEN_PATHS
from cloche_shared.logs import Log


@pytest.fixture
async def app(tmp_path: Path) -> AsyncIterator[App]:
    log = Log("cloche", write=lambda _line: None, clock=SystemClock())
    async with _compose(tmp_path, Settings(), log, lambda: "") as embedded:
        yield embedded.app


def mounted(routes: list[Any], prefix: str = "") -> list[tuple[str, set[str]]]:
    """Return path and methods of everything that is mounted, in included routers and below mounts too."""
    found: list[tuple[str, set[str]]] = []
    for route in routes:
        if included := getattr(route, "original_router", None):
            found += mounted(included.routes, prefix + route.include_context.prefix)
        elif inner := getattr(route, "routes", None):
            found += mounted(inner, prefix + getattr(route, "path", ""))
        else:
            found.append((prefix + route.path, set(getattr(route, "methods", None) or {"GET"})))
    return found


async def test_every_mounted_route_asks_for_a_token_but_those_that_are_open_by_name(app: App) -> None:
    routes = mounted(app.api.routes)
    assert len(routes) > 50
    asked = 0
    for number, (template, methods) in enumerate(routes):
        if template in OPEN_PATHS:
            continue
        place = (f"127.1.{number // 250}.{number % 250 + 1}", 1)
        transport = httpx2.ASGITransport(app=app, client=place)
        path = re.sub(r"\{[^}]*\}", "x", template)
        async with httpx2.AsyncClient(transport=transport, base_url="http://localhost") as client:
            for method in methods - {"HEAD"}:
                answer = await client.request(method, path)
                # that a service's health is open is seen only where there is the service
                assert answer.status_code == 401, (method, template)
                asked += 1
    assert asked > 45
    assert {template for template, _ in routes} >= OPEN_PATHS


async def test_what_is_open_changes_nothing(app: App) -> None:
    for template, methods in mounted(app.api.routes):
        if template in OPEN_PATHS:
            assert methods <= {"GET", "HEAD"}, template


async def test_no_websocket_opens(app: App) -> None:
    sent: list[Message] = []

    async def receive() -> Message:
        return {"type": "websocket.connect"}

    async def send(message: Message) -> None:
        sent.append(message)

    for path in ("/", "/docs", "/api/v1/events", "/api/v1/services/x/score"):
        await app({"type": "websocket", "path": path, "headers": []}, receive, send)
    assert {message["type"] for message in sent} == {"websocket.close"}
