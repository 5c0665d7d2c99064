"""Metering: what a script logs becomes `RunMeasured` facts, in bounded batches, each byte once."""

import asyncio
from collections.abc import Awaitable, Callable

import orjson

from cloche_runner.domain import run_decisions as decisions
from cloche_runner.handlers import Core, service_origin
from cloche_runner.ports import AttemptFiles
from cloche_shared.journal.commit import StreamId

BATCH_BYTES = 48 * 1024
"""Journal bytes in one fact: events stay below 64 KiB."""
_SHORT = ("v", "t", "op", "name")
LONGEST_LINE = 1024 * 1024 + 1
BATCHES_PER_LOOK = 4


class Meter:
    """Follows the journal of one attempt. `first` is done before anything is recorded."""

    def __init__(
        self,
        core: Core,
        files: AttemptFiles,
        stream: StreamId,
        attempt_id: str,
        fence: int,
        *,
        first: Callable[[], Awaitable[None]],
    ) -> None:
        self._core = core
        self._files = files
        self._stream = stream
        self._attempt_id = attempt_id
        self._fence = fence
        self._first = first

    async def run(self) -> None:
        """Look again and again."""
        while True:
            await asyncio.sleep(self._core.settings.measure_every)
            for _ in range(BATCHES_PER_LOOK):
                if not await self._batch():
                    break

    async def drain(self) -> None:
        """Record the rest; the attempt's processes have ended."""
        while await self._batch():
            pass

    async def _batch(self) -> bool:
        """Record the next lines; false when there are none."""
        run = (await self._core.runs.get(self._stream)).state
        start = run.measures.offset
        if start >= self._core.settings.measure_bytes:
            return False
        data = await self._files.journal(self._attempt_id, start, BATCH_BYTES)
        whole = data.rfind(b"\n") + 1
        if not whole and len(data) == BATCH_BYTES:
            return await self._long_line(start)
        if not whole:
            return False
        await self._record(tuple(_lines(data[:whole])), start, start + whole)
        return True

    async def _long_line(self, start: int) -> bool:
        """Record a line that is too long for a fact: its value goes to a blob."""
        data = await self._files.journal(self._attempt_id, start, LONGEST_LINE)
        size = data.find(b"\n") + 1
        if not size and len(data) < LONGEST_LINE:
            return False
        lines: tuple[dict[str, object], ...] = ()
        for line in _lines(data[:size]):
            blob = await self._core.space(self._stream.project).put_bytes(orjson.dumps(line))
            short: dict[str, object] = {key: line[key] for key in _SHORT if key in line}
            lines = ({**short, "blob": blob.digest},)
        await self._record(lines, start, start + (size or len(data)))
        return True

    async def _record(self, lines: tuple[dict[str, object], ...], start: int, end: int) -> None:
        await self._first()
        await self._core.change_run(
            self._stream,
            service_origin(self._stream.id),
            lambda run: decisions.decide_measured(run, self._fence, lines, start, end),
        )


def _lines(data: bytes) -> list[dict[str, object]]:
    """Return the lines that are JSON objects; a script may have written anything."""
    found = []
    for raw in data.splitlines():
        try:
            line = orjson.loads(raw)
        except orjson.JSONDecodeError:
            continue
        if isinstance(line, dict) and isinstance(line.get("op"), str):
            found.append(line)
    return found
