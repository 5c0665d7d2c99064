"""The node's driver: every attempt that the journal gives to its node is driven to its end.

Whoever starts this holds the node's folder lock, so the former holder is dead and what it left is
adopted at once. Processes that nobody holds a claim for are ended and forgotten.
"""

import asyncio
from collections.abc import Awaitable, Callable, Collection, Sequence
from dataclasses import replace

from cloche_runner.attempt import OWNER, Attempt, NodeHere, NodeParts, attempt_id, end_process
from cloche_runner.domain import nodes as node_rules
from cloche_runner.domain.nodes import NODE_PROJECT, Node
from cloche_runner.handlers import Core, service_origin
from cloche_runner.permit import Permit
from cloche_runner.prefixes import Prefixes
from cloche_shared.bus.dispatch import TRANSIENT
from cloche_shared.errors import Conflict
from cloche_shared.journal.commit import StreamId
from cloche_shared.journal.streams import Decision
from cloche_shared.notes import notes_of
from cloche_shared.ports.devices import Devices, Offer
from cloche_shared.ports.executor import Process

_log = notes_of(__name__)
_AGAIN = (0.1, 0.5, 2.0, 5.0)
MOST_DEFECTS = 3
STALE_FENCE = "stale_fence"


class Driver:
    """Drives one node. `caught_up` waits until this process knows what the journal said before it started."""

    def __init__(  # noqa: PLR0913 - the wiring names each of them
        self,
        core: Core,
        node: str,
        parts: NodeParts,
        devices: Devices,
        *,
        caught_up: Callable[[], Awaitable[None]],
        placing: Callable[[str], bool] = lambda _: False,
        permit: Permit,
    ) -> None:
        self.node = node
        self.attempts: dict[StreamId, Attempt] = {}
        self._core = core
        self._parts = parts
        self._here = NodeHere(parts, Prefixes(core, parts.files), permit)
        self._devices = devices
        self._caught_up = caught_up
        self._placing = placing
        self._left: dict[str, Process] = {}
        self._tasks: dict[StreamId, asyncio.Task[None]] = {}
        self._suspects: set[str] = set()

    # --- the node itself

    async def join(self) -> None:
        """Offer what the node has, and take over what a former owner left.

        A node that was declared lost holds nothing any more, so whatever still lives on it is ended first, also
        where its claim was not taken away yet.
        """
        core = self._core
        self._left = {process.id: process for process in await self._parts.executor.adopt(OWNER)}
        offer = await self._devices.offer()
        if core.settings.cpus is not None:
            offer = replace(offer, cpus=core.settings.cpus)
        is_here = False
        while not is_here:
            node = (await core.nodes.get(core.nodes.id(NODE_PROJECT, self.node))).state
            for name in node.held:
                await self._see_holder(name)
            if node.lost:
                await self._end_left(list(self._left.values()))
                await self.end_strangers()
            is_here = await self._offer(offer, after_loss=node.lost)

    async def _offer(self, offer: Offer, *, after_loss: bool) -> bool:
        """Offer what the node has; tell whether it is there now, and was not declared lost in between."""
        core = self._core

        def decide(node: Node) -> Decision:
            if node.lost and not after_loss:
                return Decision()
            return node_rules.decide_join(node, offer, core.settings.address, core.tenancy)

        return (await core.change_node(self.node, service_origin(), decide)).state.is_here

    async def _see_holder(self, name: str) -> None:
        stream = _run_of(name)
        if stream is not None:
            await self._core.see(stream)

    async def end_strangers(self) -> None:
        """End and forget every process that no claim is for, and remove the folders of such attempts."""
        mine = {attempt_id(stream, run.attempt) for stream, run in self._core.board.claims_of(self.node)}
        await self._end_left([process for name, process in self._left.items() if name not in mine])
        for name in await self._parts.attempts.present():
            if name not in mine:
                await self._parts.files.discard(name)
                await self._parts.attempts.discard(name)

    async def _end_left(self, processes: Sequence[Process]) -> None:
        """End and forget processes that a former owner left."""
        await asyncio.gather(*(end_process(process) for process in processes))
        for process in processes:
            self._left.pop(process.id, None)
            await self._parts.executor.forget(process.id)

    async def sweep_holders(self) -> None:
        """Release what is held for attempts that are over or never were (a crash between two steps)."""
        core = self._core
        node = (await core.nodes.get(core.nodes.id(NODE_PROJECT, self.node))).state
        suspects = set()
        for name in node.held:
            stream = _run_of(name)
            if stream is None or self._in_use(name):
                continue
            run = (await core.runs.get(stream)).state
            if not (run.is_held and run.node == self.node and run.attempt == _number_of(name)):
                suspects.add(name)
        gone = suspects if core.board_is_truth else suspects & self._suspects
        self._suspects = suspects - gone
        if gone:
            await core.change_node(self.node, service_origin(), lambda node: self._free(node, gone))

    def _free(self, node: Node, names: Collection[str]) -> Decision:
        """Release what is not in use at the moment of the decision: a claim may have come meanwhile."""
        return node_rules.decide_release(node, sorted(name for name in names if not self._in_use(name)))

    def _in_use(self, name: str) -> bool:
        """Whether a holder is an attempt that is driven here, or is being placed."""
        stream = _run_of(name)
        driven = self.attempts.get(stream) if stream is not None else None
        return self._placing(name) or (driven is not None and driven.number == _number_of(name))

    # --- the loop

    async def run(self) -> None:
        """Drive for ever."""
        janitor = asyncio.create_task(self._clean_up(), name="runner-janitor")
        try:
            while True:
                self._take_up()
                await self._core.board.to_drive.wait(self._core.settings.sweep_every)
        finally:
            janitor.cancel()
            await asyncio.gather(janitor, return_exceptions=True)
            await self._let_go()

    async def _clean_up(self) -> None:
        """Clean up after the former owner once; look for what crashes left now and then."""
        core, is_clean = self._core, False
        while True:
            try:
                if not is_clean:
                    await self._caught_up()
                    self._take_up()
                await self.sweep_holders()
                if not is_clean:
                    await self.end_strangers()
                    is_clean = True
            except TRANSIENT as error:
                _log.warning("sweep_failed", error=str(error))
            except Exception:  # noqa: BLE001 - the next pass makes up for it; without passes nothing is cleaned
                _log.exception("sweep_failed")
            await asyncio.sleep(core.settings.sweep_every)

    def _take_up(self) -> None:
        """Begin to drive what was claimed for this node and is not driven yet."""
        for stream, run in self._core.board.claims_of(self.node):
            known = self.attempts.get(stream)
            if known is not None:
                continue
            process = self._left.pop(attempt_id(stream, run.attempt), None)
            self.attempts[stream] = attempt = Attempt(self._core, self._here, stream, run, process)
            self._tasks[stream] = asyncio.create_task(self._drive(attempt), name=f"attempt:{stream.id}")

    async def _drive(self, attempt: Attempt) -> None:
        """Drive an attempt until it is over, through failures of the store and of ours."""
        tries = 0
        try:
            while not await self._once(attempt, tries):
                await asyncio.sleep(_AGAIN[min(tries, len(_AGAIN) - 1)])
                tries += 1
        finally:
            if self.attempts.get(attempt.stream) is attempt:
                del self.attempts[attempt.stream]
                self._tasks.pop(attempt.stream, None)
            self._core.board.to_drive.ring()

    async def _once(self, attempt: Attempt, tries: int) -> bool:
        try:
            await self._advance(attempt)
        except TRANSIENT as error:
            _log.warning("attempt_delayed", run=str(attempt.stream), error=str(error), tries=tries)
            return False
        except Exception as error:  # noqa: BLE001 - a defect of ours must not leave a process undriven
            _log.exception("attempt_failed", run=str(attempt.stream), tries=tries)
            return tries >= MOST_DEFECTS and await self._give_up(attempt, error)
        return True

    async def _advance(self, attempt: Attempt) -> None:
        """Drive an attempt to its end, or end it when it holds its run no more."""
        try:
            await attempt.drive()
        except Conflict as error:
            if error.code != STALE_FENCE:
                raise
            _log.info("attempt_revoked", run=str(attempt.stream), fence=attempt.fence)
            await attempt.revoke()
            await self._core.see(attempt.stream)

    async def _give_up(self, attempt: Attempt, error: Exception) -> bool:
        try:
            await attempt.give_up(error)
        except Exception as failure:  # noqa: BLE001 - then it is tried again: nobody else knows the process
            _log.warning("attempt_not_given_up", run=str(attempt.stream), error=str(failure))
            return False
        return True

    async def _let_go(self) -> None:
        """Stop driving; processes go on."""
        tasks = list(self._tasks.values())
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        await self._here.prefixes.close()

    def process_of(self, stream: StreamId) -> Attempt | None:
        """Return the attempt of a run that is driven here."""
        return self.attempts.get(stream)

    async def grant(self, seconds: float) -> None:
        """Let all processes of this node live, and others begin, for some seconds more."""
        self._here.permit.extend(seconds)
        processes = [attempt.process for attempt in self.attempts.values() if attempt.process is not None]
        await asyncio.gather(*(process.grant(seconds) for process in processes))


def _number_of(name: str) -> int:
    """Return the number of the attempt that a holder's name belongs to."""
    return int(name.rpartition("#")[2])


def _run_of(name: str) -> StreamId | None:
    """Return the run that a holder's name belongs to, None for replicas."""
    return StreamId.parse(name.rpartition("#")[0]) if name.startswith("run/") else None
