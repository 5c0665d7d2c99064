"""A running attempt's log is stored now and then, so that what it wrote outlives its node."""

import asyncio
from typing import Final

from cloche_runner.domain import run_decisions as decisions
from cloche_runner.domain.runs import Run
from cloche_runner.handlers import Core, service_origin
from cloche_shared.bus.dispatch import TRANSIENT
from cloche_shared.journal.commit import StreamId
from cloche_shared.notes import notes_of
from cloche_shared.ports.executor import Process

AGE_SHARE: Final = 0.05
"""The part of an attempt's age that passes between two looks at least: a day's log is some two hundred parts."""
PART_BYTES: Final = 4 * 1024 * 1024
"""Bytes of one part at most."""

_log = notes_of(__name__)


class LogKeeper:
    """Stores the log of one attempt where other nodes could take its run over."""

    def __init__(self, core: Core, stream: StreamId, run: Run) -> None:
        self._core = core
        self._stream = stream
        self._fence = run.fence
        self._kept = run.log_kept
        """Bytes that are stored."""

    async def run(self, process: Process) -> None:
        """Look again and again, until the process ends or holds the run no more."""
        now = self._core.clock.monotonic
        began = now()
        while True:
            await asyncio.sleep(max(self._core.settings.log_kept_every, AGE_SHARE * (now() - began)))
            try:
                await self._keep(process)
            except (*TRANSIENT, OSError) as error:
                _log.warning("log_not_kept", run=str(self._stream), error=str(error))

    async def _keep(self, process: Process) -> None:
        """Store what is there: of a fast writer part after part."""
        while await self._keep_part(process):
            pass

    async def _keep_part(self, process: Process) -> bool:
        """Store one part; tell whether it was full, so that more may be there."""
        data, is_full = await _lines(process, self._kept)
        if not data:
            return False
        start, blob = self._kept, await self._core.space(self._stream.project).put_bytes(data)
        changed = await self._core.change_run(
            self._stream,
            service_origin(self._stream.id),
            lambda run: decisions.decide_log_kept(run, self._fence, start, blob),
        )
        self._kept = changed.state.log_kept
        return is_full


async def _lines(process: Process, start: int) -> tuple[bytes, bool]:
    """Return a part of what the process wrote from `start` on, and whether it is full.

    Its lines are whole, but for one that is longer than a part.
    """
    data = b""
    async for chunk in process.log(start, follow=False):
        data += chunk.data
        if len(data) >= PART_BYTES:
            break
    is_full = len(data) >= PART_BYTES
    data = data[:PART_BYTES]
    lines = data[: max(data.rfind(b"\n"), data.rfind(b"\r")) + 1]
    return lines or (data if is_full else b""), is_full
