"""The server on a real socket: bound port, port in use, drain, Unix socket."""

from pathlib import Path

import httpx2
import pytest

from cloche_shared.access import AccessTable
from cloche_shared.adapters.http_server import front_policy, listen, serve
from cloche_shared.adapters.system_clock import SystemClock
from cloche_shared.adapters.system_random import SystemRandom
from cloche_shared.errors import Conflict
from cloche_shared.http.app import App, AppParts, create_app
from cloche_shared.http.front import FrontParts
from cloche_shared.http.health import Version
from cloche_shared.settings import HttpSettings


def small_app(settings: HttpSettings) -> App:
    access = AccessTable(b"p" * 32, SystemClock())
    front = FrontParts(access, SystemClock(), SystemRandom(), front_policy(settings))
    return create_app([], AppParts(Version(name="cloche", version="1", installation="i"), front))


async def test_it_serves_on_a_free_port_and_drains() -> None:
    settings = HttpSettings(port=0, drain_s=1)
    app = small_app(settings)
    async with serve(app, settings) as server, httpx2.AsyncClient(base_url=server.url, trust_env=False) as client:
        assert server.port > 0
        answer = await client.get("/readyz")
        assert (answer.status_code, answer.json()["status"]) == (200, "ok")
        assert "server" not in answer.headers
        taken = HttpSettings(port=server.port)
        with pytest.raises(Conflict) as caught:
            listen(taken)
        assert caught.value.code == "port_in_use"
    assert app.drain.is_set()


async def test_it_serves_on_a_unix_socket_that_only_its_owner_opens(tmp_path: Path) -> None:
    settings = HttpSettings(uds=str(tmp_path / "s"), drain_s=1)
    async with serve(small_app(settings), settings):
        assert (tmp_path / "s").stat().st_mode & 0o777 == 0o600
        transport = httpx2.AsyncHTTPTransport(uds=settings.uds)
        async with httpx2.AsyncClient(transport=transport, base_url="http://localhost") as client:
            assert (await client.get("/livez")).status_code == 200
