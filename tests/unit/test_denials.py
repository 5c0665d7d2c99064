"""Refused changes are on record, counted, and never fill the disk."""

import asyncio
from datetime import UTC, datetime, timedelta

import orjson
import pytest

from cloche_shared.access import Principal
from cloche_shared.adapters.memory_faults import NoFaults
from cloche_shared.adapters.memory_journal import MemoryJournal, MemoryStore
from cloche_shared.adapters.system_random import SystemRandom
from cloche_shared.denials import MAX_KINDS, OFTEN, Denials
from cloche_shared.errors import Unavailable
from cloche_shared.http.exchange import Exchange
from cloche_shared.journal.commit import written
from cloche_shared.journal.writer import Writer

pytestmark = pytest.mark.looptime

NOON = datetime(2026, 1, 1, 12, tzinfo=UTC)


class LoopClock:
    def now(self) -> datetime:
        return NOON + timedelta(seconds=self.monotonic())

    def monotonic(self) -> float:
        return asyncio.get_running_loop().time()


class FullDisk(NoFaults):
    full = False

    async def before(self, call: str) -> None:
        if self.full:
            raise Unavailable("disk_full", f"No room for {call}.")


class World:
    def __init__(self) -> None:
        self.store, self.faults, self.clock = MemoryStore(), FullDisk(), LoopClock()
        writer = Writer(MemoryJournal(self.store, faults=self.faults), self.clock, SystemRandom())
        self.denials = Denials(writer, self.clock.monotonic, "registry")

    def refused(self, status: int = 401, code: str = "unauthenticated", **changes: object) -> None:
        exchange = Exchange("r1", "", "10.1.2.3", "POST", "/api/v1/runs/a/b/c", status=status, code=code)
        for name, value in changes.items():
            setattr(exchange, name, value)
        self.denials.note(exchange)

    def facts(self) -> list[dict[str, object]]:
        found = [written(document) for document in self.store.documents.values()]
        return [{"project": one.stream.project, **dict(data)} for one in found for _, data in one.facts]


async def written_after(world: World, seconds: float) -> list[dict[str, object]]:
    task = asyncio.create_task(world.denials.run())
    await asyncio.sleep(seconds)
    task.cancel()
    return world.facts()


async def test_refusals_that_are_alike_are_one_fact_with_their_number_and_times() -> None:
    world = World()
    for _ in range(1000):
        world.refused()
    await asyncio.sleep(2)
    world.refused(request_id="r2")
    (fact,) = await written_after(world, 6)
    assert fact == {
        "project": "default",
        "subject": "",
        "address": "10.1.2.3",
        "method": "POST",
        "path": "/api/v1/runs",
        "code": "unauthenticated",
        "count": 1001,
        "first_at": "2026-01-01T12:00:00.000000Z",
        "last_at": "2026-01-01T12:00:02.000000Z",
        "first_request": "r1",
    }


@pytest.mark.parametrize(
    ("status", "code"),
    [
        (401, "unauthenticated"),
        (403, "not_allowed"),
        (403, "bad_origin"),
        (421, "bad_host"),
        (429, "too_many_failures"),
    ],
)
async def test_each_way_of_being_refused_is_on_record(status: int, code: str) -> None:
    world = World()
    principal = Principal("key:a", ("team",), "viewer")
    world.refused(status, code, principal=principal)
    (fact,) = await written_after(world, 6)
    assert (fact["code"], fact["subject"], fact["project"]) == (code, "key:a", "team")


async def test_what_is_no_refused_change_is_not() -> None:
    world = World()
    world.refused(method="GET")
    world.refused(201, "")
    world.refused(422, "invalid_field")
    world.refused(404, "run_not_found")
    world.refused(401, "")
    assert await written_after(world, 100) == []


async def test_kinds_without_end_are_counted_together() -> None:
    world = World()
    for number in range(10_000):
        world.refused(address=f"10.0.{number // 256}.{number % 256}", path="/x" * number)
    facts = await written_after(world, 6)
    assert len(facts) == MAX_KINDS + 1
    assert sum(int(str(fact["count"])) for fact in facts) == 10_000
    assert facts[-1]["code"] == "others"
    assert all(len(document.body) < 64 * 1024 for document in world.store.documents.values())


async def test_an_attack_that_lasts_is_written_less_and_less_often() -> None:
    world = World()

    async def attack() -> None:
        while True:
            world.refused()
            await asyncio.sleep(1)

    task = asyncio.create_task(attack())
    facts = await written_after(world, 3600)
    task.cancel()
    assert OFTEN < len(facts) < OFTEN + 60
    assert sum(int(str(fact["count"])) for fact in facts) > 3500


async def test_a_disk_that_is_full_loses_no_refusal() -> None:
    world = World()
    world.faults.full = True
    world.refused()
    assert await written_after(world, 20) == []
    world.refused()
    world.faults.full = False
    (fact,) = await written_after(world, 10)
    assert fact["count"] == 2
    assert str(fact["first_at"]) < str(fact["last_at"])


async def test_what_is_left_is_written_at_the_end_and_goes_to_administrators() -> None:
    world = World()
    world.refused()
    await world.denials.flush()
    await world.denials.flush()
    (document,) = world.store.documents.values()
    assert document.topic == "cloche.denials"
    assert orjson.loads(document.body)["actor"][0] == "service:registry"
