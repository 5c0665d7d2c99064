"""Republish and replay over REST: what is sent again, in which order, who may ask, and that it is on record."""

import asyncio
from collections.abc import AsyncIterator, Sequence

import httpx2
import pytest

from cloche_shared.access import Role, issue_key
from cloche_shared.adapters.memory_bus import MemoryBroker, MemoryBus
from cloche_shared.adapters.memory_journal import MemoryJournal, MemoryStore
from cloche_shared.adapters.system_random import SystemRandom
from cloche_shared.bus.republish import Republisher, Selection
from cloche_shared.contracts.envelope import Event
from cloche_shared.contracts.facts import ApiKeyIssued, EnvironmentArchived
from cloche_shared.errors import Unavailable
from cloche_shared.journal.commit import Actor, Commit, Origin, StreamId, written
from cloche_shared.ports.journal import Document
from tests.unit.registry_world import PEPPER, SKLEARN, World, started

ENVIRONMENTS = "cloche.environments"


@pytest.fixture
async def world() -> AsyncIterator[World]:
    async with started() as made:
        yield made


def key_of(world: World, role: Role, *projects: str) -> dict[str, str]:
    key = issue_key(SystemRandom(), PEPPER)
    world.access.apply(ApiKeyIssued(key_id=key.key_id, digest=key.digest, role=role, projects=projects))
    return {"authorization": f"Bearer {key.token}"}


async def versions(world: World, name: str, count: int) -> None:
    for number in range(count):
        await world.register(name, {**SKLEARN, "variables": {"N": str(number)}})


async def settled(world: World) -> None:
    """Wait until the relay has sent everything."""
    async with asyncio.timeout(5):
        while world.store.unsent:  # noqa: ASYNC110 - seen from outside only
            await asyncio.sleep(0.01)


async def republished(world: World, **asked: object) -> tuple[int, int]:
    """Ask page by page; return how many events were meant and how many were sent."""
    events = sent = 0
    place = ""
    while True:
        answer = await world.post("/journals/registry/republish", {**asked, "place": place})
        assert answer.status_code == 200, answer.text
        page = answer.json()
        events, sent, place = events + page["events"], sent + page["sent"], page["next"]
        if not place:
            return events, sent


async def log_of(world: World, topic: str) -> list[Event]:
    parts = world.broker.partitions(topic)
    return [one.event for part in parts for one in part.log if one.event is not None]


def wipe(world: World) -> None:
    """Let the broker lose every topic and every group's place, as one with a new data folder has."""
    for partitions in world.broker.topics.values():
        for one in partitions:
            one.log.clear()
            one.visible.clear()
    world.broker.offsets.clear()
    for group in list(world.broker.members):
        for member in world.broker.members[group]:
            member.go_back({one.source: 0 for topic in world.broker.topics.values() for one in topic})


def documents(world: World) -> set[str]:
    """Return the keys in the journal but those of operators' records and of who used a key."""
    return {key for key in world.store.keys if not key.startswith(("operation/", "usage/"))}


async def test_what_a_wiped_broker_lost_comes_again_with_its_ids_and_in_order(world: World) -> None:
    await versions(world, "a", 5)
    await versions(world, "b", 3)
    await settled(world)
    before = await log_of(world, ENVIRONMENTS)
    wipe(world)
    meant, sent = await republished(world, limit=2)
    after = await log_of(world, ENVIRONMENTS)
    assert meant == sent >= 8
    assert sorted(event.id for event in after) == sorted(event.id for event in before)
    for name in ("a", "b"):
        numbers = [event.sequence for event in after if event.subject.endswith(f"/{name}")]
        assert numbers == sorted(numbers)
    assert "cloche.ApiKeyIssued.v1" in {event.type for event in await log_of(world, "cloche.access")}


async def test_what_the_relay_has_still_to_send_is_left_to_it_unless_later_facts_are_gone() -> None:
    store, broker = MemoryStore(), MemoryBroker()
    journal = MemoryJournal(store)
    said = Commit("c", (EnvironmentArchived(),), Origin(Actor("key:1"), "chain"), "2026-01-01T00:00:00Z").body()
    keys = [f"environment/default/a/{number:012d}" for number in range(1, 5)]
    await journal.append_many([Document(key, said, ENVIRONMENTS, "environment/default/a") for key in keys])
    await journal.mark_sent([keys[0], keys[2]])
    republisher = Republisher("registry", journal, MemoryBus(broker), sends=True)
    page = await republisher.page(Selection(StreamId("environment", "default", "a")))
    assert (page.documents, page.sent) == (4, 3)
    log = [one.event for part in broker.partitions(ENVIRONMENTS) for one in part.log]
    assert [event.sequence for event in log if event is not None] == [1, 2, 3]


@pytest.mark.parametrize("limit", [1, 2, 3, 4, 1000])
async def test_pages_that_cut_a_stream_leave_no_gap_in_it(limit: int) -> None:
    store, broker = MemoryStore(), MemoryBroker()
    journal = MemoryJournal(store)
    said = Commit("c", (EnvironmentArchived(),), Origin(Actor("key:1"), "chain"), "2026-01-01T00:00:00Z").body()
    keys = [f"environment/default/{name}/{number:012d}" for name in ("a", "b") for number in range(1, 6)]
    await journal.append_many([Document(key, said, ENVIRONMENTS, key.rpartition("/")[0]) for key in keys])
    await journal.mark_sent([keys[0], keys[3], keys[5]])
    republisher = Republisher("registry", journal, MemoryBus(broker), sends=True)
    page = await republisher.page(Selection(), limit=limit)
    while page.place:
        page = await republisher.page(Selection(), page.place, limit=limit)
    log = [one.event for part in broker.partitions(ENVIRONMENTS) for one in part.log if one.event is not None]
    for name, numbers in (("a", [1, 2, 3, 4]), ("b", [1])):
        assert [event.sequence for event in log if event.subject.endswith(f"/{name}")] == numbers


async def test_one_aggregate_is_read_no_further_than_the_last_number_that_is_asked_for() -> None:
    journal = MemoryJournal(MemoryStore())
    said = Commit("c", (EnvironmentArchived(),), Origin(Actor("key:1"), "chain"), "2026-01-01T00:00:00Z").body()
    keys = [f"environment/default/a/{number:012d}" for number in range(1, 8)]
    await journal.append_many([Document(key, said, ENVIRONMENTS, "environment/default/a") for key in keys])
    republisher = Republisher("registry", journal, MemoryBus(MemoryBroker()), sends=True)
    page = await republisher.page(Selection(StreamId("environment", "default", "a"), last=2), limit=3)
    assert (page.documents, page.place) == (3, "")


class LateBus(MemoryBus):
    """A bus whose broker does not take anything: it says so at its deadline."""

    async def publish(self, events: Sequence[Event]) -> None:
        await asyncio.sleep(10.0)
        raise Unavailable("bus_unavailable", "The message broker does not answer.")


@pytest.mark.looptime
async def test_a_broker_that_takes_nothing_is_said_to_be_away_at_its_deadline() -> None:
    store = MemoryStore()
    journal = MemoryJournal(store)
    said = Commit("c", (EnvironmentArchived(),), Origin(Actor("key:1"), "chain"), "2026-01-01T00:00:00Z").body()
    key = "environment/default/a/000000000001"
    await journal.append_many([Document(key, said, ENVIRONMENTS, "environment/default/a")])
    await journal.mark_sent([key])
    republisher = Republisher("registry", journal, LateBus(MemoryBroker()), sends=True)
    with pytest.raises(Unavailable):
        await republisher.page(Selection(StreamId("environment", "default", "a")))


async def test_one_aggregate_is_republished_between_two_numbers(world: World) -> None:
    await versions(world, "a", 5)
    await settled(world)
    wipe(world)
    stream = "environment/default/a"
    assert await republished(world, stream=stream, first=2, last=4) == (3, 3)
    assert [event.sequence for event in await log_of(world, ENVIRONMENTS)] == [2, 3, 4]


async def test_a_dry_run_counts_and_sends_nothing(world: World) -> None:
    await versions(world, "a", 2)
    await settled(world)
    wipe(world)
    meant, sent = await republished(world, dry_run=True, stream="environment/default/a")
    assert (meant, sent) == (2, 0)
    assert await log_of(world, ENVIRONMENTS) == []
    assert not any(key.startswith("operation/") for key in world.store.keys)


async def test_only_what_happened_between_two_times_is_republished(world: World) -> None:
    await versions(world, "a", 2)
    await settled(world)
    stream = "environment/default/a"
    assert await republished(world, stream=stream, since="2100-01-01T00:00:00Z") == (0, 0)
    assert await republished(world, stream=stream, until="2020-01-01T00:00:00Z") == (0, 0)
    assert await republished(world, stream=stream, since="2020-01-01T00:00:00Z") == (2, 2)


@pytest.mark.parametrize("stream", ["run/default/a", "answers/default/a", "nothing/default/a"])
async def test_a_stream_of_another_journal_is_refused(world: World, stream: str) -> None:
    answer = await world.post("/journals/registry/republish", {"stream": stream})
    assert code(answer) == (422, "unknown_stream")


async def test_republishing_and_replaying_are_for_administrators_of_every_project(world: World) -> None:
    for path in ("/journals/registry/republish", "/events/groups/registry.runs/replay"):
        assert code(await world.post(path, {}, **key_of(world, "submitter", "*"))) == (403, "not_allowed")
        assert code(await world.post(path, {}, **key_of(world, "admin", "default"))) == (403, "token_opens_more")
    mine = {"stream": "environment/default/a"}
    answer = await world.post("/journals/registry/republish", mine, **key_of(world, "admin", "default"))
    assert answer.status_code == 200


async def test_who_let_what_come_again_is_on_record(world: World) -> None:
    await republished(world, since="2026-01-01T00:00:00Z")
    await world.post("/events/groups/registry.runs/replay", {"since": "2026-01-01T00:00:00Z"})
    keys = [key for key in world.store.keys if key.startswith("operation/")]
    commits = [written(world.store.documents[key]) for key in keys]
    facts = {name: data for commit in commits for name, data in commit.facts}
    assert facts["cloche.RepublishStarted.v1"]["service"] == "registry"
    assert facts["cloche.ReplayStarted.v1"] == {"group": "registry.runs", "since": "2026-01-01T00:00:00+00:00"}
    assert {commit.actor.subject for commit in commits} == {"key:abcdef0123456789"}


async def test_a_page_that_continues_nothing_is_on_record_too(world: World) -> None:
    await versions(world, "a", 1)
    for path, asked in (
        ("/journals/registry/republish", {"place": "environment/default/a/000000000000"}),
        ("/events/groups/registry.runs/replay", {"left": {f"{ENVIRONMENTS}/0": [0, 1]}}),
    ):
        before = set(world.store.keys)
        answer = await world.post(path, asked)
        assert answer.status_code == 200, answer.text
        assert sum(key.startswith("operation/") for key in set(world.store.keys) - before) == 1


async def test_republishing_comes_to_an_end_although_each_page_is_a_record_more(world: World) -> None:
    async with asyncio.timeout(20):
        meant, _ = await republished(world, limit=1)
    assert meant > 0


async def test_a_group_that_nobody_has_cannot_be_replayed(world: World) -> None:
    assert code(await world.post("/events/groups/nobody/replay", {})) == (404, "group_not_found")


async def test_every_group_of_the_registry_has_its_past_again_without_a_second_effect(world: World) -> None:
    await versions(world, "a", 3)
    await world.ask({"environment": {"name": "a"}})
    await world.run_ends("r1", {"model.pkl": b"x"})
    await settled(world)
    groups = (await world.client.get("/events/groups")).json()["items"]
    before, answers = documents(world), len(await log_of(world, "cloche.answers"))
    for group in (one["group"] for one in groups if one["service"] == "registry"):
        answer = await world.post(f"/events/groups/{group}/replay", {})
        assert (answer.status_code, answer.json()["left"]) == (200, {})
    await asyncio.sleep(0.2)
    await settled(world)
    assert documents(world) == before
    assert len(await log_of(world, "cloche.answers")) == answers
    assert world.broker.dead == []


def code(answer: httpx2.Response) -> tuple[int, str]:
    return answer.status_code, answer.json()["code"]
