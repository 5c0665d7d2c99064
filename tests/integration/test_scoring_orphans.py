"""Scoring workers whose front is gone: they end, or the next owner takes them over."""

import asyncio
import os
import signal
import sys
import tempfile
from pathlib import Path

import pytest

from cloche_deployer.adapters.scoring_alone import ChildWorkers, Launch, _Child
from cloche_deployer.adapters.scoring_links import UnixConnector
from cloche_deployer.scoring.pool import PoolSettings, WorkerPool

ECHO = "def init():\n    pass\ndef run(data):\n    return data\n"


async def test_workers_end_by_themselves_when_no_front_is_connected(tmp_path: Path) -> None:
    (tmp_path / "score.py").write_text(ECHO)
    with tempfile.TemporaryDirectory(prefix="cs-", dir="/tmp") as folder:
        env = {**os.environ, "CLOCHE_SCORING_ORPHAN_SECONDS": "0.5"}
        workers = ChildWorkers(Launch(sys.executable, tmp_path, "score.py", Path(folder), env))
        process = await workers.start()
        async with asyncio.timeout(10):
            end = await process.ended()
    assert end.detail == "exit code 0"


async def test_living_workers_are_adopted_by_the_next_owner(tmp_path: Path) -> None:
    (tmp_path / "score.py").write_text(ECHO)

    class Left(ChildWorkers):
        """Remembers what it started, as a supervisor does."""

        started: list[_Child] = []  # noqa: RUF012  one per test

        async def start(self) -> _Child:
            self.started.append(await super().start())
            return self.started[-1]

        async def adopt(self) -> list[_Child]:
            return list(self.started)

    with tempfile.TemporaryDirectory(prefix="cs-", dir="/tmp") as folder:
        workers = Left(Launch(sys.executable, tmp_path, "score.py", Path(folder), dict(os.environ)))
        first = WorkerPool(workers, UnixConnector(), PoolSettings())
        await first.start()
        await first.ready()
        pid = int(str(first.hello["pid"]))
        await first.detach()
        second = WorkerPool(workers, UnixConnector(), PoolSettings())
        await second.start()
        await second.ready()
        assert second.hello["pid"] == pid
        await second.stop()
        with pytest.raises(ProcessLookupError):
            os.kill(pid, signal.SIG_DFL)
