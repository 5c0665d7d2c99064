"""The registry as its clients and the other services meet it: environments, references, keys."""

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import orjson
import pytest

from cloche_shared.access import AccessTable
from cloche_shared.adapters.system_clock import SystemClock
from cloche_shared.contracts.facts import (
    TOPICS,
    BuildSubmitted,
)
from cloche_shared.contracts.references import References
from cloche_shared.http.app import openapi_document
from tests.unit.registry_world import PEPPER, SKLEARN, TOKEN, World, listed, started


@pytest.fixture(params=[False, True], ids=["shared", "exclusive"])
async def world(request: pytest.FixtureRequest) -> AsyncIterator[World]:
    async with started(exclusive=request.param) as made:
        yield made


# --- environments


async def test_an_unchanged_definition_is_the_same_version_and_a_b_a_makes_three(world: World) -> None:
    first = await world.register("sk", SKLEARN)
    again = await world.register("sk", SKLEARN)
    assert (first["status"], first["version"], first["latest"]) == (201, "1", True)
    assert (again["status"], again["version"]) == (200, "1")
    assert (await world.register("sk", {"variables": {"A": "1"}}))["version"] == "2"
    third = await world.register("sk", SKLEARN)
    assert (third["version"], third["definition_hash"]) == ("3", first["definition_hash"])


async def test_64_concurrent_registrations_of_the_same_definition_make_one_version(world: World) -> None:
    made = await asyncio.gather(*(world.register("sk", SKLEARN) for _ in range(64)))
    assert [one["version"] for one in made] == ["1"] * 64
    assert sorted(one["status"] for one in made) == [200] * 63 + [201]


async def test_concurrent_registrations_of_different_definitions_are_numbered_without_a_gap(world: World) -> None:
    made = await asyncio.gather(*(world.register("sk", {"variables": {"N": str(n)}}) for n in range(64)))
    assert sorted(int(one["version"]) for one in made) == list(range(1, 65))


async def test_variables_make_a_version_but_not_another_hash(world: World) -> None:
    first = await world.register("sk", SKLEARN)
    second = await world.register("sk", {**SKLEARN, "variables": {"A": "1"}})
    assert (second["version"], second["definition_hash"]) == ("2", first["definition_hash"])


async def test_a_requirements_file_is_a_definition(world: World) -> None:
    body = {"name": "sk", "requirements": "# pinned\nScikit_Learn==1.5.2\n--pre\n"}
    answer = (await world.post("/environments", body)).json()
    assert answer["definition"]["python"]["pip"] == ["scikit-learn==1.5.2"]
    assert answer["definition"]["python"]["pip_options"]["pre"] is True
    assert (answer["definition"]["python"]["version"], answer["python"]) == (None, "3.11")


@pytest.mark.parametrize(
    ("body", "code", "pointer"),
    [
        ({"name": "a"}, "definition_missing", None),
        ({"name": "a", "requirements": "ok\nnot a requirement\n"}, "invalid_requirement", "/requirements/2"),
        ({"name": "a", "requirements": "-e ."}, "requirement_option", "/requirements/1"),
        (
            {"name": "a", "definition": {"python": {"pip": ["ok", "git+https://x/y"]}}},
            "requirement_option",
            "/definition/python/pip/1",
        ),
        ({"name": "a", "definition": {"variables": {"PATH": "/"}}}, "reserved_variable", "/definition/variables/PATH"),
        (
            {"name": "a", "definition": {"python": {"pip": ["x"]}}, "requirements": "y"},
            "requirements_twice",
            "/requirements",
        ),
        ({"name": "a", "definition": {}, "colour": 1}, "unknown_field", "/colour"),
        ({"name": "../a", "definition": {}}, "invalid_name", "/name"),
    ],
)
async def test_what_is_wrong_in_a_definition_is_pointed_at(
    world: World, body: dict[str, Any], code: str, pointer: str | None
) -> None:
    answer = await world.post("/environments", body)
    problem = answer.json()
    assert (answer.status_code, problem["errors"][0]["code"] if pointer else problem["code"]) == (422, code)
    assert pointer is None or problem["errors"][0]["pointer"] == pointer


async def test_a_request_with_a_key_acts_once(world: World) -> None:
    headers = {"idempotency-key": "k1"}
    first = await world.register("sk", SKLEARN, **headers)
    await world.register("sk", {"variables": {"B": "2"}})
    again = await world.register("sk", SKLEARN, **headers)
    assert (again["version"], again["status"]) == (first["version"], 201)
    other = await world.post("/environments", {"name": "sk", "definition": {}}, **headers)
    assert (other.status_code, other.json()["code"]) == (422, "idempotency_key_reused")


async def test_a_label_names_one_version_and_latest_is_reserved(world: World) -> None:
    for number in range(2):
        await world.register("sk", {"variables": {"N": str(number)}})
    assert (await world.client.put("/environments/sk/labels/good", json={"version": "1"})).json()["version"] == "2"
    shown = (await world.client.get("/environments/sk?label=good")).json()
    assert (shown["version"], shown["labels"], shown["latest"]) == ("1", ["good"], False)
    await world.client.put("/environments/sk/labels/good", json={"version": "2"})
    assert (await world.client.get("/environments/sk?label=good")).json()["version"] == "2"
    reserved = await world.client.put("/environments/sk/labels/latest", json={"version": "1"})
    assert (reserved.status_code, reserved.json()["code"]) == (422, "label_reserved")
    assert (await world.client.delete("/environments/sk/labels/good")).status_code == 200
    gone = await world.client.get("/environments/sk?label=good")
    assert (gone.status_code, gone.json()["code"]) == (404, "label_not_found")
    assert (await world.client.get("/environments/sk?label=latest")).json()["version"] == "2"


async def test_a_change_on_an_outdated_view_is_refused(world: World) -> None:
    await world.register("sk", SKLEARN)
    tag = (await world.client.get("/environments/sk")).headers["etag"]
    first = await world.client.post("/environments/sk/archive", headers={"if-match": tag})
    assert first.status_code == 200
    assert first.headers["etag"] != tag
    second = await world.client.post("/environments/sk/restore", headers={"if-match": tag})
    assert (second.status_code, second.json()["code"]) == (412, "etag_mismatch")


async def test_lists_show_what_the_caller_wrote(world: World) -> None:
    for name in ("b", "a", "c"):
        answer = await world.post("/environments", {"name": name, "definition": {}})
    assert await listed(world, "/environments", answer.headers["cloche-position"]) == ["a", "b", "c"]
    archived = await world.client.post("/environments/b/archive")
    position = archived.headers["cloche-position"]
    assert await listed(world, "/environments", position) == ["a", "c"]
    assert await listed(world, "/environments?archived=true", position) == ["b"]
    deleted = await world.client.delete("/environments/a")
    assert await listed(world, "/environments", deleted.headers["cloche-position"]) == ["c"]


async def test_pages_follow_each_other(world: World) -> None:
    for number in range(5):
        await world.register("sk", {"variables": {"N": str(number)}})
    found, token = [], ""
    while token is not None:
        page = (await world.client.get(f"/environments/sk/versions?page_size=2&page_token={token}")).json()
        found += [item["version"] for item in page["items"]]
        token = page["next_page_token"]
    assert found == ["5", "4", "3", "2", "1"]


async def test_a_deleted_environment_is_refused_and_its_name_stays_taken(world: World) -> None:
    await world.register("sk", SKLEARN)
    await world.client.delete("/environments/sk")
    shown = await world.client.get("/environments/sk")
    again = await world.post("/environments", {"name": "sk", "definition": {}})
    assert (shown.status_code, shown.json()["code"]) == (404, "environment_deleted")
    assert (again.status_code, again.json()["code"]) == (409, "environment_deleted")


async def test_an_unknown_environment_is_answered_with_names_like_it(world: World) -> None:
    answer = await world.post("/environments", {"name": "sklearn", "definition": {}})
    await listed(world, "/environments", answer.headers["cloche-position"])
    problem = (await world.client.get("/environments/sklaern")).json()
    assert (problem["code"], problem["near"]) == ("environment_not_found", ["sklearn"])


# --- references


async def test_an_environment_is_resolved_by_version_label_or_latest(world: World) -> None:
    await world.register("sk", SKLEARN)
    await world.register("sk", {"variables": {"A": "1"}})
    await world.client.put("/environments/sk/labels/old", json={"version": "1"})
    refs = [{"version": "1"}, {"label": "old"}, {"label": "latest"}, {}]
    answers = [await world.ask({"environment": {"name": "sk", **ref}}) for ref in refs]
    assert [answer.name for answer in answers] == ["ReferencesResolved"] * 4
    assert [answer.data["environment"]["version"] for answer in answers] == ["1", "1", "2", "2"]  # type: ignore[index]
    environment = answers[-1].data["environment"]
    assert environment["definition"]["python"]["version"] == "3.11"  # type: ignore[index]
    assert environment["registered"] is False  # type: ignore[index]


async def test_an_inline_definition_is_registered_with_the_answer_only_if_it_is_new(world: World) -> None:
    inline = {"environment": {"name": "mine", "definition": SKLEARN}}
    first, second = await world.ask(inline), await world.ask(inline)
    assert [answer.data["environment"]["registered"] for answer in (first, second)] == [True, False]  # type: ignore[index]
    shown = (await world.client.get("/environments/mine")).json()
    assert (shown["version"], shown["created_by"]) == ("1", "key:somebody")


async def test_without_an_environment_the_default_one_is_registered_and_named(world: World) -> None:
    answer = await world.ask({})
    environment = answer.data["environment"]
    assert (environment["name"], environment["version"]) == ("cloche-default", "1")  # type: ignore[index]
    assert environment["registered"] is True  # type: ignore[index]


async def test_builds_are_answered_too(world: World) -> None:
    async with world.bus.tail([TOPICS["answers"]]) as answers:
        await world.happens("buildrequest/default/b1", BuildSubmitted(references=References()))
        [delivery] = await answers.fetch()
    assert delivery.event is not None
    assert (delivery.event.subject, delivery.event.name) == ("buildrequest/default/b1", "ReferencesResolved")


@pytest.mark.parametrize(
    ("references", "code"),
    [
        ({"environment": {"name": "nope"}}, "environment_not_found"),
        ({"environment": {"name": "sk", "version": "9"}}, "environment_version_not_found"),
        ({"environment": {"name": "sk", "label": "nope"}}, "label_not_found"),
        ({"environment": {"name": "gone"}}, "environment_deleted"),
        ({"environment": {"name": "gone", "definition": {}}}, "environment_deleted"),
        ({"environment": {"name": "x", "definition": {"python": {"pip": ["-r x"]}}}}, "requirement_option"),
        ({"models": [{"name": "nope"}]}, "model_not_found"),
        ({"models": [{"name": "m", "version": "2"}]}, "model_version_not_found"),
    ],
)
async def test_what_does_not_exist_is_refused_once(world: World, references: dict[str, Any], code: str) -> None:
    await world.register("sk", SKLEARN)
    await world.register("gone")
    await world.client.delete("/environments/gone")
    await world.post("/models", {"name": "m", "manifest": await world.upload(("a", b"1"))})
    answer = await world.ask(references)
    assert answer.name == "ReferencesRefused"
    assert answer.data["problem"]["code"] == code  # type: ignore[index]


async def test_models_are_resolved_to_their_files(world: World) -> None:
    manifest = await world.upload(("model.pkl", b"one"))
    await world.post("/models", {"name": "m", "manifest": manifest})
    answer = await world.ask({"models": [{"name": "m"}]})
    assert answer.data["models"] == [{"name": "m", "version": "1", "manifest": manifest}]


# --- documents and events


async def test_every_route_is_documented(world: World) -> None:
    document = orjson.loads(openapi_document(world.app.api))
    for path, operations in document["paths"].items():
        for method, operation in operations.items():
            assert "422" in operation["responses"], (method, path)
    body = document["paths"]["/api/v1/environments"]["post"]["requestBody"]["content"]["application/json"]
    assert body["schema"] == {"$ref": "#/components/schemas/RegisterEnvironment"}


async def test_what_happens_can_be_followed(world: World) -> None:
    await world.register("sk", SKLEARN)
    async with world.bus.tail(["cloche.environments"], from_start=True) as tail:
        [delivery] = await tail.fetch()
    assert delivery.event is not None
    assert (delivery.event.name, delivery.event.subject) == ("EnvironmentRegistered", "environment/default/sk")


# --- keys and audit


async def test_the_first_key_is_issued_once(world: World) -> None:
    await world.registry.ensure_bootstrap_key(TOKEN)
    kept = [key for key in world.store.documents if key.startswith("access/")]
    assert kept == ["access/default/keys/000000000001"]
    other = AccessTable(PEPPER, SystemClock())
    assert other.authenticate(TOKEN) is None
    assert world.access.authenticate(TOKEN) is not None
    assert TOKEN.split("_", 2)[2].encode() not in b"".join(doc.body for doc in world.store.documents.values())


async def test_each_mutation_says_who_did_it_and_from_where(world: World) -> None:
    await world.register("sk", SKLEARN, **{"x-request-id": "req-1"})
    body = orjson.loads(world.store.documents["environment/default/sk/000000000001"].body)
    assert body["actor"] == ["key:abcdef0123456789", "127.0.0.1", "req-1"]
    assert body["facts"][0]["data"]["created_by"] == "key:abcdef0123456789"
