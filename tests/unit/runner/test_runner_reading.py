"""What callers can look at: why, log, metrics, outputs."""

import asyncio

import pytest

from cloche_shared.adapters.memory_executor import Life
from tests.unit.runner_world import (
    Client,
    Cluster,
    sleeping,
)

pytestmark = pytest.mark.looptime


# --- why, log, metrics, outputs


async def test_why_says_what_a_run_waits_for(client: Client, cluster: Cluster) -> None:
    cluster.programs["a.py"] = sleeping(1000)
    never = await client.submit(resources={"gpus": 3})
    await client.until(never, "Queued")
    assert (await client.get(f"/runs/{never}/why"))["reason"] == "The run asks for 3 GPUs; the largest node has 1."
    running = await client.submit("a.py", resources={"cpus": 2.0})
    await client.until(running, "Running")
    waiting = await client.submit("a.py")
    await client.until(waiting, "Queued")
    assert (await client.get(f"/runs/{waiting}/why"))["reason"] == "The run waits for 1 CPUs: 0 free."
    assert "is running on the node n1" in (await client.get(f"/runs/{running}/why"))["reason"]


async def test_a_log_can_be_followed_from_the_beginning_and_resumed(client: Client, cluster: Cluster) -> None:
    cluster.programs["a.py"] = sleeping(5)
    run_id = await client.submit("a.py")
    stream = client.http.stream("GET", f"/runs/{run_id}/log?follow=true")
    async with stream as answer:
        text = (await answer.aread()).decode()
    assert "data: begun" in text
    assert "data: done" in text
    assert 'event: end\ndata: {"status":"Completed","log_bytes":11,"exit_code":0}' in text
    resumed = await client.http.get(
        f"/runs/{run_id}/log", headers={"accept": "text/event-stream", "last-event-id": "6"}
    )
    assert "begun" not in resumed.text
    assert "id: 11\ndata: done" in resumed.text
    assert (await client.http.get(f"/runs/{run_id}/log?offset=6")).text == "done\n"
    assert (await client.http.get(f"/runs/{run_id}/log?tail=1")).text == "done\n"


async def test_metrics_outputs_and_uploads_are_kept(client: Client, cluster: Cluster) -> None:
    async def program(life: Life) -> int:
        life.begin()
        disk, name = cluster.disks["n1"], life.spec.id
        disk.log(name, v=1, op="log", name="loss", value=1.0)
        await asyncio.sleep(3)
        disk.log(name, v=1, op="log", name="loss", value="NaN")
        disk.log(name, v=1, op="log_list", name="long", value=[0.5] * 20_000)
        disk.log(name, v=1, op="tag", name="stage", value="late")
        disk.log(name, v=1, op="property", name="seed", value="7")
        disk.journals[name] += b'not json\n{"op": 3}\n{"op": "log"}\n'
        disk.write(name, "outputs/model.pkl", b"m")
        disk.write(name, "logs/a.txt", b"l")
        disk.write(name, "train.log", b"not kept")
        disk.upload(name, "outputs/extra.bin", b"e")
        return 0

    cluster.programs["a.py"] = program
    shown = await client.ended(await client.submit("a.py"))
    path = f"/runs/{shown['id']}"
    found = await client.get(f"{path}/metrics")
    assert found["metrics"]["loss"] == [1.0, "NaN"]
    assert len(found["metrics"]["long"]) == 20_000
    assert (found["tags"], found["properties"]) == ({"stage": "late"}, {"seed": "7"})
    listed = await client.get(f"{path}/outputs")
    assert [file["path"] for file in listed["files"]] == ["logs/a.txt", "outputs/extra.bin", "outputs/model.pkl"]
    file = await client.http.get(f"{path}/outputs/outputs/model.pkl")
    assert (file.content, file.headers["content-disposition"]) == (b"m", "attachment; filename*=UTF-8''model.pkl")
    missing = await client.http.get(f"{path}/outputs/outputs/none")
    assert (missing.status_code, missing.json()["code"]) == (404, "output_not_found")
    assert max(len(document.body) for document in cluster.store.documents.values()) < 64 * 1024


async def test_a_caller_may_wait_for_the_end(client: Client, cluster: Cluster) -> None:
    cluster.programs["a.py"] = sleeping(5)
    body = {"script": "a.py", "snapshot": await client.snapshot("a.py")}
    answer = await client.post("/runs", body, Prefer="wait=2")
    assert (answer.status_code, answer.json()["status"]) == (202, "Running")
    answer = await client.post("/runs", body, Prefer="wait=20")
    assert (answer.status_code, answer.json()["status"]) == (200, "Completed")
