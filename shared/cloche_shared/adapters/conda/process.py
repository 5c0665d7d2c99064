"""The processes in which py-rattler runs: started on use, ended when idle, killed at a deadline."""

import asyncio
import os
import sys
from collections.abc import Mapping
from pathlib import Path

import orjson

from cloche_shared.errors import Failed

IDLE_SECONDS = 20.0
"""A worker that nobody needs for so long is ended; it takes a third of a second to start one."""
LINE_LIMIT = 256 << 20
_WORKER = Path(__file__).with_name("worker.py")
_PASSED_ON = (
    "PATH",
    "LANG",
    "LC_ALL",
    "TMPDIR",
    "SSL_CERT_FILE",
    "SSL_CERT_DIR",
    *(name for pair in ("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "NO_PROXY") for name in (pair, pair.lower())),
)

Answer = dict[str, object]


class CondaWorkers:
    """At most `size` processes that do conda jobs; `root` is their home and cache, never the user's."""

    def __init__(self, root: Path, size: int | None = None) -> None:
        self._root = root.absolute()
        self._slots = asyncio.Semaphore(size or os.cpu_count() or 1)
        self._idle: list[asyncio.subprocess.Process] = []
        self._reaper: asyncio.Task[None] | None = None
        self._busy = 0

    @property
    def scratch(self) -> Path:
        """Where jobs put what they need for a moment."""
        return self._root / "tmp"

    async def ask(self, job: Mapping[str, object], seconds: float) -> Answer:
        """Do one job. Raises `TimeoutError` after so many seconds, `Failed` (`worker_lost`, `conda_not_available`)."""
        async with self._slots:
            self._busy += 1
            process = self._idle.pop() if self._idle else await self._start()
            try:
                async with asyncio.timeout(seconds):
                    answer = await _asked(process, {"scratch": str(self.scratch), **job})
            except BaseException:
                await asyncio.shield(_end(process))
                raise
            finally:
                self._busy -= 1
            self._idle.append(process)
            self._watch()
        return answer

    async def _start(self) -> asyncio.subprocess.Process:
        await asyncio.to_thread(self._root.mkdir, 0o700, parents=True, exist_ok=True)
        kept = {name: os.environ[name] for name in _PASSED_ON if name in os.environ}
        return await asyncio.create_subprocess_exec(
            sys.executable,
            *("-I", "-B", str(_WORKER), str(self._root)),
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.DEVNULL,
            cwd=self._root,
            env={**kept, "HOME": str(self._root), "RATTLER_CACHE_DIR": str(self._root / "cache")},
            limit=LINE_LIMIT,
        )

    def _watch(self) -> None:
        if self._reaper is None or self._reaper.done():
            self._reaper = asyncio.create_task(self._reap(), name="conda-reaper")

    async def _reap(self) -> None:
        while True:
            await asyncio.sleep(IDLE_SECONDS)
            if not self._busy:
                break
        await self._end_idle()

    async def _end_idle(self) -> None:
        idle, self._idle = self._idle, []
        await asyncio.gather(*(_end(process) for process in idle))

    async def close(self) -> None:
        """End the workers that are idle; those at work end with their job's cancellation."""
        if self._reaper is not None:
            self._reaper.cancel()
        await self._end_idle()


async def _asked(process: asyncio.subprocess.Process, job: Mapping[str, object]) -> Answer:
    stdin, stdout = process.stdin, process.stdout
    if stdin is None or stdout is None:
        raise RuntimeError("the worker was started without pipes")
    try:
        stdin.write(orjson.dumps(job) + b"\n")
        await stdin.drain()
        line = await stdout.readline()
    except ConnectionError as error:
        raise _lost() from error
    if not line:
        raise _lost()
    answer: Answer = orjson.loads(line)
    return answer


def _lost() -> Failed:
    return Failed(
        "worker_lost",
        "A process that works on conda packages ended.",
        why="It was ended from outside, or py-rattler is not installed where Cloche is.",
        todo="Try again; if it happens again, install Cloche anew.",
    )


async def _end(process: asyncio.subprocess.Process) -> None:
    if process.returncode is None:
        process.kill()
    await process.wait()
