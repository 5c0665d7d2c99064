"""Keys on a real broker: who is revoked is out within a second, and a broker that is away costs nothing for a while."""

import asyncio
import time
from collections.abc import Callable

import pytest

from cloche_shared.access import AccessTable, issue_key
from cloche_shared.adapters.kafka_bus import KafkaBus
from cloche_shared.adapters.system_clock import SystemClock
from cloche_shared.adapters.system_random import SystemRandom
from cloche_shared.bus.access_feed import feed_access
from cloche_shared.contracts.envelope import Event
from cloche_shared.contracts.fact import Fact, fact_type
from cloche_shared.contracts.facts import TOPICS, ApiKeyIssued, ApiKeyRevoked
from tests.environments.fixtures import Start
from tests.environments.kafka import kafka_settings
from tests.environments.servers import KafkaServer
from tests.integration.test_kafka_faults import probed

pytestmark = pytest.mark.timeout(180)

PEPPER = b"p" * 32
STALENESS_S = 12.0


def told(fact: Fact, number: int) -> Event:
    key = f"access/default/k{number}"
    data = fact.model_dump(mode="json")
    return Event(
        f"{key}#0",
        fact_type(type(fact)),
        "/cloche/registry",
        key,
        1,
        "default",
        "",
        "chain",
        data,
        TOPICS["access"],
        key,
    )


async def seconds_until(holds: Callable[[], bool], most: float = 60) -> float:
    began = time.monotonic()
    async with asyncio.timeout(most):
        while not holds():  # noqa: ASYNC110 - the table tells nobody when it changes
            await asyncio.sleep(0.01)
    return time.monotonic() - began


async def test_keys_hold_while_the_broker_is_away_for_their_time_and_no_longer(own_server: Start) -> None:
    server = await asyncio.to_thread(own_server, "kafka")
    assert isinstance(server, KafkaServer)
    bus = KafkaBus(kafka_settings(server, deadline_s=3.0), "test", "1", delay=30.0)
    table = AccessTable(PEPPER, SystemClock(), staleness=STALENESS_S)
    await probed(bus)
    feed = asyncio.create_task(feed_access(bus, table))
    try:
        keys = [issue_key(SystemRandom(), PEPPER) for _ in range(2)]
        for number, key in enumerate(keys):
            fact = ApiKeyIssued(key_id=key.key_id, digest=key.digest, role="viewer", projects=("default",))
            await bus.publish([told(fact, number)])
        await seconds_until(lambda: all(table.authenticate(key.token) for key in keys) and table.stale() is None)

        await bus.publish([told(ApiKeyRevoked(key_id=keys[0].key_id), 10)])
        assert await seconds_until(lambda: table.authenticate(keys[0].token) is None) < 1.0

        await asyncio.to_thread(server.handle().pause)
        held = await seconds_until(lambda: table.stale() is not None)
        assert STALENESS_S - 6 < held <= STALENESS_S + 1
        assert table.authenticate(keys[1].token) is not None
        await asyncio.to_thread(server.handle().unpause)
        await seconds_until(lambda: table.stale() is None, 30)
        await bus.publish([told(ApiKeyRevoked(key_id=keys[1].key_id), 11)])
        await seconds_until(lambda: table.authenticate(keys[1].token) is None, 5)
    finally:
        feed.cancel()
        await asyncio.gather(feed, return_exceptions=True)
        await bus.close()
