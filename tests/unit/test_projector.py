"""The projector: batches of facts become rows of lists, once per aggregate."""

import asyncio
from collections.abc import Sequence

import pytest
from pydantic import BaseModel, ConfigDict

from cloche_shared.adapters.memory_journal import MemoryJournal
from cloche_shared.adapters.memory_views import MemoryViews
from cloche_shared.adapters.system_clock import SystemClock
from cloche_shared.adapters.system_random import SystemRandom
from cloche_shared.bus.projector import Projection, Projector
from cloche_shared.contracts.envelope import Event
from cloche_shared.contracts.fact import Fact
from cloche_shared.contracts.facts import EnvironmentArchived
from cloche_shared.errors import Unavailable
from cloche_shared.http.position_wait import waits_for_rows
from cloche_shared.http.positions import catch_up
from cloche_shared.journal.commit import Actor, Origin, StreamId, events_of
from cloche_shared.journal.streams import Decision, Kind, Streams
from cloche_shared.journal.writer import Writer
from cloche_shared.ports.views import Row


class Count(BaseModel):
    model_config = ConfigDict(frozen=True)
    count: int = 0


def evolve(state: Count, _fact: Fact) -> Count:
    return Count(count=state.count + 1)


class World:
    """One service's journal, lists and projector, and what the projector read and wrote."""

    def __init__(self) -> None:
        self.journal = MemoryJournal()
        self.views = MemoryViews()
        self.streams = self.open()
        self.asked: list[str] = []
        self.projector = Projector(self.views, [Projection(self.streams, self.rows_of)])

    def open(self) -> Streams[Count]:
        writer = Writer(self.journal, SystemClock(), SystemRandom())
        return Streams(Kind("environment", Count, evolve), writer, exclusive=True)

    def rows_of(self, stream: StreamId, state: Count, seq: int) -> Sequence[Row]:
        self.asked.append(str(stream))
        return [Row("counts", stream.project, stream.id, seq, stream.id, str(state.count).encode())]

    async def add(self, name: str, streams: Streams[Count] | None = None) -> list[Event]:
        target = streams or self.streams
        changed = await target.change(
            target.id("default", name), Origin(Actor("key:test"), "c"), lambda _: Decision([EnvironmentArchived()])
        )
        document = await self.journal.get(changed.stream.key(changed.seq))
        assert document is not None
        return events_of(document, "/cloche/registry")

    async def shown(self, name: str) -> tuple[int, bytes] | None:
        row = await self.views.get("counts", "default", name)
        return (row.seq, row.body) if row else None


async def test_a_batch_reads_each_aggregate_once_and_writes_what_it_is_now() -> None:
    world = World()
    events = [event for name in ("a", "b", "a", "a") for event in await world.add(name)]
    await world.projector(events)
    assert world.asked == ["environment/default/a", "environment/default/b"]
    assert await world.shown("a") == (3, b"3")
    assert await world.shown("b") == (1, b"1")


async def test_events_that_come_again_or_late_change_nothing() -> None:
    world = World()
    first, second = await world.add("a"), await world.add("a")
    await world.projector([*second])
    await world.projector([*first, *second, *first])
    assert await world.shown("a") == (2, b"2")


async def test_a_fact_that_arrives_before_its_writer_goes_on_is_read_from_the_store() -> None:
    world = World()
    await world.add("a")
    await world.streams.get(world.streams.id("default", "a"))
    event = await world.add("a", world.open())
    await world.projector(event)
    assert await world.shown("a") == (2, b"2")


async def test_kinds_without_a_list_are_ignored() -> None:
    world = World()
    [event] = await world.add("a")
    foreign = Event(**{name: getattr(event, name) for name in Event.__slots__} | {"subject": "run/default/r"})
    await world.projector([foreign])
    assert world.asked == []


async def test_a_sweep_writes_every_aggregate_again_whatever_its_history_and_name() -> None:
    world = World()
    names = ["a", "a.b", "a-b", "aa", "Z", "z_"]
    for name in names * 3:
        await world.add(name)
    assert await world.projector.sweep(world.journal, pause_s=0) == len(names)
    assert sorted(world.asked) == sorted(f"environment/default/{name}" for name in names)
    assert [await world.shown(name) for name in names] == [(3, b"3")] * len(names)


async def test_a_caller_waits_until_its_own_write_is_in_the_list() -> None:
    world = World()
    [event] = await world.add("a")
    place = (StreamId.parse(event.subject), event.sequence)
    waiting = asyncio.create_task(
        catch_up([place], {"environment"}, waits_for_rows(world.views, {"environment": "counts"}))
    )
    await asyncio.sleep(0)
    assert not waiting.done()
    await world.projector([event])
    await waiting


@pytest.mark.looptime
async def test_a_caller_whose_write_does_not_arrive_is_told_after_five_seconds() -> None:
    world = World()
    wait = waits_for_rows(world.views, {"environment": "counts"})
    with pytest.raises(Unavailable) as caught:
        await catch_up([(StreamId("environment", "default", "a"), 1)], {"environment"}, wait)
    assert caught.value.code == "not_caught_up"
    assert asyncio.get_running_loop().time() == 5
