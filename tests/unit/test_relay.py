"""The relay: what a crash left is sent at the bus's pace, in order."""

import asyncio

import pytest

from cloche_shared.adapters.memory_bus import MemoryBus
from cloche_shared.adapters.memory_journal import MemoryJournal, MemoryStore
from cloche_shared.bus.relay import BATCH, SWEEP_EVERY, Relay
from cloche_shared.contracts.facts import EnvironmentArchived
from cloche_shared.journal.commit import Actor, Commit, Origin
from cloche_shared.ports.journal import Document

pytestmark = pytest.mark.looptime


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
