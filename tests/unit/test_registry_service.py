"""The registry as its clients and the other services meet it, on ports in memory."""

import asyncio
import hashlib
from collections.abc import AsyncIterator, Mapping
from typing import Any

import httpx2
import orjson
import pytest

from cloche_registry.settings import RegistrySettings
from cloche_registry.wiring import build
from cloche_shared.access import AccessTable
from cloche_shared.adapters.http_client import HttpClient
from cloche_shared.adapters.memory_blobs import MemoryBlobStore
from cloche_shared.adapters.memory_bus import MemoryBroker, MemoryBus
from cloche_shared.adapters.memory_journal import MemoryJournal, MemoryStore
from cloche_shared.adapters.memory_leases import MemoryLeases
from cloche_shared.adapters.memory_views import MemoryViews
from cloche_shared.adapters.system_clock import SystemClock
from cloche_shared.adapters.system_random import SystemRandom
from cloche_shared.contracts.definition import Definition
from cloche_shared.contracts.envelope import Event
from cloche_shared.contracts.fact import Fact, fact_type
from cloche_shared.contracts.facts import (
    TOPICS,
    BuildSubmitted,
    RunCompleted,
    RunFailed,
    RunStarted,
    RunSubmitted,
)
from cloche_shared.contracts.files import FileEntry, Manifest
from cloche_shared.contracts.references import References, ResolvedEnvironment
from cloche_shared.contracts.runs import Ended, RunSpec
from cloche_shared.http.app import AppParts, create_app, openapi_document
from cloche_shared.http.files import FILE_RULES
from cloche_shared.http.front import FrontParts
from cloche_shared.http.health import Version
from cloche_shared.http.policy import FrontPolicy
from cloche_shared.lifecycle import Lifecycle
from cloche_shared.service import Platform
from cloche_shared.store.hashing import manifest_bytes

PEPPER = b"p" * 32
TOKEN = "cloche_abcdef0123456789_0123456789abcdefghijklmnopqrstuv"
DIGEST = "sha256:" + "a" * 64
SPEC = RunSpec(script="train.py", snapshot=DIGEST)
SKLEARN = {"python": {"version": "3.11", "pip": ["scikit-learn==1.5.2"]}}


class World:
    """A registry, a broker that outlives it, and a client."""

    def __init__(self, *, atomic: bool = True, exclusive: bool = False, delay: float = 0.0) -> None:
        clock, random = SystemClock(), SystemRandom()
        self.broker = MemoryBroker()
        self.bus = MemoryBus(self.broker, delay=delay)
        self.blobs = MemoryBlobStore()
        self.store = MemoryStore()
        self.access = AccessTable(PEPPER, clock)
        self.platform = Platform(
            journal=MemoryJournal(self.store, atomic=atomic),
            views=MemoryViews(),
            leases=MemoryLeases(),
            bus=self.bus,
            blobs=self.blobs,
            clock=clock,
            random=random,
            http=HttpClient(),
            access=self.access,
            installation="here",
            exclusive=exclusive,
        )
        self.registry = build(self.platform, RegistrySettings(default_python="3.11", platform="linux-x86_64"), PEPPER)
        policy = FrontPolicy(hosts=frozenset({"cloche.test"}), routes=FILE_RULES)
        front = FrontParts(access=self.access, clock=clock, random=random, policy=policy)
        version = Version(name="cloche", version="0", installation="here")
        self.app = create_app([self.registry.surface.router], AppParts(version=version, front=front))
        self.client = httpx2.AsyncClient(
            transport=httpx2.ASGITransport(app=self.app),
            base_url="http://cloche.test/api/v1",
            headers={"authorization": f"Bearer {TOKEN}"},
        )
        self.asked = 0

    async def post(self, path: str, body: object, **headers: str) -> httpx2.Response:
        return await self.client.post(path, json=body, headers=headers)

    async def register(self, name: str, definition: object = None, **headers: str) -> dict[str, Any]:
        answer = await self.post("/environments", {"name": name, "definition": definition or {}}, **headers)
        assert answer.status_code in {200, 201}, answer.text
        return {**answer.json(), "status": answer.status_code}

    async def happens(self, subject: str, fact: Fact, sequence: int = 1, project: str = "default") -> Event:
        """Publish a fact of another service."""
        event = Event(
            id=f"{subject}/{sequence:012d}#0",
            type=fact_type(type(fact)),
            source="/cloche/runner",
            subject=subject,
            sequence=sequence,
            project=project,
            time="2026-01-01T00:00:00Z",
            correlation="chain",
            data=orjson.loads(fact.model_dump_json()),
            topic=TOPICS[subject.partition("/")[0]],
            key=subject,
            actor="key:somebody",
        )
        await self.bus.publish([event])
        return event

    async def ask(self, references: Mapping[str, object]) -> Event:
        """Submit a run with these references; return the one answer."""
        self.asked += 1
        subject = f"run/default/r{self.asked}"
        fact = RunSubmitted(spec=SPEC, references=References.model_validate_json(orjson.dumps(references)))
        async with self.bus.tail([TOPICS["answers"]]) as answers:
            await self.happens(subject, fact)
            await self.happens(subject, fact)
            [delivery] = await answers.fetch()
        assert delivery.event is not None
        assert delivery.event.subject == subject
        assert delivery.event.causation == f"{subject}/000000000001#0"
        return delivery.event

    async def upload(self, *contents: tuple[str, bytes]) -> str:
        """Send files and their manifest to the registry."""
        entries = []
        for path, content in contents:
            digest = digest_of(content)
            answer = await self.client.put(f"/files/models/{digest}", content=content)
            assert answer.status_code in {200, 201}
            entries.append(FileEntry(path=path, digest=digest, size=len(content)))
        raw = manifest_bytes(Manifest(files=tuple(entries)))
        assert (await self.client.put(f"/files/models/{digest_of(raw)}", content=raw)).status_code in {200, 201}
        return digest_of(raw)

    async def run_ends(self, run_id: str, files: Mapping[str, bytes], project: str = "default") -> None:
        """Let a run end whose outputs are these files."""
        space = self.blobs.space("runner", project)
        entries = [
            FileEntry(path=path, digest=(await space.put_bytes(content)).digest, size=len(content))
            for path, content in files.items()
        ]
        outputs = (await space.put_bytes(manifest_bytes(Manifest(files=tuple(entries))))).digest
        environment = ResolvedEnvironment(
            name="sk", version="2", definition_hash="e1:" + "0" * 64, definition=Definition()
        )
        fact = RunCompleted(outputs=outputs, ended=Ended(ending="exited", code=0), environment=environment)
        await self.happens(f"run/{project}/{run_id}", RunStarted(attempt=1, fence=2), 6, project)
        await self.happens(f"run/{project}/{run_id}", fact, 7, project)


def digest_of(content: bytes) -> str:
    return "sha256:" + hashlib.sha256(content).hexdigest()


@pytest.fixture(params=[False, True], ids=["shared", "exclusive"])
async def world(request: pytest.FixtureRequest) -> AsyncIterator[World]:
    made = World(atomic=request.param, exclusive=request.param)
    await made.registry.ensure_bootstrap_key(TOKEN)
    async with Lifecycle() as life, made.client:
        await made.registry.start(life)
        yield made
        life.stop()


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
        ({"name": "../a", "definition": {}}, "invalid_field", "/name"),
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


async def listed(world: World, path: str, position: str) -> list[str]:
    answer = await world.client.get(path, headers={"cloche-position": position})
    assert answer.status_code == 200
    return [item["name"] for item in answer.json()["items"]]


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


# --- models


async def test_a_model_from_files_keeps_tags_and_serves_its_files(world: World) -> None:
    manifest = await world.upload(("a/model.pkl", b"one"), ("b.txt", b"two"))
    body = {"name": "m", "manifest": manifest, "tags": {"k": "v"}, "description": "d"}
    made = await world.post("/models", body)
    assert (made.status_code, made.json()["version"], made.json()["size"]) == (201, "1", 6)
    assert (await world.post("/models", body)).json()["version"] == "2"
    shown = (await world.client.get("/models/m?version=1")).json()
    assert [file["path"] for file in shown["files"]] == ["a/model.pkl", "b.txt"]
    assert (shown["tags"], shown["description"], shown["latest"]) == ({"k": "v"}, "d", False)
    file = await world.client.get("/models/m/files/a/model.pkl?version=1")
    assert (file.content, file.headers["content-type"]) == (b"one", "application/octet-stream")
    assert file.headers["x-content-type-options"] == "nosniff"
    assert file.headers["content-disposition"].startswith("attachment")


async def test_a_model_whose_files_were_not_sent_is_refused(world: World) -> None:
    absent = digest_of(b"absent")
    raw = manifest_bytes(Manifest(files=(FileEntry(path="a", digest=absent, size=6),)))
    await world.client.put(f"/files/models/{digest_of(raw)}", content=raw)
    for manifest, missing in ((digest_of(raw), absent), (DIGEST, DIGEST)):
        answer = await world.post("/models", {"name": "m", "manifest": manifest})
        assert (answer.status_code, answer.json()["code"]) == (422, "files_missing")
        assert answer.json()["missing"] == [missing]


async def test_a_manifest_that_could_leave_its_folder_is_refused(world: World) -> None:
    raw = b'{"files":[{"path":"../a","digest":"%s","size":1}]}' % digest_of(b"1").encode()
    await world.client.put(f"/files/models/{digest_of(b'1')}", content=b"1")
    await world.client.put(f"/files/models/{digest_of(raw)}", content=raw)
    answer = await world.post("/models", {"name": "m", "manifest": digest_of(raw)})
    assert (answer.status_code, answer.json()["code"]) == (422, "unsafe_path")
    await world.client.put(f"/files/models/{digest_of(b'no json')}", content=b"no json")
    answer = await world.post("/models", {"name": "m", "manifest": digest_of(b"no json")})
    assert (answer.status_code, answer.json()["code"]) == (422, "invalid_manifest")


async def from_run(world: World, run_id: str, path: str) -> httpx2.Response:
    body = {"name": "m", "from_run": {"run_id": run_id, "path": path}}
    return await world.post("/models", body, **{"cloche-position": f"here:run/default/{run_id}@7"})


async def test_a_file_of_a_run_becomes_a_model_with_its_lineage(world: World) -> None:
    await world.run_ends("r1", {"outputs/model.pkl": b"one", "outputs/log.txt": b"two", "logs/a": b"3"})
    made = (await from_run(world, "r1", "outputs/model.pkl")).json()
    assert (made["run_id"], made["environment_name"], made["environment_version"]) == ("r1", "sk", "2")
    shown = (await world.client.get("/models/m")).json()
    assert [file["path"] for file in shown["files"]] == ["model.pkl"]
    await world.blobs.space("runner", "default").delete(digest_of(b"one"))
    assert (await world.client.get("/models/m/files/model.pkl")).content == b"one"


async def test_a_folder_of_a_run_becomes_a_tree_below_it(world: World) -> None:
    await world.run_ends("r1", {"outputs/m/a": b"1", "outputs/m/b/c": b"2", "outputs/mx": b"3"})
    assert (await from_run(world, "r1", "outputs/m/")).status_code == 201
    shown = (await world.client.get("/models/m")).json()
    assert [file["path"] for file in shown["files"]] == ["a", "b/c"]


async def test_a_path_that_a_run_does_not_have_is_answered_with_what_it_has(world: World) -> None:
    await world.run_ends("r1", {f"outputs/{number:03}": b"1" for number in range(60)})
    answer = await from_run(world, "r1", "outputs/model.pkl")
    problem = answer.json()
    assert (answer.status_code, problem["code"], problem["count"]) == (404, "model_path_not_found", 60)
    assert problem["paths"] == [f"outputs/{number:03}" for number in range(50)]


async def test_a_run_that_is_unknown_or_not_finished_has_no_model(world: World) -> None:
    body = {"name": "m", "from_run": {"run_id": "r9", "path": "a"}}
    unknown = await world.post("/models", body)
    assert (unknown.status_code, unknown.json()["code"]) == (404, "run_not_found")
    await world.happens("run/default/r9", RunStarted(attempt=1, fence=2), 6)
    running = await world.post("/models", body, **{"cloche-position": "here:run/default/r9@6"})
    assert (running.status_code, running.json()["code"]) == (409, "run_not_finished")


async def test_a_failed_run_without_outputs_has_no_files(world: World) -> None:
    problem = {"code": "script_failed", "message": "It failed."}
    await world.happens("run/default/r1", RunFailed.model_validate({"problem": problem}), 7)
    answer = await from_run(world, "r1", "outputs")
    assert (answer.status_code, answer.json()["code"]) == (404, "model_path_not_found")


async def test_a_run_of_another_project_is_unknown(world: World) -> None:
    await world.run_ends("r1", {"outputs/a": b"1"}, project="other")
    body = {"name": "m", "from_run": {"run_id": "r1", "path": "outputs/a"}}
    answer = await world.post("/models", body, **{"cloche-position": "here:run/other/r1@7"})
    assert answer.json()["code"] == "run_not_found"
    answer = await world.post("/models", body, **{"cloche-project": "other"})
    assert answer.status_code == 201


@pytest.mark.parametrize("extra", [{}, {"manifest": DIGEST, "from_run": {"run_id": "a", "path": "b"}}])
async def test_a_model_has_one_source(world: World, extra: dict[str, Any]) -> None:
    answer = await world.post("/models", {"name": "m", **extra})
    assert (answer.status_code, answer.json()["code"]) == (422, "model_source")


async def test_a_deleted_model_is_gone_from_lists_and_refused(world: World) -> None:
    manifest = await world.upload(("a", b"1"))
    made = await world.post("/models", {"name": "m", "manifest": manifest})
    assert await listed(world, "/models", made.headers["cloche-position"]) == ["m"]
    gone = await world.client.delete("/models/m")
    assert await listed(world, "/models", gone.headers["cloche-position"]) == []
    assert (await world.client.get("/models/m")).json()["code"] == "model_deleted"
    again = await world.post("/models", {"name": "m", "manifest": manifest})
    assert (again.status_code, again.json()["code"]) == (409, "model_deleted")


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


@pytest.mark.looptime
async def test_a_model_waits_for_the_run_that_its_caller_has_seen() -> None:
    made = World(delay=2.0)
    await made.registry.ensure_bootstrap_key(TOKEN)
    loop = asyncio.get_running_loop()
    async with Lifecycle() as life, made.client:
        await made.registry.start(life)
        await made.run_ends("r1", {"outputs/a": b"1"})
        began = loop.time()
        assert (await from_run(made, "r1", "outputs/a")).status_code == 201
        assert loop.time() - began == pytest.approx(2, abs=0.2)
        late = await from_run(made, "r2", "outputs/a")
        assert (late.status_code, late.json()["code"], late.headers["retry-after"]) == (503, "not_caught_up", "1")
        life.stop()


# --- keys and audit


async def test_the_first_key_is_issued_once(world: World) -> None:
    await world.registry.ensure_bootstrap_key(TOKEN)
    kept = [key for key in world.store.documents if key.startswith("access/")]
    assert kept == ["access/default/keys/000000000001"]
    other = AccessTable(PEPPER, SystemClock())
    assert other.authenticate(TOKEN) is None
    assert world.access.authenticate(TOKEN) is not None
    assert TOKEN.rpartition("_")[2].encode() not in b"".join(doc.body for doc in world.store.documents.values())


async def test_each_mutation_says_who_did_it_and_from_where(world: World) -> None:
    await world.register("sk", SKLEARN, **{"x-request-id": "req-1"})
    body = orjson.loads(world.store.documents["environment/default/sk/000000000001"].body)
    assert body["actor"] == ["key:abcdef0123456789", "127.0.0.1", "req-1"]
    assert body["facts"][0]["data"]["created_by"] == "key:abcdef0123456789"
