"""Commands by message: they act once, are answered once, and never break anything."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable

import pytest

from cloche_shared.contracts.commands import command_topic
from cloche_shared.contracts.facts import ProjectCreated
from tests.unit.commanding import SOURCE, Answers, message, produce
from tests.unit.registry_world import World, started


@pytest.fixture
async def world() -> AsyncIterator[World]:
    async with started() as made:
        yield made


async def until(condition: Callable[[], Awaitable[bool]]) -> None:
    async with asyncio.timeout(5):
        while not await condition():  # noqa: ASYNC110 - what is waited for is seen from outside only
            await asyncio.sleep(0.005)


async def dead(world: World, count: int) -> list[str]:
    async def there() -> bool:
        return len(world.broker.dead) >= count

    await until(there)
    return [letter.reason for letter in world.broker.dead]


async def versions(world: World, name: str) -> int:
    answer = await world.client.get(f"/environments/{name}/versions")
    return len(answer.json()["items"]) if answer.status_code == 200 else 0


async def test_an_environment_is_registered_and_the_answer_has_the_commands_correlation(world: World) -> None:
    sent = message("RegisterEnvironment", {"name": "sk", "requirements": "numpy==2.1.0\n"}, correlationid="order-7")
    await produce(world.bus, sent)
    answer = await Answers(world.bus).to("1")
    assert (answer.name, answer.correlation) == ("CommandAccepted", "order-7")
    assert answer.data["about"] == "environment/default/sk"
    fact = next(
        one.event
        for part in world.broker.partitions("cloche.environments")
        for one in part.log
        if one.event is not None
    )
    assert (fact.name, fact.correlation, fact.causation, fact.actor) == (
        "EnvironmentRegistered",
        "order-7",
        "1",
        "topic:default",
    )


async def test_a_command_that_comes_again_acts_once_and_is_answered_once(world: World) -> None:
    for pip in ("a==1", "b==1", "a==1"):
        await produce(world.bus, message("RegisterEnvironment", {"name": "sk", "requirements": pip}))
    await produce(world.bus, message("RegisterEnvironment", {"name": "other", "requirements": ""}, "2"))
    await Answers(world.bus).to("2")
    assert await versions(world, "sk") == 1
    assert Answers(world.bus).count("1") == 1


async def test_a_command_that_changes_nothing_is_answered_too(world: World) -> None:
    for event_id in ("1", "2"):
        await produce(world.bus, message("RegisterEnvironment", {"name": "sk", "requirements": "a==1"}, event_id))
    assert (await Answers(world.bus).to("2")).name == "CommandAccepted"
    assert await versions(world, "sk") == 1


async def test_what_is_understood_and_not_possible_is_refused_with_the_code_that_rest_gives(world: World) -> None:
    await produce(world.bus, message("RegisterModel", {"name": "m", "manifest": "sha256:" + "0" * 64}))
    answer = await Answers(world.bus).to("1")
    assert answer.name == "CommandRefused"
    problem = answer.data["problem"]
    assert isinstance(problem, dict)
    assert problem["code"] == "files_missing"
    assert world.broker.dead == []


POISON = {
    "no JSON": b"{",
    "no object": b"[]",
    "a tombstone": b"",
    "no type": b'{"specversion":"1.0","id":"1","source":"/s","data":{}}',
    "another specversion": b'{"specversion":"0.3","id":"1","source":"/s","type":"cloche.SubmitRun.v1","data":{}}',
    "no data": b'{"specversion":"1.0","id":"1","source":"/s","type":"cloche.RegisterEnvironment.v1"}',
    "an unknown type": message("Dance", {}),
    "a version to come": message("cloche.RegisterEnvironment.v9", {"name": "sk"}),
    "a fact": message("RunCompleted", {}),
    "a name twice": b'{"specversion":"1.0","id":"1","source":"/s","type":"cloche.RegisterModel.v1","data":"x"}',
    "too much": message("RegisterEnvironment", {"name": "sk", "requirements": "x" * 1_100_000}),
    "control characters": message("RegisterEnvironment", {"name": "sk", "requirements": ""}, "1\n2"),
}


@pytest.mark.parametrize("kind", POISON)
async def test_what_cannot_be_understood_becomes_one_dead_letter_and_stops_nothing(world: World, kind: str) -> None:
    await produce(world.bus, POISON[kind])
    await produce(world.bus, message("RegisterEnvironment", {"name": "next", "requirements": ""}, "next"))
    await Answers(world.bus).to("next")
    (reason,) = await dead(world, 1)
    assert reason
    assert await versions(world, "sk") == 0


@pytest.mark.parametrize(
    ("data", "code", "pointer"),
    [
        ({"name": "sk", "requirements": "", "project": "other"}, "unknown_field", "/data/project"),
        ({"name": 7, "requirements": ""}, "invalid_type", "/data/name"),
        ({"requirements": ""}, "missing_field", "/data/name"),
        ({"name": "sk", "requirements": "x" * 300_000}, "invalid_field", ""),
    ],
)
async def test_a_command_whose_data_does_not_fit_is_refused_once_and_no_dead_letter(
    world: World, data: dict[str, object], code: str, pointer: str
) -> None:
    for _ in range(2):
        await produce(world.bus, message("RegisterEnvironment", data, correlationid="order-7"))
    await produce(world.bus, message("RegisterEnvironment", {"name": "next", "requirements": ""}, "next"))
    await Answers(world.bus).to("next")
    answer = await Answers(world.bus).to("1")
    assert (answer.name, answer.correlation) == ("CommandRefused", "order-7")
    problem = answer.data["problem"]
    assert isinstance(problem, dict)
    assert problem["code"] == code
    assert {one["pointer"] for one in problem["extra"].get("errors", [])} >= ({pointer} if pointer else set())
    assert Answers(world.bus).count("1") == 1
    assert world.broker.dead == []
    assert await versions(world, "sk") == 0


async def test_the_commands_of_other_services_are_left_to_them(world: World) -> None:
    await produce(world.bus, message("CancelRun", {"run_id": "r"}))
    await produce(world.bus, message("RegisterEnvironment", {"name": "next", "requirements": ""}, "next"))
    await Answers(world.bus).to("next")
    assert world.broker.dead == []
    assert Answers(world.bus).count("1") == 0


async def test_a_project_is_the_topics_and_never_the_messages(world: World) -> None:
    sent = message("RegisterEnvironment", {"name": "sk", "requirements": ""}, project="default", actor="key:admin")
    await produce(world.bus, sent, project="team-a")
    answer = await Answers(world.bus).to("1", "team-a")
    assert (answer.project, answer.data["about"]) == ("team-a", "environment/team-a/sk")
    assert await versions(world, "sk") == 0


async def test_a_new_project_gets_a_topic_for_its_commands(world: World) -> None:
    await world.happens("access/team-b/keys", ProjectCreated(), project="team-b")

    async def there() -> bool:
        return command_topic("team-b") in world.broker.topics

    await until(there)


async def test_a_command_waits_for_the_one_that_it_comes_after(world: World) -> None:
    later = message("RegisterEnvironment", {"name": "sk", "requirements": "b==1", "after": "1"}, "2")
    await produce(world.bus, later, key="b")
    await asyncio.sleep(0.05)
    assert Answers(world.bus).count("2") == 0
    await produce(world.bus, message("RegisterEnvironment", {"name": "sk", "requirements": "a==1"}), key="a")
    assert (await Answers(world.bus).to("2")).name == "CommandAccepted"
    listed = (await world.client.get("/environments/sk/versions")).json()["items"]
    assert [one["definition"]["python"]["pip"] for one in listed] == [["b==1"], ["a==1"]]


async def test_a_command_after_a_refused_one_is_refused(world: World) -> None:
    await produce(world.bus, message("RegisterModel", {"name": "m", "manifest": "sha256:" + "0" * 64}))
    later = message("RegisterEnvironment", {"name": "sk", "requirements": "", "after": "1"}, "2")
    await produce(world.bus, later, key="b")
    answer = await Answers(world.bus).to("2")
    assert isinstance(answer.data["problem"], dict)
    assert answer.data["problem"]["code"] == "after_refused"


async def test_a_command_can_be_given_by_rest(world: World) -> None:
    body = {"specversion": "1.0", "id": "1", "source": SOURCE, "type": "cloche.RegisterEnvironment.v1"}
    answer = await world.post("/commands", {**body, "data": {"name": "sk", "requirements": "a==1"}})
    assert answer.status_code == 202, answer.text
    said = await Answers(world.bus).to("1")
    assert answer.json() == {
        "subject": said.subject,
        "correlationid": said.correlation,
        "topic": command_topic("default"),
    }
    assert await versions(world, "sk") == 1


@pytest.mark.parametrize(
    ("change", "code", "pointer"),
    [
        ({"type": "cloche.Dance.v1"}, "unknown_command", "/type"),
        ({"data": {"name": "sk", "wrong": 1}}, "unknown_field", "/data/wrong"),
        ({"data": {"requirements": ""}}, "missing_field", "/data/name"),
    ],
)
async def test_rest_says_at_once_what_is_wrong_with_a_command(
    world: World, change: dict[str, object], code: str, pointer: str
) -> None:
    body = {"specversion": "1.0", "id": "1", "source": SOURCE, "type": "cloche.RegisterEnvironment.v1"}
    answer = await world.post("/commands", {**body, "data": {"name": "sk"}, **change})
    assert (answer.status_code, answer.json()["errors"][0]["pointer"]) == (422, pointer), answer.text
    assert code in {answer.json()["code"], answer.json()["errors"][0]["code"]}
