"""What a node offers: on this machine, and as given."""

import os

import pytest

from cloche_shared.adapters.devices import MemoryDevices, NvmlDevices
from cloche_shared.ports.devices import Devices, Gpu, Offer

GPU = Gpu("GPU-1", "H200", 140 * 2**30)


@pytest.fixture(params=["memory", "machine"])
def devices(request: pytest.FixtureRequest) -> Devices:
    return MemoryDevices(Offer(4.0, 2**33, (GPU,))) if request.param == "memory" else NvmlDevices()


async def test_an_offer_has_processors_memory_and_distinct_gpus(devices: Devices) -> None:
    offer = await devices.offer()
    assert offer.cpus > 0
    assert offer.memory > 2**26
    assert len({one.uuid for one in offer.gpus}) == len(offer.gpus)
    assert all(one.uuid and one.kind and one.memory > 0 for one in offer.gpus)


async def test_an_offer_stays_the_same(devices: Devices) -> None:
    assert await devices.offer() == await devices.offer()


async def test_every_offered_gpu_can_be_asked_for(devices: Devices) -> None:
    assert {type(await devices.busy(one.uuid)) for one in (await devices.offer()).gpus} <= {bool}


async def test_no_more_is_offered_than_the_machine_has() -> None:
    offer = await NvmlDevices().offer()
    assert offer.cpus <= len(os.sched_getaffinity(0))
    assert offer.memory <= os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")


async def test_a_gpu_that_cannot_be_asked_counts_as_busy() -> None:
    assert await NvmlDevices().busy("GPU-that-is-not-here")


async def test_a_held_gpu_is_busy_until_it_is_released() -> None:
    devices = MemoryDevices(Offer(1.0, 1, (GPU,)))
    devices.hold(GPU.uuid)
    assert await devices.busy(GPU.uuid)
    devices.release(GPU.uuid)
    assert not await devices.busy(GPU.uuid)
