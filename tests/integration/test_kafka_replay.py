"""What comes again for one group costs the others nothing that lasts."""

import asyncio
from contextlib import suppress

import pytest
from aiokafka import TopicPartition
from aiokafka.admin import AIOKafkaAdminClient

from cloche_shared.adapters.kafka import replaying
from cloche_shared.adapters.kafka_bus import KafkaBus
from cloche_shared.backends import KafkaSettings
from cloche_shared.bus.letters import RESENT
from cloche_shared.contracts.envelope import Event
from cloche_shared.errors import Unavailable
from cloche_shared.ports.bus import Subscription
from tests.environments.kafka import kafka_bus
from tests.environments.servers import KafkaServer

RUNS = "cloche.runs"


def event(number: int) -> Event:
    subject = f"run/default/r{number % 3}"
    return Event(
        f"{subject}/{number:012d}#0", "cloche.RunStarted.v1", "/cloche/runner", subject, number, "default",
        "2026-01-01T00:00:00Z", "chain", {"attempt": 1, "fence": 2}, RUNS, subject,
    )  # fmt: skip


async def consume(subscription: Subscription, seen: list[str]) -> None:
    while True:
        for one in await subscription.fetch():
            if one.event is not None:
                seen.append(one.event.id)
            await subscription.commit({one.source: one.offset + 1})


async def place_of(bus: KafkaBus, group: str) -> int:
    admin = AIOKafkaAdminClient(**bus.options())
    try:
        await admin.start()
        found = await admin.list_consumer_group_offsets(bus.prefix + group)
    finally:
        await admin.close()
    place = found.get(TopicPartition(bus.prefix + RESENT, 0))
    return place.offset if place is not None else -1


async def test_a_group_remembers_that_it_passed_over_what_came_again_for_another(kafka_server: KafkaServer) -> None:
    async with kafka_bus(kafka_server) as bus:
        await bus.publish([event(number) for number in range(1, 21)])
        seen: dict[str, list[str]] = {"g": [], "h": []}
        async with bus.subscribe("g", [RUNS]) as mine, bus.subscribe("h", [RUNS]) as others, asyncio.timeout(40):
            tasks = [asyncio.create_task(consume(one, seen[name])) for name, one in (("g", mine), ("h", others))]
            while min(map(len, seen.values())) < 20:  # noqa: ASYNC110 - seen from outside only
                await asyncio.sleep(0.05)
            left = (await bus.past([RUNS])).left
            while left:
                left = (await bus.replay("g", [RUNS], left)).left
            while len(seen["g"]) < 40 or await place_of(bus, "h") < 20:  # noqa: ASYNC110 - the same
                await asyncio.sleep(0.2)
            for task in tasks:
                task.cancel()
            with suppress(asyncio.CancelledError):
                await asyncio.gather(*tasks)
        assert len(seen["h"]) == 20
        assert await place_of(bus, "g") == await place_of(bus, "h") == 20


async def test_a_page_of_a_broker_that_does_not_answer_is_no_empty_page(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(replaying, "PAGE_S", 0.3)
    nowhere = KafkaSettings(bootstrap_servers="127.0.0.1:1", security_protocol="PLAINTEXT", allow_no_acls=True)
    bus = KafkaBus(nowhere, "test", "1", prefix="nowhere.")
    try:
        with pytest.raises(Unavailable):
            await bus.replay("g", [RUNS], {f"{RUNS}/0": (0, 5)})
    finally:
        await bus.close()
