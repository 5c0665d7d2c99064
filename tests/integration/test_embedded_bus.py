"""Journal, bus and consumers together in one file: commit to effect, crash, and going on."""

import asyncio
from pathlib import Path

import pytest

from cloche_shared.adapters.sqlite import SqliteFile
from cloche_shared.adapters.system_random import SystemRandom
from cloche_shared.bus.dispatch import Consumer
from cloche_shared.contracts.envelope import Event
from cloche_shared.contracts.fact import fact_type
from cloche_shared.contracts.facts import EnvironmentArchived
from cloche_shared.journal.commit import Actor, Commit, Origin
from cloche_shared.ports.bus import Delivery, Subscription
from cloche_shared.ports.journal import Document, Verdict

TOPIC = "cloche.environments"
STREAMS, LENGTH = 20, 30


def document(stream: int, seq: int) -> Document:
    origin = Origin(Actor("key:1"), "chain")
    body = Commit(f"{stream}-{seq}", (EnvironmentArchived(),), origin, "2026-01-01T00:00:00Z").body()
    return Document(f"environment/default/e{stream}/{seq:012d}", body, TOPIC, f"environment/default/e{stream}")


class Effects:
    """A handler whose effect is a document of another service, under a key that makes it act once."""

    def __init__(self, file: SqliteFile, *, until: int) -> None:
        self._journal = file.journal("builder")
        self._until = until
        self.order: list[tuple[str, int]] = []
        self.repeated = 0
        self.enough = asyncio.Event()

    async def __call__(self, event: Event) -> None:
        (verdict,) = await self._journal.append_many([Document(f"effect/default/{event.id}", b"{}")])
        self.repeated += verdict is Verdict.DUPLICATE
        self.order.append((event.key, event.sequence))
        if len(self.order) >= self._until:
            self.enough.set()


def consumer(file: SqliteFile, effects: Effects) -> Consumer:
    handlers = {fact_type(EnvironmentArchived): effects}
    return Consumer(file.bus(), "builder", [TOPIC], handlers, random=SystemRandom(), code_version="1.0")


async def write_all(file: SqliteFile) -> None:
    async def write(stream: int) -> None:
        for seq in range(1, LENGTH + 1):
            await file.journal("registry").append_many([document(stream, seq)])

    await asyncio.gather(*(write(stream) for stream in range(STREAMS)))


async def test_a_consumer_that_was_cut_off_goes_on_in_order_and_every_event_has_one_effect(tmp_path: Path) -> None:
    file = await SqliteFile.open(tmp_path / "cloche.db")
    first = Effects(file, until=200)
    running = asyncio.create_task(consumer(file, first).run())
    writing = asyncio.create_task(write_all(file))
    await asyncio.wait_for(first.enough.wait(), 20)
    running.cancel()
    await asyncio.wait([running])
    await writing
    await file.close()

    file = await SqliteFile.open(tmp_path / "cloche.db")
    effects = await file.journal("builder").read("effect/", limit=10_000)
    second = Effects(file, until=STREAMS * LENGTH - len(effects))
    going_on = consumer(file, second)
    running = asyncio.create_task(going_on.run())
    async with asyncio.timeout(20):
        await second.enough.wait()
        while len(await file.journal("builder").read("effect/", limit=10_000)) < STREAMS * LENGTH:
            second.enough.clear()
            await second.enough.wait()
    going_on.stop()
    await running
    await file.close()
    for stream in range(STREAMS):
        key = f"environment/default/e{stream}"
        seen = [seq for name, seq in first.order + second.order if name == key]
        assert list(dict.fromkeys(seen)) == list(range(1, LENGTH + 1))


async def test_after_a_graceful_stop_nothing_is_delivered_again(tmp_path: Path) -> None:
    file = await SqliteFile.open(tmp_path / "cloche.db")
    first = Effects(file, until=STREAMS * LENGTH)
    before = consumer(file, first)
    running = asyncio.create_task(before.run())
    await write_all(file)
    await asyncio.wait_for(first.enough.wait(), 20)
    before.stop()
    await running
    await file.close()

    file = await SqliteFile.open(tmp_path / "cloche.db")
    second = Effects(file, until=1)
    after = consumer(file, second)
    running = asyncio.create_task(after.run())
    await file.journal("registry").append_many([document(0, LENGTH + 1)])
    await asyncio.wait_for(second.enough.wait(), 5)
    after.stop()
    await running
    await file.close()
    assert second.order == [("environment/default/e0", LENGTH + 1)]
    assert first.repeated == second.repeated == 0


async def read(subscription: Subscription, count: int) -> list[Delivery]:
    found: list[Delivery] = []
    async with asyncio.timeout(5):
        while len(found) < count:
            found += await subscription.fetch(100)
    return found


async def test_deliveries_of_all_services_come_in_the_order_of_commits_and_a_tail_goes_on_anywhere(
    tmp_path: Path,
) -> None:
    file = await SqliteFile.open(tmp_path / "cloche.db", tail=300)
    wanted = []
    async with file.bus().tail([TOPIC]) as live:
        for number in range(1, 1301):
            await file.journal(("registry", "runner", "builder")[number % 3]).append_many([document(number, 1)])
            wanted.append(f"environment/default/e{number}/000000000001#0")
        assert [one.event.id for one in await read(live, 1300) if one.event] == wanted
    async with file.bus().tail([TOPIC], from_start=True) as whole:
        found = await read(whole, 1300)
    assert [one.event.id for one in found if one.event] == wanted
    async with file.bus().tail([TOPIC], after=file.bus().place(found[999])) as rest:
        assert [one.event.id for one in await read(rest, 300) if one.event] == wanted[1000:]
        assert await rest.lag() == 0
    await file.close()


@pytest.mark.parametrize("place", ["", "no place", "9" * 18, "9" * 40, "-1", "٣"])
async def test_a_place_that_nobody_gave_means_what_comes_from_now_on(tmp_path: Path, place: str) -> None:
    file = await SqliteFile.open(tmp_path / "cloche.db")
    await file.journal("registry").append_many([document(1, 1)])
    async with file.bus().tail([TOPIC], after=place) as tail:
        await file.journal("registry").append_many([document(2, 1)])
        (delivery,) = await read(tail, 1)
    assert delivery.key == "environment/default/e2"
    await file.close()
