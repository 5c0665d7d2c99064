"""Documents over 64 KiB: their long parts lie in blobs, and whoever reads them gets them whole."""

import orjson
from pydantic import BaseModel, ConfigDict

from cloche_shared.adapters.memory_blobs import MemoryBlobStore
from cloche_shared.adapters.memory_bus import MemoryBroker, MemoryBus
from cloche_shared.adapters.memory_faults import NoFaults
from cloche_shared.adapters.memory_journal import MemoryJournal, MemoryStore
from cloche_shared.adapters.system_clock import SystemClock
from cloche_shared.adapters.system_random import SystemRandom
from cloche_shared.contracts.fact import Fact
from cloche_shared.contracts.facts import ModelRegistered
from cloche_shared.journal.commit import Actor, Origin, StreamId, events_of
from cloche_shared.journal.large import LIMIT, LargeBus, LargeJournal
from cloche_shared.journal.snapshots import SNAPSHOT_EVERY
from cloche_shared.journal.streams import Decision, Kind, Streams
from cloche_shared.journal.writer import Writer
from cloche_shared.ports.journal import OutcomeUnknownError

LONG = "x" * LIMIT
STREAM = StreamId("model", "default", "m")


class Said(BaseModel):
    model_config = ConfigDict(frozen=True)
    texts: tuple[str, ...] = ()


def evolve(state: Said, fact: Fact) -> Said:
    return Said(texts=(*state.texts, fact.description)) if isinstance(fact, ModelRegistered) else state


def registered(text: str, version: int = 1) -> ModelRegistered:
    return ModelRegistered(model_version=version, manifest="sha256:" + "0" * 64, size=1, description=text)


class Forgetful(NoFaults):
    """A store that inserts and then does not say so, once."""

    def __init__(self) -> None:
        self.calls = 0

    async def after(self, name: str) -> None:
        self.calls += 1
        if name == "append_many" and self.calls == 1:
            raise OutcomeUnknownError


class Place:
    """A journal with blobs, and streams that nobody has read yet."""

    def __init__(self, faults: Forgetful | None = None) -> None:
        self.store, self.blobs = MemoryStore(), MemoryBlobStore()
        plain = MemoryJournal(self.store, faults=faults) if faults else MemoryJournal(self.store)
        self.journal = LargeJournal(plain, self.blobs, "registry")

    def streams(self) -> Streams[Said]:
        writer = Writer(self.journal, SystemClock(), SystemRandom(), settle_delays=(0.0,))
        return Streams(Kind("model", Said, evolve), writer, exclusive=True)

    async def say(self, text: str, request: str = "", streams: Streams[Said] | None = None) -> object:
        asked = Origin(Actor("key:1"), "chain", request_id=request, reply_to="run/default/r" if request else "")

        def decide(_: Said) -> Decision:
            return Decision([registered(text)], answer=registered(text) if request else None, json={"said": text})

        return await (streams or self.streams()).change(STREAM, asked, decide)


async def test_a_large_fact_reads_back_whole_and_its_document_stays_small() -> None:
    place = Place()
    await place.say(LONG)
    assert (await place.streams().get(STREAM)).state.texts == (LONG,)
    assert all(len(document.body) < LIMIT for document in place.store.documents.values())


async def test_a_small_document_touches_no_blobs() -> None:
    place = Place()
    await place.say("short")
    (document,) = place.store.documents.values()
    assert b"$blob" not in document.body


async def test_the_answer_to_a_request_with_large_facts_is_given_again() -> None:
    place = Place()
    await place.say(LONG, request="ask")
    again = await place.say("other", request="ask")
    assert again.replayed  # type: ignore[attr-defined]
    assert again.outcome.json == {"said": LONG}  # type: ignore[attr-defined]
    assert all(len(document.body) < LIMIT for document in place.store.documents.values())


async def test_an_own_large_document_is_recognised_after_an_unknown_outcome() -> None:
    place = Place(Forgetful())
    await place.say(LONG)
    assert (await place.streams().get(STREAM)).seq == 1


async def test_a_snapshot_with_a_large_state_is_read_back() -> None:
    place = Place()
    ours = place.streams()
    await place.say(LONG, streams=ours)
    for _ in range(SNAPSHOT_EVERY):
        await place.say("short", streams=ours)
    found = await place.streams().get(STREAM)
    assert (found.seq, found.state.texts[0]) == (SNAPSHOT_EVERY + 1, LONG)
    assert all(len(document.body) < LIMIT for document in place.store.documents.values())


async def test_what_users_write_is_never_taken_for_a_blob() -> None:
    place = Place()
    texts = ('{"$blob":"sha256:0"}', orjson.dumps({"$blob": "x"}).decode() + LONG)
    for text in texts:
        await place.say(text)
    assert (await place.streams().get(STREAM)).state.texts == texts


async def test_a_bus_that_carries_documents_as_stored_delivers_whole_events() -> None:
    place = Place()
    await place.say(LONG)
    (stored,) = place.store.documents.values()
    inner = MemoryBus(MemoryBroker())
    bus = LargeBus(inner, place.blobs)
    async with bus.subscribe("g", [stored.topic]) as group, bus.tail([stored.topic]) as tail:
        await bus.publish(events_of(stored, "/cloche/registry"))
        for subscription in (group, tail):
            (delivery,) = await subscription.fetch()
            assert delivery.event is not None
            assert delivery.event.data["description"] == LONG


async def test_an_event_whose_blob_is_gone_is_poison_and_says_so() -> None:
    place = Place()
    await place.say(LONG)
    (stored,) = place.store.documents.values()
    bus = LargeBus(MemoryBus(MemoryBroker()), MemoryBlobStore())
    async with bus.subscribe("g", [stored.topic]) as group:
        await bus.publish(events_of(stored, "/cloche/registry"))
        (delivery,) = await group.fetch()
    assert delivery.event is None
    assert "blob_not_found" in delivery.reason
