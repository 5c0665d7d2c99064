"""Events, and who sends and takes them, for the tests of the bus on Kafka."""

import asyncio
from collections.abc import Sequence
from contextlib import suppress

from cloche_shared.contracts.envelope import Event
from cloche_shared.errors import Unavailable
from cloche_shared.ports.bus import Bus, Delivery, Subscription

RUNS, ENVIRONMENTS, ACCESS = "cloche.runs", "cloche.environments", "cloche.access"


def event(key: str, sequence: int = 1, *, topic: str = RUNS, kind: str = "cloche.RunQueued.v1") -> Event:
    subject = f"run/default/{key}"
    return Event(
        id=f"{subject}/{sequence:012d}#0",
        type=kind,
        source="/cloche/runner",
        subject=subject,
        sequence=sequence,
        project="default",
        time="2026-01-01T00:00:00Z",
        correlation="chain",
        data={"n": sequence},
        topic=topic,
        key=subject,
    )


async def take(subscription: Subscription, count: int, seconds: float = 15) -> list[Delivery]:
    found: list[Delivery] = []
    async with asyncio.timeout(seconds):
        while len(found) < count:
            with suppress(Unavailable):
                found += await subscription.fetch(count - len(found))
    return found


async def silence(subscription: Subscription, seconds: float = 0.5) -> bool:
    with suppress(TimeoutError):
        async with asyncio.timeout(seconds):
            return not await subscription.fetch()
    return True


async def send(bus: Bus, events: Sequence[Event], seconds: float = 60) -> int:
    """Send as a relay does, again and again; return how often it failed."""
    failures = 0
    async with asyncio.timeout(seconds):
        while True:
            try:
                await bus.publish(events)
            except Unavailable:
                failures += 1
                await asyncio.sleep(0.1)
            else:
                return failures


def ids(deliveries: Sequence[Delivery]) -> list[str]:
    return [one.event.id for one in deliveries if one.event is not None]


class Taken:
    """What members of a group handled, in the order in which it was first handled."""

    def __init__(self) -> None:
        self.sources: set[str] = set()
        self._first: dict[str, list[int]] = {}
        self._known: set[str] = set()

    def add(self, deliveries: Sequence[Delivery]) -> None:
        for one in deliveries:
            assert one.event is not None, one.reason
            self.sources.add(one.source)
            if one.event.id not in self._known:
                self._known.add(one.event.id)
                self._first.setdefault(one.key, []).append(one.event.sequence)

    @property
    def distinct(self) -> int:
        return len(self._known)

    def in_order(self) -> bool:
        return all(sequences == sorted(sequences) for sequences in self._first.values())


async def follow(subscription: Subscription, taken: Taken) -> None:
    """Handle and commit for ever, as a consumer does."""
    while True:
        try:
            found = await subscription.fetch()
            taken.add(found)
            await subscription.commit({one.source: one.offset + 1 for one in found})
        except Unavailable:
            await asyncio.sleep(0.1)


async def until_all(taken: Taken, count: int, seconds: float = 60) -> None:
    async with asyncio.timeout(seconds):
        while taken.distinct < count:  # noqa: ASYNC110 - the taker has no bell
            await asyncio.sleep(0.05)
