"""The runner, put together."""

import asyncio
from dataclasses import dataclass
from pathlib import Path

import cloche_runtime
from cloche_runner.adapters.attempt_files import LocalAttemptFiles
from cloche_runner.api import router
from cloche_runner.attempt import Attempt, NodeParts
from cloche_runner.board import Board
from cloche_runner.commands import RunCommands
from cloche_runner.consumers import FOREIGN_TOPICS, OWN_TOPICS, handlers, own_facts, seen
from cloche_runner.driver import Driver
from cloche_runner.handlers import SERVICE, Answers, Commands, Core, Submission, node_kind, run_kind, service_origin
from cloche_runner.membership import Membership
from cloche_runner.permit import Permit
from cloche_runner.reading import Reading
from cloche_runner.scheduling import Scheduling
from cloche_runner.settings import RunnerSettings
from cloche_runner.views import ACTIVE, rows_of
from cloche_shared.adapters.sharing import PRIVATE, Sharing
from cloche_shared.bus.commands import DeskParts
from cloche_shared.bus.dispatch import TRANSIENT, BatchConsumer, Consumer
from cloche_shared.bus.projector import Projection, Projector
from cloche_shared.bus.relay import Relay
from cloche_shared.denials import Denials
from cloche_shared.http.elsewhere import Elsewhere
from cloche_shared.http.operations import republish_router
from cloche_shared.journal.commit import StreamId
from cloche_shared.journal.streams import Streams
from cloche_shared.journal.writer import Writer
from cloche_shared.key_uses import KeyUses
from cloche_shared.lifecycle import Lifecycle
from cloche_shared.notes import notes_of
from cloche_shared.ports.devices import Devices
from cloche_shared.ports.executor import Executor
from cloche_shared.ports.git import Git
from cloche_shared.ports.node_files import NodeFiles
from cloche_shared.service import Platform, Surface

CODE_VERSION = "1"
PAGE = 500
LISTS_REST_S = 0.03
"""Seconds between two writes of the lists: what a short run goes through meanwhile is written once."""
_CATCH_UP_PAUSE = 1.0
"""Seconds without anything new after which the lists count as caught up."""
_LOAD_AGAIN_S = 1.0
"""Seconds before a store that did not answer is asked again."""

_log = notes_of(__name__)


@dataclass(frozen=True, slots=True)
class NodePorts:
    """The node that this replica drives; whoever passes it holds the lock of the node's folder."""

    parts: NodeParts
    devices: Devices


def local_node(
    root: Path, executor: Executor, files: NodeFiles, devices: Devices, sharing: Sharing = PRIVATE
) -> NodePorts:
    """Return this machine as a node; `root` is the node's folder, `sharing` who works in it besides us."""
    bootstrap = Path(str(cloche_runtime.__file__)).with_name("bootstrap.py")
    return NodePorts(NodeParts(executor, files, LocalAttemptFiles(root / "attempts", sharing), bootstrap), devices)


class Runner:
    """The service."""

    def __init__(
        self,
        platform: Platform,
        settings: RunnerSettings,
        node: NodePorts | None,
        elsewhere: Elsewhere | None = None,
        git: Git | None = None,
    ) -> None:
        self._platform = platform
        self._settings = settings
        self._relay = Relay(platform.journal, platform.bus, f"/cloche/{SERVICE}") if platform.relays else None
        writer = Writer(
            platform.journal,
            platform.clock,
            platform.random,
            offer=self._relay.offer if self._relay is not None else None,
        )
        self.core = core = Core(
            runs=Streams(run_kind(), writer, exclusive=platform.exclusive),
            nodes=Streams(node_kind(), writer, exclusive=platform.exclusive),
            writer=writer,
            board=Board(),
            blobs=platform.blobs,
            clock=platform.clock,
            random=platform.random,
            settings=settings,
            board_is_truth=platform.exclusive,
            reserve=platform.reserve,
        )
        self.commands = Commands(core)
        self.scheduling = Scheduling(core)
        self.driver = self._driver(node)
        self.reading = Reading(core, self._attempt_here)
        self._membership = Membership(core, platform.leases, self.driver)
        self._answers = Consumer(
            platform.bus,
            SERVICE,
            FOREIGN_TOPICS,
            handlers(Answers(core)),
            random=platform.random,
            code_version=CODE_VERSION,
        )
        desk = DeskParts(platform.bus, writer, platform.views, platform.clock, platform.random, CODE_VERSION)
        self._taken = RunCommands(self.commands, platform.blobs, git).consumer(desk)
        self._projector = Projector(platform.views, [Projection(core.runs, rows_of)])
        self._lists = BatchConsumer(
            platform.bus,
            f"{SERVICE}.views",
            OWN_TOPICS,
            own_facts(core, self._projector),
            random=platform.random,
            code_version=CODE_VERSION,
            rest=LISTS_REST_S,
        )
        self._denials = Denials(writer, platform.clock.monotonic, "runner")
        self._key_uses = KeyUses(platform.access, writer, "runner")
        routes = router(self.commands, self.reading, self.scheduling, platform, elsewhere)
        routes.routes.extend(republish_router(SERVICE, platform, writer).routes)
        self._surface = Surface(routes, finished=self._denials.note)

    def _driver(self, node: NodePorts | None) -> Driver | None:
        if node is None:
            return None
        return Driver(
            self.core,
            self._settings.node,
            node.parts,
            node.devices,
            caught_up=self._caught_up,
            placing=self.scheduling.placing.__contains__,
            permit=Permit(self._platform.clock, None if self._platform.exclusive else self._settings.lease),
        )

    def _attempt_here(self, stream: StreamId) -> Attempt | None:
        return self.driver.process_of(stream) if self.driver is not None else None

    @property
    def name(self) -> str:
        return SERVICE

    @property
    def surface(self) -> Surface:
        return self._surface

    async def start(self, lifecycle: Lifecycle) -> None:
        await self.load()
        if self.driver is not None:
            await self.driver.join()
        if self._relay is not None:
            lifecycle.spawn("runner-relay", self._relay.run())
        self._denials.start(lifecycle)
        self._key_uses.start(lifecycle)
        lifecycle.spawn("runner-answers", self._answers.run())
        lifecycle.spawn("runner-commands", self._taken.run())
        lifecycle.spawn("runner-lists", self._lists.run())
        lifecycle.spawn("runner-scheduling", self.scheduling.run())
        if self.driver is not None:
            lifecycle.spawn("runner-driver", self.driver.run())
        if self._settings.sweep_lists:
            lifecycle.spawn("runner-sweep", self._sweep_lists())
        if not self._platform.exclusive:
            self._start_shared(lifecycle)

    def _start_shared(self, lifecycle: Lifecycle) -> None:
        """Start what only several processes on one journal need."""
        membership = self._membership
        if self.driver is not None:
            lifecycle.spawn("runner-lease", membership.renew())
        lifecycle.spawn("runner-observer", membership.observe())
        lifecycle.spawn("runner-others", self._follow_others())
        lifecycle.spawn("runner-reload", self._reload())

    async def load(self) -> None:
        """Put every active run and every node on the board."""
        for stream in await self._active_runs():
            await self.core.see(stream)
        await self.core.see_nodes()

    async def _active_runs(self) -> list[StreamId]:
        """Return the runs that have not ended, as far as the lists know."""
        found: list[StreamId] = []
        after: tuple[str, str] | None = None
        while rows := await self._platform.views.page(ACTIVE, "-", facet="active", after=after, limit=PAGE):
            found.extend(StreamId.parse(row.body.decode()) for row in rows)
            after = (rows[-1].sort, rows[-1].key)
        return found

    async def _caught_up(self) -> None:
        """Wait until the lists hold what the journal held when this process began."""
        before = -1
        while before != self._lists.counters.handled or await self._lists.lag():
            before = self._lists.counters.handled
            await asyncio.sleep(_CATCH_UP_PAUSE)

    async def _sweep_lists(self) -> None:
        """Write all lists again now and then, and look at what they show."""
        pause = min(self._settings.sweep_every, self._settings.sweep_lists)
        while True:
            await asyncio.sleep(pause)
            try:
                await self._projector.sweep(self._platform.journal)
                await self.load()
            except TRANSIENT as error:
                _log.warning("lists_not_swept", error=str(error))
            else:
                pause = self._settings.sweep_lists

    async def _follow_others(self) -> None:
        """Hear of what other processes do, whatever becomes of the bus; what was missed is looked up."""
        see = seen(self.core)
        while True:
            try:
                async with self._platform.bus.tail(OWN_TOPICS) as subscription:
                    await self._look_again()
                    while True:
                        batch = await subscription.fetch()
                        await see([delivery.event for delivery in batch if delivery.event is not None])
            except TRANSIENT as error:
                _log.warning("events_missed", error=str(error))
                await asyncio.sleep(_LOAD_AGAIN_S)

    async def _reload(self) -> None:
        """Look at everything active now and then, whatever events were missed."""
        while True:
            await asyncio.sleep(self._settings.sweep_every)
            await self._look_again()

    async def _look_again(self) -> None:
        """Look at everything active, as soon as the store answers."""
        while True:
            try:
                await self.load()
            except TRANSIENT as error:
                _log.warning("load_failed", error=str(error))
                await asyncio.sleep(_LOAD_AGAIN_S)
            else:
                return

    async def cancel_all(self) -> int:
        """Ask every run to end that has not ended; return how many those were."""
        board = self.core.board
        queued = (StreamId.parse(key) for key in board.queue)
        streams = {*board.claims, *queued, *await self._active_runs()}
        origin = Submission(service_origin("cancel-all"))
        await asyncio.gather(*(self.commands.cancel(stream.project, stream.id, origin) for stream in streams))
        return len(streams)

    def active(self) -> list[str]:
        """Return the ids of the runs that nodes hold now."""
        return sorted(stream.id for stream in self.core.board.claims)


def build(
    platform: Platform,
    settings: RunnerSettings,
    node: NodePorts | None = None,
    elsewhere: Elsewhere | None = None,
    git: Git | None = None,
) -> Runner:
    """Return the runner; with `node` it drives the node `settings.node`, with `elsewhere` it asks other replicas.

    With `git` commands may name commits of repositories.
    """
    return Runner(platform, settings, node, elsewhere, git)
