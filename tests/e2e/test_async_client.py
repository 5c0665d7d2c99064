"""The async client: the same job as with the other one, and many at once."""

import asyncio
import gc
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from cloche import AsyncClient, ClocheError
from tests.e2e.steps import SCORE, Names, Scripts
from tests.e2e.topology import PATIENCE, SMALL, Topology

TRAIN = """
from pathlib import Path
from cloche.core import Run
Run.get_context().log("score", 0.5)
Path("outputs").mkdir(exist_ok=True)
Path("outputs/model.txt").write_text("weights")
print("trained")
"""


@pytest.fixture
async def aio(topology: Topology) -> AsyncIterator[AsyncClient]:
    async with topology.async_client() as found:
        yield found


async def test_the_main_job_with_the_async_client(
    aio: AsyncClient, unique: Names, script: Scripts, tmp_path: Path
) -> None:
    env, model, name = unique("env"), unique("model"), unique("svc")
    assert (await aio.environments.register(env, variables={"GREETING": "async"})).version == "1"
    run = await aio.runs.submit(script(TRAIN), environment=env, **SMALL)
    log = b"".join([piece async for piece in run.log()])
    ended = await run.wait(PATIENCE)
    assert (ended.status, log) == ("Completed", b"trained\n")
    assert (await aio.runs.metrics(run.id))["metrics"]["score"] == 0.5
    got = await aio.runs.download(run.id, "outputs/model.txt", tmp_path / "model.txt")
    assert got.read_text() == "weights"
    made = await aio.models.register(model, from_run=run.id, path="outputs/model.txt")
    assert made.run_id == run.id
    await aio.services.deploy(name, script(SCORE, "score.py"), model=model, environment=env, **SMALL)
    service = await aio.services.wait(name, timeout=PATIENCE)
    assert service.status == "Healthy"
    assert await service.score([1, 2]) == {"greeting": "async", "got": [1, 2]}
    assert (await service.keys()).primary != (await service.keys()).secondary
    await service.delete()
    with pytest.raises(ClocheError) as caught:
        await aio.services.get(name)
    assert caught.value.code == "service_not_found"


async def test_many_runs_at_once_are_watched_together(aio: AsyncClient, script: Scripts) -> None:
    code = script("import sys; print('number', sys.argv[1])")

    async def one(number: int) -> str:
        run = await aio.runs.submit(code, arguments=[number], **SMALL)
        return b"".join([piece async for piece in run.log()]).decode()

    found = await asyncio.gather(*(one(number) for number in range(8)))
    assert found == [f"number {number}\n" for number in range(8)]


async def test_events_are_followed_while_they_happen(aio: AsyncClient, unique: Names, script: Scripts) -> None:
    run = await aio.runs.submit(script("import time; time.sleep(0.3)"), **SMALL)
    names = []
    async with asyncio.timeout(PATIENCE):
        async for event in aio.events(from_start=True, subject=f"run/default/{run.id}"):
            names.append(event.name)
            if event.name == "RunCompleted":
                break
    assert {"RunSubmitted", "RunStarted"} <= set(names)


async def test_a_stream_may_be_left_at_any_time(
    aio: AsyncClient, script: Scripts, caplog: pytest.LogCaptureFixture
) -> None:
    run = await aio.runs.submit(script("import time; print('one', flush=True); time.sleep(600)"), grace=0, **SMALL)
    async for piece in run.log():
        assert piece == b"one\n"
        break
    gc.collect()
    await run.cancel()
    assert (await run.wait(PATIENCE)).status == "Canceled"
    assert caplog.records == []


async def test_a_wait_that_is_too_short_raises_a_timeout(aio: AsyncClient, script: Scripts) -> None:
    run = await aio.runs.submit(script("import time; time.sleep(600)"), grace=0, **SMALL)
    with pytest.raises(TimeoutError):
        await run.wait(0.2)
    await run.cancel()
    assert (await run.wait(PATIENCE)).status == "Canceled"
