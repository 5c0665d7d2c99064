"""On a real broker: what it lost of keys comes again, and a broker that has all gets nothing again."""

from cloche_registry.refill import refill_access
from cloche_shared.adapters.memory_journal import MemoryJournal, MemoryStore
from cloche_shared.contracts.facts import TOPICS, ApiKeyIssued
from cloche_shared.journal.commit import Actor, Commit, Origin
from cloche_shared.ports.journal import Document
from tests.environments.kafka import kafka_bus
from tests.environments.servers import KafkaServer


async def test_an_empty_topic_is_filled_once(kafka_server: KafkaServer) -> None:
    journal = MemoryJournal(MemoryStore())
    fact = ApiKeyIssued(key_id="k", digest="d", role="admin", projects=("*",))
    body = Commit("c", (fact,), Origin(Actor("key:1"), "chain"), "2026-01-01T00:00:00Z").body()
    names = [f"access/default/{number}" for number in range(50)]
    documents = [Document(f"{name}/000000000001", body, TOPICS["access"], name) for name in names]
    await journal.append_many(documents)
    await journal.mark_sent([one.key for one in documents])
    async with kafka_bus(kafka_server) as bus:
        assert await refill_access(journal, bus) == 50
        assert await refill_access(journal, bus) == 0
