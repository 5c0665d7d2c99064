"""A pool of worker processes that unpack and compile, one per core."""

import asyncio
import os
from collections.abc import Mapping
from pathlib import Path

import orjson

from cloche_shared.adapters.interpreters import clean_environment
from cloche_shared.blobs.errors import disk_error
from cloche_shared.errors import ClocheError, Failed

IDLE_SECONDS = 2.0
"""A worker that nobody needs for so long is ended."""

_LINE_LIMIT = 64 << 20
_WORKER = Path(__file__).with_name("worker.py")

Made = tuple[str, int, int, int, int]
"""Path, inode, size, mtime_ns and mode of a file that was made."""


class _Worker:
    def __init__(self, process: asyncio.subprocess.Process) -> None:
        self._process = process

    @classmethod
    async def start(cls, python: str) -> "_Worker":
        process = await asyncio.create_subprocess_exec(
            python,
            *("-I", "-S", "-B", str(_WORKER)),
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.DEVNULL,
            env=clean_environment(),
            limit=_LINE_LIMIT,
        )
        return cls(process)

    async def ask(self, job: Mapping[str, object]) -> dict[str, object]:
        stdin, stdout = self._process.stdin, self._process.stdout
        if stdin is None or stdout is None:
            raise RuntimeError("the worker was started without pipes")
        stdin.write(orjson.dumps(job) + b"\n")
        await stdin.drain()
        line = await stdout.readline()
        if not line:
            raise BrokenPipeError
        answer: dict[str, object] = orjson.loads(line)
        return answer

    async def close(self) -> None:
        if self._process.returncode is None:
            self._process.kill()
        await self._process.wait()


class WorkerPool:
    """At most `size` workers at a time, over all interpreters."""

    def __init__(self, size: int | None = None) -> None:
        self._slots = asyncio.Semaphore(size or os.cpu_count() or 1)
        self._idle: dict[str, list[_Worker]] = {}
        self._reaper: asyncio.Task[None] | None = None
        self._busy = 0

    async def run(self, python: str, job: Mapping[str, object]) -> list[Made]:
        """Do one job. Raises `Failed` (code `invalid_wheel`, `disk_full`)."""
        async with self._slots:
            self._busy += 1
            idle = self._idle.setdefault(python, [])
            worker = idle.pop() if idle else await _Worker.start(python)
            try:
                answer = await worker.ask(job)
            except BaseException as error:
                await asyncio.shield(worker.close())
                if isinstance(error, OSError):
                    raise Failed("worker_lost", "A process that unpacks wheels ended.", todo="Try again.") from error
                raise
            finally:
                self._busy -= 1
            idle.append(worker)
            self._watch()
        return _made(answer)

    def _watch(self) -> None:
        if self._reaper is None or self._reaper.done():
            self._reaper = asyncio.create_task(self._reap(), name="node-files-reaper")

    async def _reap(self) -> None:
        while True:
            await asyncio.sleep(IDLE_SECONDS)
            if not self._busy:
                break
        await self._close_idle()

    async def _close_idle(self) -> None:
        workers = [worker for idle in self._idle.values() for worker in idle]
        self._idle.clear()
        await asyncio.gather(*(worker.close() for worker in workers))

    async def close(self) -> None:
        """End all workers that are idle; those at work end with their job's cancellation."""
        if self._reaper is not None:
            self._reaper.cancel()
        await self._close_idle()


def _made(answer: dict[str, object]) -> list[Made]:
    files = answer.get("files")
    if isinstance(files, list):
        return [tuple(item) for item in files]
    raise _error(answer)


def _error(answer: dict[str, object]) -> ClocheError:
    if answer.get("error") == "os":
        errno = answer.get("errno")
        error = disk_error(OSError(errno if isinstance(errno, int) else 5, str(answer.get("why"))))
        return Failed(error.code, error.what, why=error.why, todo=error.todo)
    return invalid_wheel(str(answer.get("why")))


def invalid_wheel(why: str, *, code: str = "invalid_wheel") -> Failed:
    return Failed(
        code,
        "The wheel cannot be installed.",
        why=why,
        todo="Use another version of the package; this file breaks the wheel format or is damaged.",
    )
