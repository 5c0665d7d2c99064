"""The list of consumer groups is what the services really join."""

import asyncio

import pytest

from cloche_runner.settings import RunnerSettings
from cloche_runner.wiring import build
from cloche_shared.adapters.memory_bus import MemoryBroker, MemoryBus
from cloche_shared.adapters.memory_views import MemoryViews
from cloche_shared.bus.groups import GROUPS
from cloche_shared.lifecycle import Lifecycle
from tests.unit.registry_world import World as RegistryWorld
from tests.unit.runner_world import Cluster
from tests.unit.test_builder_service import World as BuilderWorld
from tests.unit.test_deployer_service import deployer

pytestmark = pytest.mark.looptime


def joined(broker: MemoryBroker) -> dict[str, set[str]]:
    return {group: set(members[0].topics) for group, members in broker.members.items() if members}


async def test_every_group_is_listed_with_all_that_it_reads() -> None:
    registry, builder, cluster, broker = RegistryWorld(), BuilderWorld(), Cluster(), MemoryBroker()
    found: dict[str, set[str]] = {}
    started = (
        (registry.registry, registry.broker),
        (builder.service(), builder.broker),
        (build(cluster.platform(), RunnerSettings()), cluster.broker),
        (deployer(MemoryViews(), MemoryBus(broker)), broker),
    )
    for service, bus in started:
        async with Lifecycle() as life:
            await service.start(life)
            await asyncio.sleep(0.1)
            found |= joined(bus)
            life.stop()
    assert found == {group: set(topics) for group, topics in GROUPS.items()}
