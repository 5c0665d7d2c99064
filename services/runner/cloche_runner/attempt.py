"""One attempt, from claim to outcome: prepare, start, watch, collect.

Every step may be repeated: after a crash the next incarnation adopts the process and goes on with
whatever the run's stream does not say yet.
"""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import TypeVar

from cloche_runner.domain import nodes as node_rules
from cloche_runner.domain import run_decisions as decisions
from cloche_runner.domain.endings import NODES_FAULTS, Verdict, ended_at, judge, without_outputs
from cloche_runner.domain.runs import Run, holder
from cloche_runner.environ import environment
from cloche_runner.handlers import Core, service_origin
from cloche_runner.keeping import LogKeeper
from cloche_runner.metering import Meter
from cloche_runner.permit import Permit
from cloche_runner.ports import AttemptFiles
from cloche_runner.prefixes import Prefixes
from cloche_runner.spooled import log_tail
from cloche_runner.storing import Storing, not_collected, problem_of
from cloche_shared.contracts.references import Problem
from cloche_shared.contracts.runs import Ended, RunSpec
from cloche_shared.errors import ClocheError, Unavailable, is_store_away
from cloche_shared.journal.commit import StreamId
from cloche_shared.journal.streams import Changed, Decision
from cloche_shared.ports.executor import Executor, Exit, Limits, Process, ProcessSpec
from cloche_shared.ports.journal import OutcomeUnknownError
from cloche_shared.ports.node_files import NodeFiles

OWNER = "runner"
LONGEST_BACKOFF = 60.0
BRIEF_S = 0.02
"""Seconds that the word of a program's beginning is held back: what ends within them is told of in one commit."""
STORE_WAIT_S = 60.0
STORE_AGAIN_S = 0.5
PROMPT_S = 0.1
"""Seconds within which outputs and log must be stored, else the run is shown as Finalizing meanwhile."""

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class NodeParts:
    """What an attempt needs of its node. `bootstrap` is the runtime's script that starts the user's."""

    executor: Executor
    files: NodeFiles
    attempts: AttemptFiles
    bootstrap: Path


@dataclass(frozen=True, slots=True)
class NodeHere:
    """The node that is driven in this process."""

    parts: NodeParts
    prefixes: Prefixes
    permit: Permit


def attempt_id(stream: StreamId, attempt: int) -> str:
    """Return the name of an attempt's process and folders."""
    return f"run-{stream.id.lower()}-{attempt}"


class CanceledError(Exception):
    """The run was cancelled before its process was started."""


class Attempt:
    """One attempt of a run on this node. `process` is known from its start or adoption on."""

    def __init__(self, core: Core, node: NodeHere, stream: StreamId, run: Run, process: Process | None) -> None:
        self.stream = stream
        self.number = run.attempt
        self.fence = run.fence
        self.node = run.node
        self.id = attempt_id(stream, run.attempt)
        self.process = process
        self.known = asyncio.Event()
        self.log_before = run.log_before
        self._core = core
        self._parts = parts = node.parts
        self._prefixes = node.prefixes
        self._permit = node.permit
        self._spec = _spec_of(run)
        self._blobs = core.space(stream.project)
        self._meter = Meter(core, parts.attempts, stream, self.id, self.fence, first=self._tell_begun)
        self._keeper = LogKeeper(core, stream, run) if node.permit.is_limited else None
        self._begun_at = ""
        """When the user's code began, as long as the stream does not say it."""
        self._origin = service_origin(stream.id)
        self.storing = Storing(core, parts.files, parts.attempts, stream.project, self.id, self._spec.collect)
        self._over: tuple[Verdict, Ended] | None = None
        """What the end of the user's code means, once it ended for a reason of its own."""
        if process is not None:
            self.known.set()

    async def drive(self) -> None:
        """Bring the attempt to its end. Raises `Conflict` (`stale_fence`) when it holds the run no more."""
        run = await self._run()
        if self.process is None and run.phase == "finalizing" and run.ended is not None:
            await self._finish_alone(run.ended)
        else:
            await self._drive(run)
        await self.clean()

    async def _drive(self, run: Run) -> None:
        try:
            process = self.process or await self._start(run)
        except CanceledError:
            await self._abandon(None)
        except (Unavailable, OutcomeUnknownError) as error:
            await self._lose(problem_of(error), None)
        except ClocheError as error:
            if error.code in NODES_FAULTS:
                await self._lose(problem_of(error), None)
            else:
                await self._abandon(problem_of(error))
        else:
            ended = await self._watch(process)
            await self._finish(process, ended)

    async def _change(self, decide: Callable[[Run], Decision]) -> Changed[Run]:
        return await self._core.surely(lambda: self._core.change_run(self.stream, self._origin, decide))

    async def _run(self) -> Run:
        present = await self._core.runs.get(self.stream)
        decisions.hold(present.state, self.fence)
        return present.state

    async def _release(self) -> None:
        await self._core.release(self.node, [holder(str(self.stream), self.number)])

    # --- start

    async def _start(self, run: Run) -> Process:
        if run.phase != "claimed":
            raise Unavailable("process_lost", "Its process is gone from this node.")
        spec = await self._unless_canceled(self._ready(run))
        self.process = process = await self._parts.executor.start(spec)
        self.known.set()
        await self._permit.apply(process)
        return process

    async def _ready(self, run: Run) -> ProcessSpec:
        """Prepare everything, and return once the process may be started.

        A store that does not answer is waited for: an attempt that is lost for it counts against the run.
        """
        patience = self._core.clock.monotonic() + STORE_WAIT_S
        while True:
            try:
                spec = await self._prepare(run)
                await self._still_held()
            except (Unavailable, OutcomeUnknownError) as error:
                is_away = is_store_away(error) or isinstance(error, OutcomeUnknownError)
                if not is_away or self._core.clock.monotonic() > patience:
                    raise
                await asyncio.sleep(STORE_AGAIN_S)
            else:
                return spec

    async def _still_held(self) -> None:
        """Return once run and resources are known to be held under one grant of the lease: nobody took them over.

        A claim may come long after its allocation, which somebody else may have freed or lost since; from here on
        only this node's own driver frees it. Raises `Conflict` (`stale_fence`), `Unavailable` (`allocation_lost`).
        """
        name = holder(str(self.stream), self.number)
        while True:
            until = await self._permit.wait()
            use = partial(node_rules.decide_use, claimant=name, gpus=(await self._run()).gpus)
            await self._core.change_node(self.node, self._origin, use)
            if self._permit.is_before(until):
                return

    async def _prepare(self, run: Run) -> ProcessSpec:
        """Make the attempt's folders, then environment and working folder at the same time.

        The attempt's folders are made first and removed last: they tell a next start what to clean.
        """
        parts = self._parts
        paths = await parts.attempts.prepare(self.id)
        async with _together() as group:
            prefix = group.create_task(self._prefixes.python(run.lock_digest, run.scope))
            folder = group.create_task(self._checkout())
        python = prefix.result()
        argv = [str(python), str(parts.bootstrap), "--", self._spec.script, *self._spec.arguments]
        return ProcessSpec(
            id=self.id,
            owner=OWNER,
            argv=argv,
            cwd=folder.result(),
            env=environment(self.stream.id, run, python.parent, paths),
            limits=self._limits(),
            writes=[paths.uploads, paths.home, paths.tmp],
        )

    async def _checkout(self) -> Path:
        """Make the working folder. What a snapshot has below the run's own folders would pass for its outputs."""
        manifest = await self._core.manifest(self.stream.project, self._spec.snapshot)
        sources = (entry for entry in manifest.files if entry.path.partition("/")[0] not in self._spec.collect)
        own = manifest.model_copy(update={"files": tuple(sources)})
        return await self._parts.files.checkout(self.id, own, self._blobs)

    def _limits(self) -> Limits:
        spec, settings = self._spec, self._core.settings
        return Limits(
            memory=spec.resources.memory or None,
            deadline=spec.deadline,
            grace=spec.grace,
            log=settings.log_bytes,
            orphan_after=self._permit.orphan_after(settings.orphan_after),
        )

    async def _unless_canceled(self, work: Awaitable[T]) -> T:
        """Do something, or raise `CanceledError` as soon as the run is cancelled."""
        working = asyncio.ensure_future(work)
        canceling = asyncio.create_task(self._canceling(), name="attempt-canceling")
        try:
            await asyncio.wait([working, canceling], return_when=asyncio.FIRST_COMPLETED)
            if not working.done() or (canceling.done() and not canceling.cancelled()):
                raise CanceledError
            return working.result()
        finally:
            for task in (working, canceling):
                task.cancel()
            await asyncio.gather(working, canceling, return_exceptions=True)

    async def _canceling(self) -> None:
        """Wait until the run is cancelled or taken away."""
        board = self._core.board
        while True:
            run = board.claims.get(self.stream)
            if run is None or run.canceling or run.fence != self.fence:
                return
            await board.changed(self.stream)

    # --- watch

    async def _watch(self, process: Process) -> Ended:
        side = [
            asyncio.create_task(self._say_started(process), name="attempt-started"),
            asyncio.create_task(self._cancel_when_asked(process), name="attempt-cancel"),
            asyncio.create_task(self._meter.run(), name="attempt-meter"),
        ]
        if self._keeper is not None:
            side.append(asyncio.create_task(self._keeper.run(process), name="attempt-log"))
        try:
            ending = await process.wait()
            # a program that was quick has begun before it ended, and both belong into the stream
            await side[0]
        finally:
            for task in side:
                task.cancel()
            await asyncio.gather(*side, return_exceptions=True)
        return ended_of(ending)

    async def _say_started(self, process: Process) -> None:
        if not await process.started():
            return
        self._begun_at = self._core.writer.now()
        try:
            async with asyncio.timeout(BRIEF_S):
                await process.wait()
        except TimeoutError:
            await self._tell_begun()

    async def _tell_begun(self) -> None:
        """Record that the user's code began, if that is not recorded yet."""
        if self._begun_at:
            await self._change(self._begin)
            self._begun_at = ""

    def _begin(self, run: Run) -> Decision:
        return decisions.decide_started(run, self.fence, self._begun_at) if self._begun_at else Decision()

    async def _cancel_when_asked(self, process: Process) -> None:
        await self._canceling()
        grace = self._spec.grace
        await process.cancel(grace=grace)
        await asyncio.sleep(grace + self._core.settings.cancel_margin)
        await process.cancel(grace=0.0)

    # --- finish

    async def _finish(self, process: Process, ended: Ended) -> None:
        tail = await log_tail(process, ended.log_bytes) if ended.code != 0 else ""
        verdict = judge(ended, self._spec, log_tail=tail)
        if verdict.kind == "infrastructure" and verdict.problem is not None:
            await self._tell_begun()
            mark = f"cloche: attempt {self.number} was lost: {ended.detail or ended.ending}"
            await self._lose(verdict.problem, await self.storing.log(process, ended, mark))
            return
        self._over = (verdict, ended)
        try:
            outputs, fault, shipped = await self._store(process, ended)
        except Exception as error:
            self.storing.failed(error)
            # it is tried again, maybe for long: whoever comes after this process must know that the code has ended
            await self._tell_ended(ended)
            await self._release()
            raise
        fault = self.storing.no_room() or fault
        told = without_outputs(verdict, fault) if fault else verdict
        async with _together() as group:  # where the node's stream and the run's are one file, in one commit
            group.create_task(self._release())
            group.create_task(self._conclude(told, ended, shipped, outputs))

    async def _store(self, process: Process, ended: Ended) -> tuple[str, Problem | None, Ended]:
        """Store what the attempt left. What it held is freed with the outcome, or before if that takes longer."""
        stored = asyncio.Event()
        self.storing.begin()
        async with _together() as group:
            group.create_task(self._say_finalizing(ended, stored))
            collected = group.create_task(self.storing.outputs())
            shipped = group.create_task(self.storing.log(process, ended, await self._mark()))
            measured = group.create_task(self.storing.metrics(self._meter.drain))
            await asyncio.wait([collected, shipped, measured])
            stored.set()
        return *collected.result(), shipped.result()

    async def _say_finalizing(self, ended: Ended, stored: asyncio.Event) -> None:
        """Record that the user's code ended, unless what it left is stored at once and the outcome tells it too."""
        try:
            async with asyncio.timeout(PROMPT_S):
                await stored.wait()
        except TimeoutError:
            await asyncio.gather(self._release(), self._tell_ended(ended))

    async def _tell_ended(self, ended: Ended) -> None:
        at = self._core.writer.now()
        await self._tell_begun()
        await self._change(self._finalize(ended, at))

    def _finalize(self, ended: Ended, at: str) -> Callable[[Run], Decision]:
        return lambda run: decisions.decide_finalizing(run, self.fence, ended, at)

    async def _finish_alone(self, ended: Ended) -> None:
        """End a run whose code ended before, but whose log is gone from this node with its process."""
        await self._release()
        self.storing.begin()
        try:
            outputs, fault = await self.storing.outputs()
        except Exception as error:
            self.storing.failed(error)
            raise
        fault = self.storing.no_room() or fault or not_collected("The log of its process is gone from this node.")
        await self._conclude(without_outputs(judge(ended, self._spec), fault), ended, ended, outputs)

    async def _conclude(self, verdict: Verdict, ended: Ended, shipped: Ended, outputs: str | None) -> None:
        """Record the outcome, and whatever the stream does not say yet of how it came about."""
        if verdict.kind == "user" and self._spec.retries:
            # another attempt may follow, and its fence counts documents
            await self._tell_ended(ended)
        at = self._core.writer.now()
        told = replace(verdict, left_out=self.storing.left_out(), stored_at=at)

        def conclude(run: Run) -> Decision:
            end = ended_at(run.started_at, ended, at)
            return decisions.decide_ended(run, self.fence, told, shipped, outputs, end)

        await self._change(lambda run: decisions.decide_all(run, self._begin, self._finalize(ended, at), conclude))

    async def _mark(self) -> str:
        """Return what ends the attempt's log where another attempt's follows it; empty for the last."""
        verdict, _ = self._over or (None, None)
        if not self._spec.retries or verdict is None or verdict.kind != "user":
            return ""
        run = await self._run()
        again = run.failures < self._spec.retries and not run.canceling
        return f"cloche: attempt {self.number} failed; another one follows" if again else ""

    async def _lose(self, problem: Problem, ended: Ended | None) -> None:
        core = self._core
        run = await self._run()
        delay = min(LONGEST_BACKOFF, core.settings.loss_delay * 2**run.losses)
        again = decisions.Again(core.settings.losses, core.after(delay))
        at = core.writer.now()
        await self._release()
        await self._change(lambda state: decisions.decide_lost(state, self.fence, problem, ended, again, at))

    async def _abandon(self, problem: Problem | None) -> None:
        """End a run whose process never was."""
        at = self._core.writer.now()
        reason = problem or Problem(code="canceled", message="The run was cancelled.")
        await self._release()
        await self._change(lambda run: decisions.decide_abandoned(run, self.fence, reason, at))

    async def clean(self) -> None:
        """Remove what the attempt left on this node; its process has ended or never was."""
        parts = self._parts
        await parts.executor.forget(self.id)
        await parts.files.discard(self.id)
        await parts.attempts.discard(self.id)

    async def give_up(self, error: Exception) -> None:
        """End an attempt that a defect of ours keeps from being driven.

        It counts as lost, unless the user's code has ended: what ended is not run again.
        """
        if self.process is not None:
            await end_process(self.process)
        if self._over is not None:
            verdict, ended = self._over
            await self._release()
            await self._conclude(without_outputs(verdict, not_collected(type(error).__name__)), ended, ended, None)
        else:
            message = f"The attempt could not be driven: {type(error).__name__}."
            await self._lose(Problem(code="internal", message=message, todo="Read the runner's log."), None)
        await self.clean()

    async def revoke(self) -> None:
        """End a process that holds its run no more, and remove what it left."""
        if self.process is not None:
            await end_process(self.process)
        await self.clean()


async def end_process(process: Process) -> None:
    """Kill a group and wait for the proof of its end."""
    await process.cancel(grace=0.0)
    await process.wait()


@asynccontextmanager
async def _together() -> AsyncIterator[asyncio.TaskGroup]:
    """Run tasks together; the first failure is raised itself, not a group of them."""
    try:
        async with asyncio.TaskGroup() as group:
            yield group
    except BaseExceptionGroup as errors:
        raise errors.exceptions[0] from None


def _spec_of(run: Run) -> RunSpec:
    if run.spec is None:
        raise ValueError("a run that was claimed was submitted")
    return run.spec


def ended_of(ending: Exit) -> Ended:
    """Return how a group ended, as facts tell it."""
    return Ended(
        ending=ending.ending,
        code=ending.code,
        signal=ending.signal,
        log_bytes=ending.log_bytes,
        log_dropped=ending.log_dropped,
        wall_seconds=round(ending.wall_seconds, 3),
        cpu_seconds=round(ending.cpu_seconds, 3),
        peak_memory=ending.peak_memory,
        detail=ending.detail,
    )
