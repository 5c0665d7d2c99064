"""Dead letters over REST: who sees them, who sends them again, and that this is on record."""

from collections.abc import AsyncIterator

import httpx2
import pytest

from cloche_shared.access import Role, issue_key
from cloche_shared.adapters.system_random import SystemRandom
from cloche_shared.contracts.facts import ApiKeyIssued, RunStarted
from cloche_shared.journal.commit import written
from cloche_shared.ports.bus import DeadLetter, Delivery
from tests.unit.registry_world import PEPPER, World, started


@pytest.fixture
async def world() -> AsyncIterator[World]:
    async with started() as made:
        yield made


def key_of(world: World, role: Role, *projects: str) -> dict[str, str]:
    key = issue_key(SystemRandom(), PEPPER)
    world.access.apply(ApiKeyIssued(key_id=key.key_id, digest=key.digest, role=role, projects=projects))
    return {"authorization": f"Bearer {key.token}"}


async def bury(world: World, project: str = "default", count: int = 1) -> None:
    for number in range(count):
        event = await world.happens(f"run/{project}/r{number}", RunStarted(attempt=1, fence=2), project=project)
        poison = Delivery("cloche.runs/0", number, event.key, event)
        await world.bus.bury(DeadLetter(f"group-{project}", poison, "Invalid: no", 3, "1.0"))


async def letters(world: World, **headers: str) -> list[dict[str, object]]:
    answer = await world.client.get("/events/dead", headers=headers)
    assert answer.status_code == 200, answer.text
    found: list[dict[str, object]] = answer.json()["items"]
    return found


def code(answer: httpx2.Response) -> tuple[int, str]:
    return answer.status_code, answer.json()["code"]


async def test_a_letter_says_what_it_is_about_and_why_it_was_put_aside(world: World) -> None:
    await bury(world)
    (letter,) = await letters(world)
    assert (letter["type"], letter["subject"]) == ("cloche.RunStarted.v1", "run/default/r0")
    assert (letter["group"], letter["reason"], letter["attempts"]) == ("group-default", "Invalid: no", 3)


async def test_what_cannot_be_read_is_listed_for_those_to_whom_all_projects_are_open(world: World) -> None:
    raw = Delivery("cloche.runs/0", 1, "k", None, b"\xff", "not JSON")
    await world.bus.bury(DeadLetter("g", raw, "not JSON", 1, "1.0"))
    (letter,) = await letters(world)
    assert (letter["type"], letter["reason"]) == ("", "not JSON")
    assert await letters(world, **key_of(world, "admin", "default")) == []


async def test_what_cannot_be_read_on_a_projects_own_topic_is_that_projects(world: World) -> None:
    raw = Delivery("cloche.commands.vision/2", 1, "k", None, b"{", "not JSON")
    await world.bus.bury(DeadLetter("registry.commands", raw, "not JSON", 1, "1.0"))
    mine = key_of(world, "admin", "vision")
    (letter,) = await letters(world, **mine, **{"cloche-project": "vision"})
    assert (letter["project"], letter["type"]) == ("vision", "")
    assert await letters(world, **key_of(world, "admin", "default")) == []


async def test_letters_come_in_pages(world: World) -> None:
    await bury(world, count=5)
    seen: list[str] = []
    query: dict[str, object] = {"page_size": 2}
    for _ in range(3):
        page = (await world.client.get("/events/dead", params=query)).json()
        seen += [one["subject"] for one in page["items"]]
        query["page_token"] = page["next_page_token"]
    assert seen == [f"run/default/r{number}" for number in range(5)]
    assert query["page_token"] is None


async def test_a_letter_that_is_sent_again_comes_and_is_put_aside_no_longer(world: World) -> None:
    await bury(world)
    (letter,) = await letters(world)
    async with world.bus.tail(["cloche.runs"]) as runs:
        answer = await world.post(f"/events/dead/{letter['id']}/resend", None)
        assert (answer.status_code, answer.json()) == (200, letter)
        (again,) = await runs.fetch()
    assert again.event is not None
    assert again.event.subject == "run/default/r0"
    assert await letters(world) == []
    assert code(await world.post(f"/events/dead/{letter['id']}/resend", None)) == (404, "letter_not_found")


async def test_sending_again_is_on_record_and_the_same_request_acts_once(world: World) -> None:
    await bury(world)
    (letter,) = await letters(world)
    path, once = f"/events/dead/{letter['id']}/resend", {"idempotency-key": "again"}
    first, second = [await world.post(path, None, **once) for _ in range(2)]
    assert (first.status_code, second.status_code) == (200, 200)
    assert first.json() == second.json() == letter
    (record,) = [written(one) for key, one in world.store.documents.items() if key.startswith("letter/")]
    assert record.facts[0][0] == "cloche.DeadLetterResent.v1"
    assert record.facts[0][1]["group"] == "group-default"
    assert record.actor.subject.startswith("key:")


@pytest.mark.parametrize("role", ["viewer", "submitter"])
async def test_only_administrators_see_letters_and_send_them(world: World, role: Role) -> None:
    await bury(world)
    (letter,) = await letters(world)
    mine = key_of(world, role, "default")
    assert code(await world.client.get("/events/dead", headers=mine)) == (403, "not_allowed")
    assert code(await world.post(f"/events/dead/{letter['id']}/resend", None, **mine)) == (403, "not_allowed")


async def test_an_administrator_of_one_project_sees_and_sends_its_letters_only(world: World) -> None:
    await bury(world, "other")
    (letter,) = await letters(world)
    mine = key_of(world, "admin", "default")
    assert await letters(world, **mine) == []
    assert code(await world.post(f"/events/dead/{letter['id']}/resend", None, **mine)) == (404, "letter_not_found")
    assert await letters(world) == [letter]
