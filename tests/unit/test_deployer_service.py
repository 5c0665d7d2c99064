"""The deployer as a service on ports in memory."""

import asyncio

import pytest

from cloche_deployer.domain import decide_deploy
from cloche_deployer.settings import DeployerSettings
from cloche_deployer.views import LIVE, VIEW
from cloche_deployer.wiring import Deployer, Extras, build
from cloche_shared.access import AccessTable
from cloche_shared.adapters.http_client import HttpClient
from cloche_shared.adapters.memory_blobs import MemoryBlobStore
from cloche_shared.adapters.memory_bus import MemoryBroker, MemoryBus
from cloche_shared.adapters.memory_journal import MemoryJournal, MemoryStore
from cloche_shared.adapters.memory_leases import MemoryLeases
from cloche_shared.adapters.memory_views import MemoryViews
from cloche_shared.adapters.system_clock import MemoryClock
from cloche_shared.adapters.system_random import SeededRandom
from cloche_shared.contracts.references import References
from cloche_shared.contracts.services import ServiceSpec
from cloche_shared.lifecycle import Lifecycle
from cloche_shared.service import Platform
from tests.unit.deployer_world import DIGEST, ORIGIN, World


def deployer(views: MemoryViews, bus: MemoryBus | None = None, *, relays: bool = False) -> Deployer:
    clock = MemoryClock()
    platform = Platform(
        journal=MemoryJournal(MemoryStore()),
        views=views,
        leases=MemoryLeases(),
        bus=bus or MemoryBus(MemoryBroker()),
        blobs=MemoryBlobStore(),
        clock=clock,
        random=SeededRandom(1),
        http=HttpClient(),
        access=AccessTable(b"p" * 32, clock),
        installation="here",
        exclusive=True,
        relays=relays,
    )
    world = World()
    return build(platform, DeployerSettings(sweep_every_s=60), Extras(world, b"p" * 32, lambda: "", world))


@pytest.mark.looptime
async def test_the_list_gets_what_no_event_told_of() -> None:
    views = MemoryViews()
    service = deployer(views)
    async with Lifecycle() as life:
        await service.start(life)
        spec = ServiceSpec(entry_script="score.py", snapshot=DIGEST)
        stream = service.streams.id("default", "svc")
        await service.streams.change(stream, ORIGIN, lambda state: decide_deploy(state, spec, References()))
        await asyncio.sleep(30)
        assert not await views.page(VIEW, "default", facet=LIVE, after=None, limit=10)
        await asyncio.sleep(60)
        (row,) = await views.page(VIEW, "default", facet=LIVE, after=None, limit=10)
        assert row.key == "svc"
        life.stop()
