"""Curated environments: listed, used as they are, cloned, and never changed by a user."""

from collections.abc import AsyncIterator
from typing import Any

import pytest

from cloche_registry.definitions import Recipe, candidate
from cloche_registry.domain.curated import CURATED, as_found, decide_use
from cloche_registry.domain.environments import Environment, EnvironmentVersion, evolve
from cloche_shared.contracts.definition import Definition
from cloche_shared.contracts.envelope import Event
from cloche_shared.contracts.references import EnvironmentRef
from cloche_shared.definitions.rules import RESERVED
from cloche_shared.errors import NotFound
from tests.unit.registry_world import World, started

NAMES = sorted(CURATED)


@pytest.fixture
async def world() -> AsyncIterator[World]:
    async with started() as made:
        yield made


def make(definition: Definition, by: str) -> EnvironmentVersion:
    return candidate(definition, Recipe("linux-x86_64", "3.11"), created_at="now", created_by=by)


def resolved(answer: Event) -> dict[str, Any]:
    found: Any = answer.data["environment"]
    return dict(found)


async def test_curated_environments_are_listed_before_anybody_used_one(world: World) -> None:
    listed = (await world.client.get("/environments?curated=true")).json()
    assert [(one["name"], one["version"], one["created_by"]) for one in listed["items"]] == [
        (name, "1", "cloche") for name in NAMES
    ]
    assert (await world.client.get("/environments")).json()["items"] == []


async def test_a_reference_to_one_makes_it_a_version_of_the_project_once(world: World) -> None:
    shown = (await world.client.get("/environments/Cloche-Sklearn")).json()
    answers = [await world.ask({"environment": {"name": "Cloche-Sklearn"}}) for _ in range(2)]
    found = [resolved(answer) for answer in answers]
    assert [(one["version"], one["definition_hash"], one["registered"]) for one in found] == [
        ("1", shown["definition_hash"], True),
        ("1", shown["definition_hash"], False),
    ]
    versions = (await world.client.get("/environments/Cloche-Sklearn/versions")).json()["items"]
    assert [one["created_by"] for one in versions] == ["cloche"]


async def test_the_first_version_may_be_named_before_it_was_used(world: World) -> None:
    answer = await world.ask({"environment": {"name": "Cloche-Minimal", "version": "1"}})
    assert resolved(answer)["version"] == "1"
    refused = await world.ask({"environment": {"name": "Cloche-Minimal", "version": "2"}})
    problem: Any = refused.data["problem"]
    assert problem["code"] == "environment_version_not_found"


async def test_one_can_be_cloned_and_the_copy_is_the_projects_own(world: World) -> None:
    made = await world.post("/environments/Cloche-Sklearn/clone", {"name": "mine"})
    curated = (await world.client.get("/environments/Cloche-Sklearn")).json()
    assert (made.status_code, made.json()["definition_hash"]) == (201, curated["definition_hash"])
    assert (await world.post("/environments/mine/archive", None)).status_code == 200


@pytest.mark.parametrize("prefix", RESERVED)
async def test_nothing_is_registered_below_a_reserved_prefix(world: World, prefix: str) -> None:
    answers = [
        await world.post("/environments", {"name": f"{prefix}own", "definition": {}}),
        await world.post("/environments/Cloche-Minimal/clone", {"name": f"{prefix}own"}),
    ]
    assert [(answer.status_code, answer.json()["code"]) for answer in answers] == [(422, "reserved_name")] * 2


async def test_a_curated_environment_is_not_labelled_archived_or_deleted(world: World) -> None:
    await world.ask({"environment": {"name": "Cloche-Minimal"}})
    path = "/environments/Cloche-Minimal"
    answers = [
        await world.client.put(f"{path}/labels/mine", json={"version": "1"}),
        await world.post(f"{path}/archive", None),
        await world.client.delete(path),
    ]
    assert {answer.json()["code"] for answer in answers} == {"reserved_name"}


async def test_a_name_below_the_prefix_that_is_none_is_not_found(world: World) -> None:
    assert (await world.client.get("/environments/Cloche-Nothing")).json()["code"] == "environment_not_found"


# --- decisions


def test_a_newer_definition_is_the_next_version_for_those_who_mean_the_latest() -> None:
    old = Environment(versions=(make(Definition(description="old"), "cloche"),))
    facts, found = decide_use(old, EnvironmentRef(name="Cloche-Minimal"), make)
    assert (len(facts), found.version) == (1, "2")
    state = evolve(old, facts[0])
    assert decide_use(state, EnvironmentRef(name="Cloche-Minimal"), make)[0] == []
    pinned, found = decide_use(old, EnvironmentRef(name="Cloche-Minimal", version="1"), make)
    assert (pinned, found.version, found.definition.description) == ([], "1", "old")


def test_other_environments_are_taken_as_they_are() -> None:
    with pytest.raises(NotFound):
        decide_use(Environment(), EnvironmentRef(name="own"), make)
    assert as_found(Environment(), "own", make) == Environment()


@pytest.mark.parametrize("name", NAMES)
def test_every_curated_definition_says_what_it_is_and_pins_its_packages(name: str) -> None:
    definition = CURATED[name]
    assert name.startswith(RESERVED)
    assert definition.description
    assert all("==" in line for line in definition.python.pip)
    assert definition.python.pip == tuple(sorted(definition.python.pip))
