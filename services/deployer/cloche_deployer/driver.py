"""Drives the workers of this node towards what the services' states want, and routes requests to them.

One tender per service: it looks at the state, starts pools for revisions that are wanted, gives the
traffic to a revision whose pool is healthy, and drains what is not wanted any more. Everything it
does can be done again after a crash at any point.
"""

import asyncio
import contextlib
from collections.abc import Awaitable, Callable, Coroutine
from dataclasses import dataclass, field
from functools import partial

from cloche_deployer.domain import (
    Revision,
    ServiceState,
    decide_deployed,
    decide_ended,
    decide_failed,
    decide_left,
    left_on,
    spent,
    wanted,
)
from cloche_deployer.keys import keys_of
from cloche_deployer.ports import RevisionWorkers, Stage
from cloche_deployer.scoring.metrics import Metrics, render
from cloche_deployer.scoring.pool import PoolSettings, WorkerPool
from cloche_deployer.scoring.ports import Connector
from cloche_deployer.scoring.target import RoutingTable, ServiceTarget, TargetSettings, digest
from cloche_deployer.settings import DeployerSettings
from cloche_shared.bus.dispatch import TRANSIENT
from cloche_shared.contracts.references import Problem
from cloche_shared.errors import ClocheError, Internal, Unavailable
from cloche_shared.journal.commit import Origin, StreamId
from cloche_shared.journal.streams import Present, Streams
from cloche_shared.notes import notes_of

_log = notes_of(__name__)


@dataclass(slots=True)
class Serving:
    """A revision's pool on this node, and the task that brings it up."""

    revision: int
    incarnation: int
    workers: RevisionWorkers | None = None
    pool: WorkerPool | None = None
    task: asyncio.Task[None] | None = None
    trouble: ClocheError | None = None


@dataclass(slots=True)
class _Tended:
    wake: asyncio.Event = field(default_factory=asyncio.Event)
    servings: dict[tuple[int, int], Serving] = field(default_factory=dict)
    target: ServiceTarget | None = None
    task: asyncio.Task[None] | None = None
    retiring: set[int] = field(default_factory=set)
    log: bytes = b""
    metrics: Metrics = field(default_factory=Metrics)


class Driver:
    """All services, as this replica sees them: `node` is the one that it drives (empty: none, and no stage).

    What lives on other nodes is routed there.
    """

    def __init__(  # noqa: PLR0913 - the wiring names each of them
        self,
        streams: Streams[ServiceState],
        stage: Stage | None,
        connector: Connector,
        routes: RoutingTable,
        settings: DeployerSettings,
        *,
        pepper: bytes,
        base_url: Callable[[], str],
        origin_of: Callable[[StreamId, int], Awaitable[Origin]],
        node: str = "",
    ) -> None:
        self.node = node
        self._origin_of = origin_of
        self._streams = streams
        self._stage = stage
        self._connector = connector
        self._routes = routes
        self._settings = settings
        self._pepper = pepper
        self._base_url = base_url
        self._tended: dict[StreamId, _Tended] = {}
        self._background: set[asyncio.Task[None]] = set()
        self._draining: set[WorkerPool] = set()
        self._closing = False
        self._kept: set[tuple[StreamId, int, int]] = set()
        """Revisions whose workers a former owner left, until they are served or ended."""

    def wake(self, stream: StreamId) -> None:
        """Look at a service again, soon."""
        if self._closing:
            return
        tended = self._tended.get(stream)
        if tended is None:
            tended = self._tended[stream] = _Tended()
            tended.task = asyncio.create_task(self._tend(stream, tended), name=f"tend-{stream}")
        tended.wake.set()

    def rekeyed(self, stream: StreamId, state: ServiceState) -> None:
        """Open a service to the keys of `state` at once: whoever is told a key may use it."""
        tended = self._tended.get(stream)
        if tended is not None and tended.target is not None:
            tended.target.rekey(self._digests(stream, state))
        self.wake(stream)

    async def look(self, stream: StreamId) -> None:
        """Route to a service as the journal has it now, whatever facts did not come yet."""
        self.route(stream, await self._streams.get(stream))

    def route(self, stream: StreamId, present: Present[ServiceState]) -> None:
        """Route to a service by what was just read of it."""
        if self._closing or not (present.state.exists or stream in self._tended):
            return
        self.wake(stream)
        self._route(stream, present, self._tended[stream])

    async def begin(self, streams: list[StreamId]) -> None:
        """Take up the services that were here before; what nobody wants any more is ended first."""
        keep: set[tuple[StreamId, int, int]] = set()
        for stream in streams:
            state = (await self._streams.get(stream)).state
            keep |= {(stream, state.incarnation, number) for number in self._wanted(state)}
        if self._stage is not None:
            await self._stage.sweep(keep)
            self._kept = keep
        for stream in streams:
            self.wake(stream)

    def _wanted(self, state: ServiceState) -> list[int]:
        """Return the revisions that are to have workers here."""
        return wanted(state, self.node) if self._stage is not None else []

    def other_node(self, state: ServiceState) -> str:
        """Return the other node that answers for a service; empty when this replica does, or nobody can."""
        active = state.revisions.get(state.active)
        return active.node if active is not None and active.placed and active.node != self.node else ""

    def serving(self, stream: StreamId) -> list[Serving]:
        """Return what runs here for a service, newest revision last."""
        tended = self._tended.get(stream)
        return sorted(tended.servings.values(), key=lambda one: one.revision) if tended else []

    def kept_log(self, stream: StreamId) -> bytes:
        """Return what ended workers of a service wrote, as far as it is kept."""
        tended = self._tended.get(stream)
        return tended.log if tended else b""

    def active_pool(self, stream: StreamId) -> WorkerPool | None:
        """Return the pool that gets the requests now."""
        tended = self._tended.get(stream)
        return tended.target.pool if tended and tended.target else None

    def trouble(self, stream: StreamId, revision: int) -> ClocheError | None:
        """Return why the revision with the traffic cannot answer now, None while it can."""
        found = next((one for one in self.serving(stream) if one.revision == revision), None)
        if found is None:
            return None
        if found.pool is not None and found.pool.state == "unhealthy":
            return found.pool.failure
        return found.trouble

    def figures(self) -> bytes:
        """Return what was counted for each service that exists, for Prometheus; revisions count on."""
        here = [(stream, tended) for stream, tended in self._tended.items() if tended.target is not None]
        return render((stream.project, stream.id, tended.metrics) for stream, tended in here)

    async def let_go(self) -> None:
        """Stop driving; the workers live on for the next owner of this node, but for those on their way out."""
        self._closing = True
        servings = [one for tended in self._tended.values() for one in tended.servings.values()]
        tasks = [tended.task for tended in self._tended.values() if tended.task]
        tasks += [one.task for one in servings if one.task]
        tasks += self._background
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        pools = [one.pool for one in servings if one.pool is not None]
        await asyncio.gather(*(pool.detach() for pool in pools), return_exceptions=True)
        await asyncio.gather(*(pool.stop() for pool in tuple(self._draining)), return_exceptions=True)

    async def close(self) -> None:
        """End every worker; the services come back at the next start."""
        self._closing = True
        tasks = [tended.task for tended in self._tended.values() if tended.task]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        servings = [one for tended in self._tended.values() for one in tended.servings.values()]
        await asyncio.gather(*(self._end(one, drain=0.0) for one in servings), return_exceptions=True)
        await asyncio.gather(*(pool.stop() for pool in tuple(self._draining)), return_exceptions=True)
        await asyncio.gather(*self._background, return_exceptions=True)

    # --- one service

    async def _tend(self, stream: StreamId, tended: _Tended) -> None:
        while True:
            tended.wake.clear()
            try:
                present = await self._streams.get(stream)
                state = present.state
                self._route(stream, present, tended)
                self._reconcile(stream, state, tended)
                await self._free(stream, state, tended)
            except Exception:  # noqa: BLE001 - a tender or bring-up that ended would leave its service as it is for ever
                _log.exception("tend_failed", service=str(stream))
                await asyncio.sleep(self._settings.retry_pause)
                continue
            await tended.wake.wait()

    def _route(self, stream: StreamId, present: Present[ServiceState], tended: _Tended) -> None:
        state = present.state
        if tended.target is not None and present.seq < tended.target.seq:
            return
        if not state.exists:
            if tended.target is not None:
                self._routes.remove(stream.project, stream.id)
                tended.target = None
            return
        digests = self._digests(stream, state)
        spec = state.revisions[state.active or state.latest].spec
        settings = TargetSettings(
            self._settings.max_body,
            spec.cors_origins,
            version=str(state.active or state.latest),
            timeout=2 * spec.timeout_ms / 1000,
        )
        if tended.target is None:
            tended.target = ServiceTarget(stream.project, stream.id, digests, None, settings)
            self._routes.put(tended.target)
        tended.target.seq = present.seq
        tended.target.rekey(digests)
        tended.target.settings = settings
        tended.target.reason = _reason(state)
        tended.target.node = self.other_node(state)
        serving = tended.servings.get((state.incarnation, state.active))
        if tended.target.node:
            tended.target.switch(None)  # whoever is being answered here keeps the pool until it is drained
        elif serving is not None and serving.pool is not None and serving.pool.state == "ready":
            tended.target.switch(serving.pool)

    def _digests(self, stream: StreamId, state: ServiceState) -> list[bytes]:
        return [digest(key) for key in keys_of(self._pepper, stream.project, stream.id, state).values()]

    def _reconcile(self, stream: StreamId, state: ServiceState, tended: _Tended) -> None:
        numbers = {(state.incarnation, number) for number in self._wanted(state)}
        gone = [tended.servings.pop(key) for key in list(tended.servings) if key not in numbers]
        left = {(incarnation, number) for service, incarnation, number in self._kept if service == stream}
        self._kept -= {(stream, *key) for key in left}
        # wanted when this process began, and not any more: nobody else ends what it left alone then
        gone += [Serving(number, incarnation) for incarnation, number in left - numbers]
        for serving in gone:
            tended.retiring.add(serving.revision)
            self._spawn(self._retire(stream, tended, serving), f"retire-{stream}-{serving.revision}")
        for key in numbers:
            if key not in tended.servings:
                serving = tended.servings[key] = Serving(key[1], key[0])
                revision = state.revisions[key[1]]
                serving.task = asyncio.create_task(
                    self._bring_up(stream, tended, serving, revision), name=f"serve-{stream}-{revision.number}"
                )

    async def _free(self, stream: StreamId, state: ServiceState, tended: _Tended) -> None:
        """Say of which revisions nothing lives here: those that are not wanted and whose workers ended."""
        here = tended.retiring | {number for _, number in tended.servings}
        for number in spent(state, self.node) if self._stage is not None else ():
            if number not in here:
                origin = await self._origin_of(stream, number)
                await self._streams.change(stream, origin, partial(decide_ended, revision=number))
        for number, replica in left_on(state, self.node):
            if number not in here:
                origin = await self._origin_of(stream, number)
                await self._streams.change(stream, origin, partial(decide_left, revision=number, replica=replica))

    def _spawn(self, work: Coroutine[object, object, None], name: str) -> None:
        task = asyncio.create_task(work, name=name)
        self._background.add(task)
        task.add_done_callback(self._background.discard)

    async def _bring_up(self, stream: StreamId, tended: _Tended, serving: Serving, revision: Revision) -> None:
        """Start a revision's workers; give it the traffic, or say why not; say when it goes down for good."""
        outcome: WorkerPool | ClocheError
        while True:
            try:
                outcome = await self._start(stream, serving, revision)
                break
            except ClocheError as error:
                serving.trouble = error
                await self._keep_log(tended, serving)
                await self._end(serving, drain=0.0)
                if not isinstance(error, Unavailable) and revision.stage != "deployed":
                    outcome = error
                    break
                # what served before is brought up again however long that takes
                _log.warning("workers_not_started", service=str(stream), revision=revision.number, error=str(error))
                await asyncio.sleep(self._settings.retry_pause)
            except Exception:  # noqa: BLE001 - a tender or bring-up that ended would leave its service as it is for ever
                _log.exception("workers_not_started", service=str(stream), revision=revision.number)
                await self._end(serving, drain=0.0)
                await asyncio.sleep(self._settings.retry_pause)
        if isinstance(outcome, ClocheError):
            failure = outcome
            await self._surely(stream, lambda: self._failed(stream, revision, failure))
        else:
            pool = outcome
            await self._surely(stream, partial(self._give_traffic, stream, tended, revision, pool))
            down = await pool.down()
            await self._surely(stream, lambda: self._failed(stream, revision, down))

    async def _surely(self, stream: StreamId, step: Callable[[], Awaitable[None]]) -> None:
        """Do a step that can be done again, until the store has answered."""
        while True:
            try:
                await step()
            except TRANSIENT as error:
                _log.warning("service_waits", service=str(stream), error=str(error))
                await asyncio.sleep(self._settings.retry_pause)
            else:
                return

    async def _give_traffic(self, stream: StreamId, tended: _Tended, revision: Revision, pool: WorkerPool) -> None:
        origin = await self._origin_of(stream, revision.number)
        url = f"{self._base_url()}/api/v1/services/{stream.id}/score"
        await self._streams.change(stream, origin, lambda state: decide_deployed(state, revision.number, url))
        present = (await self._streams.get(stream)).state
        if present.active == revision.number and tended.target is not None:
            tended.target.switch(pool)
        tended.wake.set()

    async def _start(self, stream: StreamId, serving: Serving, revision: Revision) -> WorkerPool:
        if self._stage is None:
            raise Internal("no_stage", "This replica drives no node.")
        workers = serving.workers = await self._stage.prepare(stream, serving.incarnation, revision)
        spec = revision.spec
        timeout = spec.timeout_ms / 1000
        settings = PoolSettings(
            workers=spec.workers,
            queue=spec.queue,
            timeout=timeout,
            wait=timeout,
            init_timeout=spec.init_timeout,
            grace=self._settings.grace,
        )
        metrics = self._tended[stream].metrics
        pool = serving.pool = WorkerPool(workers, self._connector, settings, metrics, workers.note)
        await pool.start()
        await pool.ready()
        serving.trouble = None
        return pool

    async def _failed(self, stream: StreamId, revision: Revision, error: ClocheError) -> None:
        message = f"{error.what}\n{error.why}".strip()
        problem = Problem(code=error.code, message=message, todo=error.todo, extra=dict(error.extra))
        origin = await self._origin_of(stream, revision.number)
        await self._streams.change(stream, origin, lambda state: decide_failed(state, revision.number, problem))
        self.wake(stream)

    async def _retire(self, stream: StreamId, tended: _Tended, serving: Serving) -> None:
        if serving.task is not None and not serving.task.done():
            serving.task.cancel()
            await asyncio.gather(serving.task, return_exceptions=True)
        await self._end(serving, drain=self._drain_of(serving))
        if self._stage is not None:
            await self._stage.end(stream, serving.incarnation, serving.revision)
        await self._keep_log(tended, serving)
        if serving.workers is not None:
            await serving.workers.clear()
        tended.retiring.discard(serving.revision)
        tended.wake.set()

    def _drain_of(self, serving: Serving) -> float:
        """Return the seconds that a former revision gets: what a request may wait and then run, and a margin."""
        longest = serving.pool.longest + self._settings.grace if serving.pool is not None else 0.0
        return max(self._settings.drain, longest)

    async def _keep_log(self, tended: _Tended, serving: Serving) -> None:
        if serving.workers is not None:
            tended.log = (tended.log + serving.workers.log())[-self._settings.log_kept :]

    async def _end(self, serving: Serving, *, drain: float) -> None:
        if serving.task is not None and serving.task is not asyncio.current_task():
            serving.task.cancel()
        pool, serving.pool = serving.pool, None
        if pool is None:
            return
        self._draining.add(pool)
        try:
            with contextlib.suppress(ClocheError):
                if drain:
                    await pool.drain(drain)
                await pool.stop()
        finally:
            self._draining.discard(pool)


def _reason(state: ServiceState) -> str:
    """Return why a failed service cannot answer, in a line for those who score: its traceback is for its owner."""
    problem = state.newest.problem
    if state.status != "Failed" or problem is None:
        return ""
    return f"It has failed ({problem.code}): {problem.message.partition(chr(10))[0]}"
