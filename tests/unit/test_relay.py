"""The relay: what a crash left is sent at the bus's pace, in order."""

import asyncio
from collections.abc import Sequence

import pytest

from cloche_shared.adapters.memory_bus import MemoryBus
from cloche_shared.adapters.memory_journal import MemoryJournal, MemoryStore
from cloche_shared.bus.relay import BATCH, MOST_UNMARKED, SWEEP_EVERY, Relay
from cloche_shared.contracts.facts import EnvironmentArchived
from cloche_shared.journal.commit import Actor, Commit, Origin
from cloche_shared.ports.journal import Document

pytestmark = pytest.mark.looptime
MARKING_S = 10.0


def document(name: str, seq: int) -> Document:
    commit = Commit(f"{name}-{seq}", (EnvironmentArchived(),), Origin(Actor("key:1"), "chain"), "2026-01-01T00:00:00Z")
    return Document(
        f"environment/default/{name}/{seq:012d}", commit.body(), "cloche.environments", f"environment/default/{name}"
    )


async def test_what_a_crash_left_is_sent_without_a_pause_however_much_it_is() -> None:
    journal, bus = MemoryJournal(MemoryStore()), MemoryBus()
    left = [document(f"e{number:05d}", 1) for number in range(5 * BATCH)]
    await journal.append_many(left)
    began = asyncio.get_running_loop().time()
    async with bus.tail(["cloche.environments"], from_start=True) as tail:
        relay = asyncio.create_task(Relay(journal, bus, "/cloche/registry").run())
        seen: set[str] = set()
        while len(seen) < len(left):
            seen |= {item.event.subject for item in await tail.fetch() if item.event is not None}
        relay.cancel()
        await asyncio.gather(relay, return_exceptions=True)
    assert asyncio.get_running_loop().time() - began < SWEEP_EVERY


async def test_two_relays_at_once_send_each_stream_in_order() -> None:
    journal, bus = MemoryJournal(MemoryStore()), MemoryBus()
    await journal.append_many([document(f"e{name}", seq) for name in range(30) for seq in range(1, 11)])
    async with bus.tail(["cloche.environments"], from_start=True) as tail:
        relays = [asyncio.create_task(Relay(journal, bus, "/cloche/registry").run()) for _ in range(2)]
        first: dict[str, list[int]] = {}
        while sum(map(len, first.values())) < 300:
            for item in await tail.fetch():
                assert item.event is not None
                numbers = first.setdefault(item.event.subject, [])
                if item.event.sequence not in numbers:
                    numbers.append(item.event.sequence)
        for relay in relays:
            relay.cancel()
        await asyncio.gather(*relays, return_exceptions=True)
    assert all(numbers == list(range(1, 11)) for numbers in first.values())


class SlowMarks(MemoryJournal):
    """A journal on a store that takes long to mark documents."""

    async def mark_sent(self, keys: Sequence[str]) -> None:
        await asyncio.sleep(MARKING_S)
        await super().mark_sent(keys)


async def test_what_is_offered_goes_out_while_earlier_documents_are_marked() -> None:
    journal, bus = SlowMarks(MemoryStore()), MemoryBus()
    relay = Relay(journal, bus, "/cloche/registry")
    running = asyncio.create_task(relay.run())
    began = asyncio.get_running_loop().time()
    async with bus.tail(["cloche.environments"], from_start=True) as tail:
        for number in range(10):
            one = document(f"e{number}", 1)
            await journal.append_many([one])
            relay.offer([one])
            found = await tail.fetch()
            assert [item.event.subject for item in found if item.event] == [one.partition_key]
    assert asyncio.get_running_loop().time() - began < MARKING_S
    await asyncio.sleep(3 * MARKING_S)
    assert await journal.unsent() == []
    running.cancel()
    await asyncio.gather(running, return_exceptions=True)


async def test_what_another_replica_left_is_sent_while_requests_come() -> None:
    journal, bus = SlowMarks(MemoryStore()), MemoryBus()
    relay = Relay(journal, bus, "/cloche/registry")

    async def load() -> None:
        for number in range(1_000):
            some = [document(f"e{number:05d}-{part}", 1) for part in range(5)]
            await journal.append_many(some)
            relay.offer(some)
            await asyncio.sleep(SWEEP_EVERY / 100)

    tasks = [asyncio.create_task(relay.run()), asyncio.create_task(load())]
    await asyncio.sleep(SWEEP_EVERY / 2)
    left = document("left", 1)
    await journal.append_many([left])
    async with asyncio.timeout(2 * SWEEP_EVERY), bus.tail(["cloche.environments"], from_start=True) as tail:
        seen: set[str] = set()
        while left.partition_key not in seen:
            seen |= {item.event.subject for item in await tail.fetch() if item.event is not None}
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)


class CountedGets(MemoryJournal):
    """A journal that counts which documents it is asked for."""

    def __init__(self, store: MemoryStore) -> None:
        super().__init__(store)
        self.asked: list[str] = []

    async def get(self, key: str) -> Document | None:
        self.asked.append(key)
        return await super().get(key)


async def test_the_journal_is_asked_only_for_predecessors_that_are_not_sent_with_their_successors() -> None:
    journal, bus = CountedGets(MemoryStore()), MemoryBus()
    documents = [document("long", seq) for seq in range(1, 101)]
    relay = Relay(journal, bus, "/cloche/registry")
    await relay.sweep()
    await journal.append_many(documents)
    missing = documents[40:43]
    relay.offer([one for one in reversed(documents) if one not in missing])
    async with bus.tail(["cloche.environments"], from_start=True) as tail:
        sending = asyncio.create_task(relay.flush())
        numbers: list[int] = []
        while len(numbers) < len(documents):
            numbers += [item.event.sequence for item in await tail.fetch() if item.event is not None]
        await sending
    assert numbers == list(range(1, 101))
    assert journal.asked == [one.key for one in reversed(missing)]


async def test_sending_waits_when_marks_are_far_behind() -> None:
    journal, bus = SlowMarks(MemoryStore()), MemoryBus()
    documents = [document(f"e{number:05d}", 1) for number in range(MOST_UNMARKED + 3 * BATCH)]
    await journal.append_many(documents)
    relay = Relay(journal, bus, "/cloche/registry")
    relay.offer(documents)
    sending = asyncio.create_task(relay.flush())
    await asyncio.sleep(MARKING_S / 2)
    assert await sent(bus) == MOST_UNMARKED
    await sending
    assert await sent(bus) == len(documents)
    assert await journal.unsent() == []


async def sent(bus: MemoryBus) -> int:
    """Return how many messages the topic holds."""
    async with bus.tail(["cloche.environments"], from_start=True) as tail:
        return await tail.behind()
