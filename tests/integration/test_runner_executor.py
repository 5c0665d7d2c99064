"""The runner's node with its executor in a container of its own: what a restart of either means for a run."""

import asyncio
from collections.abc import Iterator
from pathlib import Path

import pytest

from cloche_shared.adapters.socket_executor import SocketExecutor
from tests.integration.executor_processes import Executors, needs_root
from tests.integration.test_runner_node import Installation


class Apart(Installation):
    """An installation whose processes another container holds."""

    def executor(self) -> SocketExecutor:
        return SocketExecutor(self.home / "executor.sock", "runner", patience=20.0)


@pytest.fixture
def executors(tmp_path: Path) -> Iterator[Executors]:
    found = Executors(tmp_path, before=["unshare", "--pid", "--fork", "--mount-proc", "--kill-child"])
    found.start()
    yield found
    found.close()


@needs_root
async def test_a_run_whose_executor_dies_is_tried_again_and_keeps_both_logs(
    executors: Executors, tmp_path: Path
) -> None:
    mark = tmp_path / "mark"
    source = (
        f"import os, time; again = os.path.exists({str(mark)!r}); open({str(mark)!r}, 'w').close();"
        "print('second' if again else 'first', flush=True); time.sleep(0 if again else 60)"
    )
    async with Apart(tmp_path).up() as client:
        run_id = await client.submit(source)
        await client.until_log(run_id, "first")
        await asyncio.to_thread(executors.kill)
        await asyncio.sleep(0.3)
        await asyncio.to_thread(executors.start)
        run = await client.ended(run_id)
        assert (run.phase, run.attempt, run.losses) == ("completed", 2, 1)
        log = await client.log(run_id)
        assert log.index("first") < log.index("second")
        await asyncio.sleep(0.2)
    assert not any((executors.root / "runner").glob("run-*"))


@needs_root
async def test_a_run_goes_on_while_its_service_is_restarted(executors: Executors, tmp_path: Path) -> None:
    installation = Apart(tmp_path)
    source = "import time\nfor n in range(20):\n    print(n, flush=True); time.sleep(0.1)"
    async with installation.up() as client:
        run_id = await client.submit(source)
        await client.until_log(run_id, "1\n")
    async with installation.up() as client:
        run = await client.ended(run_id)
        assert (run.phase, run.attempt) == ("completed", 1)
        assert (await client.log(run_id)).split() == [str(n) for n in range(20)]


@needs_root
async def test_a_cancel_while_the_executor_is_away_ends_the_run(executors: Executors, tmp_path: Path) -> None:
    async with Apart(tmp_path).up() as client:
        run_id = await client.submit("print('here', flush=True); import time; time.sleep(60)", grace=0.5)
        await client.until_log(run_id, "here")
        await asyncio.to_thread(executors.kill)
        canceling = asyncio.create_task(client.runner.cancel_all())
        await asyncio.sleep(0.2)
        await asyncio.to_thread(executors.start)
        run = await client.ended(run_id)
        assert await canceling == 1
        assert run.phase == "canceled"
