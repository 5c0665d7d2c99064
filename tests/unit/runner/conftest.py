"""A runner with a client, on nodes whose machine is its own and on nodes of a shared store."""

from collections.abc import AsyncIterator

import pytest

from tests.unit.runner_world import Client, Cluster, answering, replica


@pytest.fixture(params=[False, True], ids=["exclusive", "shared"])
async def cluster(request: pytest.FixtureRequest) -> AsyncIterator[Cluster]:
    made = Cluster(shared=request.param)
    async with answering(made):
        yield made


@pytest.fixture
async def client(cluster: Cluster) -> AsyncIterator[Client]:
    async with replica(cluster) as made:
        yield made
