"""What every adapter of the port Leases promises."""

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from cloche_shared.adapters.memory_leases import MemoryLeases
from cloche_shared.adapters.sqlite import SqliteFile
from cloche_shared.ports.journal import Lease, Leases
from tests.environments.mongo import mongo_store


@pytest.fixture(params=["sqlite", "memory", "mongo"])
async def leases(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Leases]:
    if request.param == "mongo":
        async with mongo_store(request.getfixturevalue("mongo_server")) as store:
            yield store.leases
    elif request.param == "sqlite":
        file = await SqliteFile.open(tmp_path / "cloche.db")
        yield file.leases("runner")
        await file.close()
    else:
        yield MemoryLeases()


async def test_a_lease_reads_back_as_it_was_put(leases: Leases) -> None:
    lease = Lease("node-1", 7, 30.0, "127.0.0.1:8571", 12.5)
    await leases.put(lease)
    assert await leases.get("node-1") == lease


async def test_an_absent_holder_has_none(leases: Leases) -> None:
    assert await leases.get("node-1") is None
    assert await leases.all() == []


async def test_putting_replaces_without_any_condition(leases: Leases) -> None:
    await leases.put(Lease("node-1", 7, 30.0))
    await leases.put(Lease("node-1", 2, 10.0))
    assert await leases.all() == [Lease("node-1", 2, 10.0)]


async def test_all_names_every_holder_once(leases: Leases) -> None:
    for holder in ("b", "a", "b"):
        await leases.put(Lease(holder, 1, 30.0))
    assert [lease.holder for lease in await leases.all()] == ["a", "b"]
