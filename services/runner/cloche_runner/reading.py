"""Reading runs: their state for users, their log as it grows, metrics and outputs."""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import dataclass
from typing import cast

import orjson

from cloche_runner.attempt import Attempt
from cloche_runner.domain.nodes import Node
from cloche_runner.domain.run_decisions import run_not_found
from cloche_runner.domain.runs import LogPart, Run
from cloche_runner.handlers import MANIFEST_LIMIT, Core
from cloche_shared.contracts.fact import read_fact
from cloche_shared.contracts.facts import RunMeasured
from cloche_shared.contracts.files import FileEntry, Manifest
from cloche_shared.errors import NotFound, Unavailable
from cloche_shared.journal.commit import StreamId, written
from cloche_shared.journal.streams import Present
from cloche_shared.notes import notes_of
from cloche_shared.ports.blobs import Blobs

PAGE = 200
CHUNK = 256 * 1024
LONGEST_VALUE = 2 * 1024 * 1024
LOOK_AGAIN_S = 1.0
"""Seconds after which a follower looks at a run again, whatever this replica heard."""
HELD_AGAIN_S = 0.25
"""The same while another node has the run, whose driver may not have taken it up when it was asked."""

_log = notes_of(__name__)

AttemptHere = Callable[[StreamId], Attempt | None]
Follower = Callable[[str, int], AsyncIterator[bytes]]
"""Yields the log of a run from an offset on, as the node of that name has it; nothing when it cannot be asked."""


@dataclass(frozen=True, slots=True)
class Piece:
    """Bytes of a run's log. `attempt` is whose log is still written, and may be cut off at its loss; 0: it stays."""

    offset: int
    data: bytes
    attempt: int = 0

    @property
    def end(self) -> int:
        return self.offset + len(self.data)


class Reading:
    """What callers look at. `here` finds the attempt of a run that is driven in this process."""

    def __init__(self, core: Core, here: AttemptHere) -> None:
        self._core = core
        self._here = here

    @property
    def measure_limit(self) -> int:
        """Journal bytes of one attempt that are kept."""
        return self._core.settings.measure_bytes

    def nodes(self) -> dict[str, Node]:
        """Return the nodes as last seen."""
        return dict(self._core.board.nodes)

    def room(self, stream: StreamId) -> str:
        """Return what a full disk means for a run that is driven here; empty when there is room."""
        attempt = self._here(stream)
        if attempt is None:
            return ""
        left = attempt.storing.waits()
        if left is not None:
            return (
                "The disk is full, so what the run left cannot be stored. It is tried again; unless there is room"
                f" within {left:.0f} s, the run fails with what could be kept. Free some space on the disk that holds"
                " the data folder."
            )
        if self._core.reserve.is_needed():
            return (
                "The disk is full: what the run writes and logs may be lost. Free some space on the disk that holds"
                " the data folder, or cancel the run."
            )
        return ""

    def space(self, project: str) -> Blobs:
        """Return the runner's blobs of a project."""
        return self._core.space(project)

    async def run(self, project: str, run_id: str) -> Present[Run]:
        """Return a run as it is. Raises `NotFound` (`run_not_found`)."""
        present = await self._core.runs.get(self._core.runs.id(project, run_id))
        if not present.state.phase:
            raise run_not_found(run_id)
        return present

    async def ended(self, project: str, run_id: str, wait_s: float) -> Present[Run]:
        """Return a run when it has ended, or as it is after `wait_s` seconds."""
        stream = self._core.runs.id(project, run_id)
        try:
            async with asyncio.timeout(wait_s):
                while True:
                    present = await self.run(project, run_id)
                    if present.state.is_terminal:
                        return present
                    await self._changed(stream, present.seq)
        except TimeoutError:
            return await self.run(project, run_id)

    async def _changed(self, stream: StreamId, seq: int) -> None:
        """Wait until the run is beyond `seq`."""
        changed = asyncio.create_task(self._core.board.changed(stream), name="run-changed")
        try:
            await asyncio.sleep(0)
            peeked = self._core.runs.peek(stream)
            if peeked is None or peeked.seq <= seq:
                await changed
        finally:
            changed.cancel()
            await asyncio.gather(changed, return_exceptions=True)

    # --- log

    async def log(
        self,
        stream: StreamId,
        offset: int,
        *,
        follow: bool,
        attempt: int = 0,
        elsewhere: Follower | None = None,
        only_here: bool = False,
    ) -> AsyncIterator[Piece]:
        """Yield the run's log from `offset` on, over all its attempts; with `follow` until the run has ended.

        What another node holds is asked there through `elsewhere`; what was stored is read from the blobs.
        `attempt`: whose log was read up to `offset`; where its node was lost meanwhile, the log goes on from where
        that attempt's breaks off. With `only_here` it ends with the attempt that is here.
        """
        while True:
            present = await self.run(stream.project, stream.id)
            run = present.state
            offset = run.log_resumes(offset, attempt)
            async for piece in self._stored(stream, run.logs, 0, offset):
                yield piece
                offset, attempt = piece.end, 0
            if run.is_terminal:
                return
            async for piece in self._present(stream, present, offset, follow=follow, elsewhere=elsewhere):
                yield piece
                offset, attempt = piece.end, run.attempt
            if not follow or only_here:
                return
            pause = HELD_AGAIN_S if run.is_held else LOOK_AGAIN_S
            await self._changed_within(stream, present.seq, pause if elsewhere is not None else None)

    async def _changed_within(self, stream: StreamId, seq: int, seconds: float | None) -> None:
        """Wait until the run is beyond `seq`, or at most so long: what another node says may break off."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                await self._changed(stream, seq)

    async def _present(
        self, stream: StreamId, present: Present[Run], offset: int, *, follow: bool, elsewhere: Follower | None
    ) -> AsyncIterator[Piece]:
        """Yield the present attempt's log from the node that has it, or as far as it is stored."""
        run = present.state
        if elsewhere is None or not run.is_held or self._here(stream) is not None:
            live = self._live(stream, present, offset, follow=follow)
        else:
            live = _there(elsewhere, run, offset)
        try:
            async for piece in live:
                yield piece
                offset = piece.end
        except Unavailable as error:
            if not follow and offset >= run.log_before + run.log_kept:
                raise
            _log.info("log_elsewhere_broke_off", run=str(stream), node=run.node, error=str(error))
        async for piece in self._stored(stream, run.shipped, run.log_before, offset):
            yield piece

    async def _stored(
        self, stream: StreamId, parts: Sequence[LogPart], begin: int, offset: int
    ) -> AsyncIterator[Piece]:
        """Yield what is stored of a log from `offset` on; its first part begins at `begin`."""
        blobs = self._core.space(stream.project)
        for part in parts:
            if part.mark and offset < begin + part.size:
                yield Piece(offset, part.mark.encode()[max(0, offset - begin) :])
                offset = begin + part.size
            elif offset < begin + part.size:
                async for data in blobs.read(part.digest, start=max(0, offset - begin)):
                    yield Piece(offset, data)
                    offset += len(data)
            begin += part.size

    async def _live(
        self, stream: StreamId, present: Present[Run], offset: int, *, follow: bool
    ) -> AsyncIterator[Piece]:
        """Yield the present attempt's log from its process, as long as the attempt is the run's last."""
        run, seq = present.state, present.seq
        attempt = self._here(stream)
        if attempt is None or not run.is_held or attempt.fence != run.fence:
            return
        if attempt.process is None:
            if not follow:
                return
            if not await self._process_known(stream, attempt, seq):
                return
        process = attempt.process
        if process is None:
            return
        async for chunk in process.log(max(0, offset - run.log_before), follow=follow):
            yield Piece(run.log_before + chunk.offset, chunk.data, run.attempt)

    async def _process_known(self, stream: StreamId, attempt: Attempt, seq: int) -> bool:
        """Wait until the attempt has a process (true) or the run moves beyond `seq` (false)."""
        known = asyncio.create_task(attempt.known.wait(), name="attempt-known")
        moved = asyncio.create_task(self._changed(stream, seq), name="attempt-moved")
        try:
            await asyncio.wait([known, moved], return_when=asyncio.FIRST_COMPLETED)
            return attempt.known.is_set()
        finally:
            for task in (known, moved):
                task.cancel()
            await asyncio.gather(known, moved, return_exceptions=True)

    # --- metrics and outputs

    async def measured(self, stream: StreamId, attempt: int) -> list[dict[str, object]]:
        """Return every line that an attempt logged, in order."""
        lines: list[dict[str, object]] = []
        journal, after = self._core.writer.journal, ""
        while documents := await journal.read(f"{stream}/", after=after, limit=PAGE):
            after = documents[-1].key
            for document in documents:
                for type_name, data in written(document).facts:
                    fact = read_fact(type_name, data)
                    if isinstance(fact, RunMeasured) and fact.attempt == attempt:
                        lines.extend([await self._whole(stream.project, line) for line in fact.lines])
            if len(documents) < PAGE:
                break
        return lines

    async def _whole(self, project: str, line: dict[str, object]) -> dict[str, object]:
        digest = line.get("blob")
        if not isinstance(digest, str):
            return line
        raw = await self._core.space(project).read_bytes(digest, limit=LONGEST_VALUE)
        return cast("dict[str, object]", orjson.loads(raw))

    async def outputs(self, project: str, run: Run) -> Manifest:
        """Return what the run left. Raises `NotFound` (`no_outputs`)."""
        if run.outputs is None:
            raise NotFound(
                "no_outputs",
                "The run has no outputs.",
                why="It has not ended, or no attempt of it ran." if not run.is_terminal else "No attempt of it ran.",
                todo="Wait for the run's end: `cloche run wait`.",
            )
        data = await self._core.space(project).read_bytes(run.outputs, limit=MANIFEST_LIMIT)
        return Manifest.model_validate_json(data)

    async def output(self, project: str, run: Run, path: str) -> FileEntry:
        """Return one file that the run left. Raises `NotFound` (`no_outputs`, `output_not_found`)."""
        manifest = await self.outputs(project, run)
        for entry in manifest.files:
            if entry.path == path:
                return entry
        raise NotFound(
            "output_not_found",
            f"The run left no file {path[:200]!r}.",
            why=f"It left: {', '.join(entry.path for entry in manifest.files[:20]) or 'nothing'}.",
            todo="Name one of these, as /outputs lists them.",
        )


async def _there(elsewhere: Follower, run: Run, offset: int) -> AsyncIterator[Piece]:
    """Yield the present attempt's log as its node has it."""
    async for data in elsewhere(run.node, offset):
        yield Piece(offset, data, run.attempt)
        offset += len(data)
