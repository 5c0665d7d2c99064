"""What the other tests stand on: a server that can be killed, restarted, stopped and filled."""

from collections.abc import Callable

import pytest

from tests.e2e.topology import Embedded, Topology

pytestmark = pytest.mark.embedded_only


def test_the_shared_server_is_ready(topology: Topology) -> None:
    with topology.client() as client:
        assert client.ready()["status"] == "ok"
    assert topology.cli("status", "--json").document["ready"] is True


def test_a_killed_server_comes_back_with_its_data(own_topology: Callable[..., Embedded]) -> None:
    server = own_topology()
    with server.client() as client:
        client.environments.register("kept")
    server.kill()
    assert not server.lives
    server.restart()
    with server.client() as client:
        assert client.environments.get("kept").version == "1"


def test_a_disk_can_be_filled_and_freed(own_topology: Callable[..., Embedded]) -> None:
    server = own_topology(disk=24 * 1024 * 1024)
    server.fill_disk()
    with server.rest() as rest:
        assert rest.post("/api/v1/environments", json={"name": "full", "definition": {}}).status_code == 507
    server.free_disk()
    with server.client() as client:
        assert client.environments.register("room").version == "1"
