"""What happens to environments besides registering: check, difference, clone, history, who uses them, deletion."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import pytest

from cloche_shared.contracts.definition import Definition
from cloche_shared.contracts.facts import (
    RunCompleted,
    RunPreparing,
    RunSubmitted,
    ServiceDeleted,
    ServiceDeployed,
    ServiceSubmitted,
)
from cloche_shared.contracts.references import References, ResolvedEnvironment
from cloche_shared.contracts.runs import Ended
from cloche_shared.contracts.services import ServiceSpec
from cloche_shared.definitions.difference import differences
from tests.unit.registry_world import DIGEST, SKLEARN, SPEC, World, started


@pytest.fixture
async def world() -> AsyncIterator[World]:
    async with started() as made:
        yield made


async def eventually(ask: Callable[[], Awaitable[Any]], holds: Callable[[Any], bool]) -> None:
    """Wait until what is asked for holds."""
    async with asyncio.timeout(10):
        found = await ask()
        while not holds(found):
            await asyncio.sleep(0.005)
            found = await ask()


def environment(name: str = "sk", version: str = "1") -> ResolvedEnvironment:
    return ResolvedEnvironment(name=name, version=version, definition_hash="e1:" + "0" * 64, definition=Definition())


async def uses(world: World, name: str = "sk", query: str = "") -> list[str]:
    answer = await world.client.get(f"/environments/{name}/uses{query}")
    assert answer.status_code == 200, answer.text
    return [f"{one['kind']}/{one['id']}:{one['environment_version']}" for one in answer.json()["items"]]


def codes(answer: dict[str, Any], severity: str) -> list[tuple[str, str]]:
    return [(one["pointer"], one["code"]) for one in answer["problems"] if one["severity"] == severity]


# --- check


async def test_a_check_tells_every_fault_and_registers_nothing(world: World) -> None:
    body = {"name": "Cloche-x", "definition": {"python": {"pip": ["-e ."]}, "apt": ["git"], "variables": {"PATH": "x"}}}
    answer = await world.post("/environments/check", body)
    found = answer.json()
    assert (answer.status_code, found["valid"], found["definition_hash"]) == (200, False, None)
    assert codes(found, "error") == [
        ("/name", "reserved_name"),
        ("/definition/variables/PATH", "reserved_variable"),
        ("/definition/python/pip/0", "requirement_option"),
        ("/definition/apt", "apt_not_available"),
    ]
    assert codes(found, "warning")[0] == ("/definition/python/version", "python_open")
    assert (await world.client.get("/environments/Cloche-x")).status_code == 404


async def test_a_check_of_what_is_right_gives_the_hash_that_registering_gives(world: World) -> None:
    found = (await world.post("/environments/check", {"definition": SKLEARN})).json()
    made = await world.register("sk", SKLEARN)
    assert found == {"valid": True, "definition_hash": made["definition_hash"], "problems": []}


async def test_a_check_of_requirements_points_at_lines(world: World) -> None:
    found = (await world.post("/environments/check", {"requirements": "a==1\n-e .\n"})).json()
    assert codes(found, "error") == [("/requirements/2", "requirement_option")]


async def test_what_is_no_definition_is_refused_with_its_place(world: World) -> None:
    answer = await world.post("/environments/check", {"definition": {"python": {"pips": []}}})
    assert answer.status_code == 422
    assert [(one["pointer"], one["code"]) for one in answer.json()["errors"]] == [
        ("/definition/python/pips", "unknown_field")
    ]


@pytest.mark.parametrize(
    ("definition", "code"),
    [
        ({"apt": ["git"]}, "apt_not_available"),
        ({"docker": {"enabled": True}}, "images_not_available"),
        ({"docker": {"platform": "linux-aarch64"}}, "platform_not_available"),
    ],
)
async def test_what_cannot_take_effect_is_not_registered(world: World, definition: dict[str, Any], code: str) -> None:
    answer = await world.post("/environments", {"name": "a", "definition": definition})
    assert (answer.status_code, answer.json()["code"]) == (422, code)
    assert answer.json()["errors"][0]["pointer"].startswith("/definition/")
    refused = await world.ask({"environment": {"name": "a", "definition": definition}})
    problem: dict[str, Any] = refused.data["problem"]  # type: ignore[assignment]
    assert problem["code"] == code


async def test_names_of_curated_environments_are_kept_free(world: World) -> None:
    answer = await world.post("/environments", {"name": "Cloche-Minimal", "definition": {}})
    assert (answer.status_code, answer.json()["code"]) == (422, "reserved_name")


# --- difference and clone


async def test_two_versions_are_compared_by_what_people_would_name(world: World) -> None:
    await world.register("a", {"python": {"pip": ["numpy==1", "old", "same"]}, "variables": {"A": "1"}})
    await world.register("a", {"python": {"version": "3.12", "pip": ["same", "NumPy==2", "new"]}, "tags": {"t": "x"}})
    found = (await world.client.get("/environments/a/diff")).json()
    assert (found["base"]["version"], found["other"]["version"], found["same_hash"]) == ("1", "2", False)
    assert {one["pointer"]: (one["before"], one["after"]) for one in found["changes"]} == {
        "/python/version": ("3.11", "3.12"),
        "/python/pip/new": (None, "new"),
        "/python/pip/numpy": ("numpy==1", "numpy==2"),
        "/python/pip/old": ("old", None),
        "/variables/A": ("1", None),
        "/tags/t": (None, "x"),
    }


async def test_versions_of_two_environments_are_compared(world: World) -> None:
    await world.register("a", SKLEARN)
    await world.register("b", {**SKLEARN, "variables": {"A": "1"}})
    found = (await world.client.get("/environments/b/diff?base_name=a&base=1&version=1")).json()
    assert (found["base"]["name"], found["same_hash"]) == ("a", True)
    assert [one["pointer"] for one in found["changes"]] == ["/variables/A"]
    missing = await world.client.get("/environments/b/diff?base=7")
    assert missing.json()["code"] == "environment_version_not_found"


def test_order_counts_only_where_it_means_something() -> None:
    def of(**options: Any) -> Definition:
        python = {"pip": options.pop("pip", ()), "pip_options": options}
        return Definition.model_validate({"python": python}, strict=False)

    assert differences(of(pip=("a", "b")), of(pip=("b", "a"))) == []
    urls = ("https://a.example.org", "https://b.example.org")
    turned = differences(of(extra_index_urls=urls), of(extra_index_urls=urls[::-1]))
    assert [one.pointer for one in turned] == ["/python/pip_options/extra_index_urls"]


async def test_a_clone_has_the_same_definition_under_another_name(world: World) -> None:
    first = await world.register("a", SKLEARN)
    await world.register("a", {})
    made = await world.post("/environments/a/clone", {"name": "b", "version": "1"}, **{"idempotency-key": "k"})
    again = await world.post("/environments/a/clone", {"name": "b", "version": "1"}, **{"idempotency-key": "k"})
    assert (made.status_code, made.json()["definition_hash"]) == (201, first["definition_hash"])
    assert again.json()["version"] == made.json()["version"] == "1"
    assert (await world.post("/environments/a/clone", {"name": "Cloche-b"})).json()["code"] == "reserved_name"
    assert (await world.post("/environments/no/clone", {"name": "b"})).json()["code"] == "environment_not_found"


# --- history


async def test_the_history_tells_what_happened_and_who_did_it(world: World) -> None:
    made = await world.register("a", SKLEARN)
    await world.client.put("/environments/a/labels/good", json={"version": "1"})
    await world.post("/environments/a/archive", {})
    await world.client.delete("/environments/a")
    first = (await world.client.get("/environments/a/history?page_size=3")).json()
    second = (await world.client.get(f"/environments/a/history?page_token={first['next_page_token']}")).json()
    entries = [*first["items"], *second["items"]]
    assert [entry["facts"][0]["type"] for entry in entries] == [
        "cloche.EnvironmentRegistered.v1",
        "cloche.EnvironmentLabeled.v1",
        "cloche.EnvironmentArchived.v1",
        "cloche.EnvironmentDeleted.v1",
    ]
    assert entries[0]["facts"][0]["definition_hash"] == made["definition_hash"]
    assert entries[1]["facts"][0]["label"] == "good"
    assert {entry["actor"] for entry in entries} == {made["created_by"]}
    assert [entry["seq"] for entry in entries] == [1, 2, 3, 4]
    assert second["next_page_token"] is None


# --- uses and deletion


async def test_an_environment_that_is_used_is_not_deleted_and_says_by_whom(world: World) -> None:
    await world.register("sk", SKLEARN)
    references = References.model_validate_json('{"environment": {"name": "sk"}}')
    await world.happens("run/default/r1", RunSubmitted(spec=SPEC, references=references), 1)
    await eventually(lambda: uses(world), lambda found: found == ["run/r1:"])
    await world.happens("run/default/r1", RunPreparing(environment=environment()), 2)
    await eventually(lambda: uses(world), lambda found: found == ["run/r1:1"])
    refused = await world.client.delete("/environments/sk")
    assert (refused.status_code, refused.json()["code"]) == (409, "environment_in_use")
    assert refused.json()["uses"][0]["id"] == "r1"
    assert (await world.client.delete("/environments/sk?force=true")).status_code == 200


async def test_a_run_that_ended_is_history_and_holds_nothing(world: World) -> None:
    await world.register("sk", SKLEARN)
    ended = RunCompleted(outputs=DIGEST, ended=Ended(ending="exited", code=0), environment=environment())
    await world.happens("run/default/r1", ended, 7)
    await world.happens("run/default/r1", RunPreparing(environment=environment()), 2)
    await eventually(lambda: uses(world, query="?ended=true"), lambda found: found == ["run/r1:1"])
    assert await uses(world) == []
    assert (await world.client.delete("/environments/sk")).status_code == 200


async def test_a_service_and_a_model_hold_an_environment_until_they_are_gone(world: World) -> None:
    await world.register("sk", SKLEARN)
    deployed = ServiceDeployed(revision=1, scoring_url="", environment=environment())
    await world.happens("service/default/s", deployed, 3)
    await world.run_ends("r1", {"outputs/model.pkl": b"one"})
    source = {"run_id": "r1", "path": "outputs/model.pkl"}

    async def register() -> Any:
        return (await world.post("/models", {"name": "m", "from_run": source})).status_code

    await eventually(register, lambda status: status == 201)
    await eventually(lambda: uses(world), lambda found: found == ["model/m:2", "service/s:1"])
    assert (await world.client.delete("/environments/sk")).json()["code"] == "environment_in_use"
    await world.happens("service/default/s", ServiceDeleted(), 4)
    await world.client.delete("/models/m")
    await eventually(lambda: uses(world), lambda found: found == [])
    assert (await world.client.delete("/environments/sk")).status_code == 200


async def test_an_environment_is_in_use_from_the_moment_a_reference_to_it_was_given(world: World) -> None:
    await world.register("sk", SKLEARN)
    for _ in range(2):
        await world.ask({"environment": {"name": "sk"}})
        refused = await world.client.delete("/environments/sk")
        assert (refused.status_code, refused.json()["code"]) == (409, "environment_in_use")
        run = refused.json()["uses"][0]["id"]
        ended = RunCompleted(outputs=DIGEST, ended=Ended(ending="exited", code=0), environment=environment())
        await world.happens(f"run/default/{run}", ended, 7)
        await eventually(lambda: uses(world), lambda found: found == [])


async def test_a_service_that_waits_for_its_first_revision_holds_its_environment(world: World) -> None:
    await world.register("sk", SKLEARN)
    spec = ServiceSpec(entry_script="score.py", snapshot=DIGEST)
    references = References.model_validate_json('{"environment": {"name": "sk", "version": "1"}}')
    for revision, name in ((1, "new"), (2, "old")):
        fact = ServiceSubmitted(revision=revision, spec=spec, references=references)
        await world.happens(f"service/default/{name}", fact)
    await eventually(lambda: uses(world), lambda found: found == ["service/new:1"])


async def test_what_is_wrong_with_a_deletion_and_that_it_was_done_come_before_who_uses_it(world: World) -> None:
    await world.register("sk", SKLEARN)
    await world.ask({"environment": {"name": "sk"}})
    outdated = {"if-match": '"9"'}
    assert (await world.client.delete("/environments/sk", headers=outdated)).status_code == 412
    assert (await world.client.delete("/environments/none")).status_code == 404

    await world.register("other", SKLEARN)
    key = {"idempotency-key": "k"}
    assert (await world.client.delete("/environments/other", headers=key)).status_code == 200
    await world.happens("run/default/late", RunPreparing(environment=environment("other")), 2)
    await eventually(lambda: uses(world, "other"), lambda found: found == ["run/late:1"])
    assert (await world.client.delete("/environments/other", headers=key)).status_code == 200
    assert (await world.client.delete("/environments/other")).json()["code"] == "environment_deleted"
