"""The scheduling loop: allocate on the node, then claim in the run; a refused claim releases at once."""

import asyncio
from collections import defaultdict

from cloche_runner.domain import nodes as node_rules
from cloche_runner.domain import run_decisions as decisions
from cloche_runner.domain.nodes import Claimant
from cloche_runner.domain.scheduler import Placement, Times, explain, plan
from cloche_runner.handlers import Core, service_origin
from cloche_shared.contracts.facts import ResourcesAllocated
from cloche_shared.errors import Conflict, Unavailable
from cloche_shared.journal.commit import StreamId
from cloche_shared.notes import notes_of
from cloche_shared.ports.journal import OutcomeUnknownError

_log = notes_of(__name__)
_RETRY_S = 0.5


class Scheduling:
    """Places queued runs, woken by every change of queue or nodes."""

    def __init__(self, core: Core) -> None:
        self._core = core
        self.placing: set[str] = set()

    async def run(self) -> None:
        """Place for ever."""
        while True:
            try:
                await self.round()
                pause = self._pause()
            except (Unavailable, OutcomeUnknownError) as error:
                _log.warning("scheduling_failed", error=str(error))
                pause = _RETRY_S
            await self._core.board.to_place.wait(pause)

    def _pause(self) -> float:
        """Return the seconds until a run's time comes or another may reserve; bounded by the sweep."""
        core = self._core
        following = core.board.queue.next_time(core.after(0.0))
        pause = core.settings.sweep_every
        if len(core.board.queue):
            pause = min(pause, max(1.0, core.settings.patience / 4))
        if following:
            pause = min(pause, 0.25)
        return pause

    async def round(self) -> None:
        """Decide once and carry it out, all nodes at the same time."""
        core = self._core
        settings = core.settings
        times = Times(core.after(0.0), core.after(-settings.patience), core.after(-settings.starving))
        core.board.plan = made = plan(core.board.queue, core.board.nodes, times)
        by_node: defaultdict[str, list[Placement]] = defaultdict(list)
        for placement in made.placements:
            by_node[placement.node].append(placement)
        holders = {placement.waiting.holder for placement in made.placements}
        self.placing |= holders
        try:
            async with asyncio.TaskGroup() as group:
                for node, placements in by_node.items():
                    group.create_task(self._place(node, placements))
        except* (Unavailable, OutcomeUnknownError) as errors:
            raise Unavailable("store_unavailable", "The store did not take a placement.") from errors
        finally:
            self.placing -= holders

    async def _place(self, node: str, placements: list[Placement]) -> None:
        claimants = [Claimant(one.waiting.holder, one.waiting.resources) for one in placements]
        changed = await self._core.change_node(
            node, service_origin(), lambda state: node_rules.decide_allocate(state, claimants)
        )
        given = {fact.holder: fact for fact in changed.facts if isinstance(fact, ResourcesAllocated)}
        mine = [one for one in placements if one.waiting.holder in given]
        claimed = await asyncio.gather(*(self._claim(node, one, given[one.waiting.holder].gpus) for one in mine))
        refused = [one.waiting.holder for one, is_claimed in zip(mine, claimed, strict=True) if not is_claimed]
        if refused:
            await self._core.release(node, refused)

    async def _claim(self, node: str, placement: Placement, gpus: tuple[str, ...]) -> bool:
        waiting = placement.waiting
        stream = StreamId.parse(waiting.key)
        attempt = int(waiting.holder.rpartition("#")[2])
        try:
            await self._core.change_run(
                stream, service_origin(stream.id), lambda run: decisions.decide_claim(run, node, attempt, gpus)
            )
        except Conflict:
            return await self._is_claimed(stream, node, attempt)
        return True

    async def _is_claimed(self, stream: StreamId, node: str, attempt: int) -> bool:
        """Tell whether another replica gave the run to this very node: the allocation is that attempt's then."""
        await self._core.see(stream)
        run = self._core.board.claims.get(stream)
        return run is not None and run.node == node and run.attempt == attempt

    def why(self, key: str) -> str:
        """Return why a queued run waits."""
        board = self._core.board
        waiting = board.queue.get(key)
        return explain(waiting, board.nodes, board.plan) if waiting is not None else "is about to start."
