"""Following a project's events."""

import asyncio
from collections.abc import AsyncIterator

import orjson
import pytest

from cloche_shared.access import AccessTable, Principal, issue_key
from cloche_shared.adapters.memory_bus import MemoryBus
from cloche_shared.adapters.system_clock import SystemClock
from cloche_shared.adapters.system_random import SystemRandom
from cloche_shared.bus.access_feed import feed_access
from cloche_shared.contracts.envelope import Event
from cloche_shared.contracts.facts import TOPICS, ApiKeyIssued
from cloche_shared.errors import Invalid
from cloche_shared.http.caller import Caller
from cloche_shared.http.events import EventFilter, follow_events, known_types, topics_for
from cloche_shared.http.exchange import Exchange
from cloche_shared.http.sse import ServerEvent

TOPIC = [TOPICS["run"]]
PEPPER = b"p" * 32


def event(number: int, name: str = "RunStarted", project: str = "default", *, second: int = 0) -> Event:
    return Event(
        id=f"run/{project}/r/{number:012d}#0",
        type=f"cloche.{name}.v1",
        source="/cloche/runner",
        subject=f"run/{project}/r",
        sequence=number,
        project=project,
        time=f"2026-01-01T00:00:{second:02d}.000000Z",
        correlation=f"chain-{number}",
        data={"attempt": 1},
        topic=TOPICS["run"],
        key=f"run/{project}/r",
    )


async def taken(source: AsyncIterator[ServerEvent], count: int) -> list[dict[str, object]]:
    found = [orjson.loads((await anext(source)).data) for _ in range(count)]
    await source.aclose()  # type: ignore[attr-defined]  # an async generator
    return found


async def test_new_events_arrive_as_cloudevents() -> None:
    bus = MemoryBus()
    await bus.publish([event(1)])
    source = follow_events(bus, TOPIC, EventFilter("default"))
    first = asyncio.ensure_future(anext(source))
    await asyncio.sleep(0)
    await bus.publish([event(2)])
    message = await first
    shown = orjson.loads(message.data)
    assert (shown["id"], shown["type"], shown["sequence"]) == (
        "run/default/r/000000000002#0",
        "cloche.RunStarted.v1",
        2,
    )
    assert (shown["specversion"], shown["data"], message.event) == ("1.0", {"attempt": 1}, "RunStarted")
    await source.aclose()  # type: ignore[attr-defined]  # an async generator


async def test_old_events_arrive_when_asked_for_and_other_projects_never() -> None:
    bus = MemoryBus()
    await bus.publish([event(1), event(2, project="other"), event(3)])
    found = await taken(follow_events(bus, TOPIC, EventFilter("default"), from_start=True), 2)
    assert [one["sequence"] for one in found] == [1, 3]


@pytest.mark.parametrize(
    "wanted",
    [
        EventFilter("default", types=frozenset({"RunCompleted"})),
        EventFilter("default", types=frozenset({"cloche.RunCompleted.v1"})),
        EventFilter("default", correlation="chain-2"),
        EventFilter("other", subject="run/other/r"),
    ],
)
def test_a_filter_shows_what_was_asked_for(wanted: EventFilter) -> None:
    project = wanted.project
    assert wanted(event(2, "RunCompleted", project))
    assert not wanted(event(1, "RunStarted", "third" if project == "other" else project))


async def test_a_client_that_comes_back_goes_on_behind_what_it_saw() -> None:
    bus = MemoryBus()
    await bus.publish([event(number, second=number * 8) for number in range(1, 5)])
    source = follow_events(bus, TOPIC, EventFilter("default"), from_start=True)
    last = [await anext(source) for _ in range(3)][-1].id
    await source.aclose()  # type: ignore[attr-defined]  # an async generator
    found = await taken(follow_events(bus, TOPIC, EventFilter("default"), last=last), 2)
    assert [one["sequence"] for one in found] == [2, 4]


async def test_an_unreadable_place_means_from_now() -> None:
    bus = MemoryBus()
    await bus.publish([event(1)])
    source = follow_events(bus, TOPIC, EventFilter("default"), last="nonsense")
    first = asyncio.ensure_future(anext(source))
    await asyncio.sleep(0)
    await bus.publish([event(2)])
    assert orjson.loads((await first).data)["sequence"] == 2
    await source.aclose()  # type: ignore[attr-defined]  # an async generator


@pytest.mark.parametrize(("role", "shown"), [("viewer", False), ("submitter", False), ("admin", True)])
def test_only_administrators_follow_facts_about_keys_and_refusals(role: str, shown: bool) -> None:
    exchange = Exchange("r", "00-" + "1" * 32 + "-" + "2" * 16 + "-01", "127.0.0.1", "GET", "/events")
    caller = Caller(Principal("key:a", ("default",), role), "default", exchange)  # type: ignore[arg-type]
    assert (TOPICS["access"] in topics_for(caller)) is shown
    assert (TOPICS["denial"] in topics_for(caller)) is shown
    assert TOPICS["run"] in topics_for(caller)


async def test_keys_that_are_issued_anywhere_open_here() -> None:
    bus, table = MemoryBus(), AccessTable(PEPPER, SystemClock())
    key = issue_key(SystemRandom(), PEPPER)
    fact = ApiKeyIssued(key_id=key.key_id, digest=key.digest, role="viewer", projects=("default",))
    base = event(1)
    issued = Event(
        **{name: getattr(base, name) for name in Event.__slots__}
        | {"type": "cloche.ApiKeyIssued.v1", "topic": TOPICS["access"], "data": fact.model_dump(mode="json")}
    )
    await bus.publish([issued])
    task = asyncio.create_task(feed_access(bus, table))
    for _ in range(10):
        await asyncio.sleep(0)
    assert table.authenticate(key.token) is not None
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)


def test_a_type_that_no_event_has_is_refused_and_close_ones_are_named() -> None:
    assert known_types("RunCompleted, cloche.RunFailed.v1") == {"RunCompleted", "cloche.RunFailed.v1"}
    assert known_types("") == frozenset()
    for wrong in ("RunComplete", "cloche.RunComplete.v1"):
        with pytest.raises(Invalid) as caught:
            known_types(wrong)
        assert caught.value.code == "unknown_event_type"
        assert "RunCompleted" in caught.value.why
