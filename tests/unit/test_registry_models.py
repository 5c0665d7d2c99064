"""Models: from files that were sent, and from what runs left behind."""

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import httpx2
import pytest

from cloche_shared.contracts.facts import (
    RunFailed,
    RunStarted,
)
from cloche_shared.contracts.files import FileEntry, Manifest
from cloche_shared.store.hashing import manifest_bytes
from tests.unit.registry_world import DIGEST, World, digest_of, listed, started


@pytest.fixture(params=[False, True], ids=["shared", "exclusive"])
async def world(request: pytest.FixtureRequest) -> AsyncIterator[World]:
    async with started(exclusive=request.param) as made:
        yield made


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
    assert (await world.post("/projects", {"name": "other"})).status_code == 201
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


@pytest.mark.looptime
async def test_a_model_waits_for_the_run_that_its_caller_has_seen() -> None:
    loop = asyncio.get_running_loop()
    async with started(delay=2.0) as made:
        await made.run_ends("r1", {"outputs/a": b"1"})
        began = loop.time()
        assert (await from_run(made, "r1", "outputs/a")).status_code == 201
        assert loop.time() - began == pytest.approx(2, abs=0.2)
        late = await from_run(made, "r2", "outputs/a")
        assert (late.status_code, late.json()["code"], late.headers["retry-after"]) == (503, "not_caught_up", "1")
