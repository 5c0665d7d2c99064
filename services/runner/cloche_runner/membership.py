"""Nodes' leases: renewing one's own, and declaring others lost when theirs run out.

Observers time the counters of others by their own clock. A node that cannot renew lets its
supervisors' grants run out first, at 70 % of the time to live, so that nothing of it lives when others
take over.
"""

import asyncio
from dataclasses import dataclass

from cloche_runner.domain import nodes as node_rules
from cloche_runner.domain import run_decisions as decisions
from cloche_runner.domain.nodes import NODE_PROJECT
from cloche_runner.domain.runs import NODE_LOST, Run
from cloche_runner.driver import STALE_FENCE, Driver
from cloche_runner.handlers import Core, service_origin
from cloche_runner.permit import GRANT_SHARE
from cloche_shared.contracts.references import Problem
from cloche_shared.errors import Conflict, Unavailable
from cloche_shared.journal.commit import StreamId
from cloche_shared.journal.streams import Decision
from cloche_shared.notes import notes_of
from cloche_shared.ports.journal import Lease, Leases, OutcomeUnknownError

_log = notes_of(__name__)
MARGIN_S = 1.0
AGAIN_S = 0.5
"""Seconds before a store that did not answer is asked again."""
MOST_DEAD = 0.5
ACT_SHARE = 1 / 3
"""The share of the time to live after a look within which its result is acted on."""


@dataclass(slots=True)
class _Sight:
    counter: int
    at: float


class Membership:
    """Renews this node's lease (where it drives one) and watches the others'."""

    def __init__(self, core: Core, leases: Leases, driver: Driver | None) -> None:
        self._core = core
        self._leases = leases
        self._driver = driver
        self._ttl = core.settings.lease
        self._counter = 0
        self._sights: dict[str, _Sight] = {}
        self._looked_at = 0.0
        self._postponed_until = 0.0
        self._acts_until = 0.0

    async def renew(self) -> None:
        """Renew for ever, at a third of the time to live; grant after each renewal."""
        if self._driver is None:
            return
        await self._resume(self._driver.node)
        while True:
            await self._renew_once(self._driver)
            await asyncio.sleep(self._ttl / 3)

    async def _resume(self, node: str) -> None:
        """Go on from the counter of a former process, so that observers see it change."""
        while True:
            try:
                known = await self._leases.get(node)
            except (Unavailable, OutcomeUnknownError, TimeoutError) as error:
                _log.warning("lease_not_read", node=node, error=str(error))
                await asyncio.sleep(AGAIN_S)
            else:
                self._counter = known.counter if known is not None else 0
                return

    async def _renew_once(self, driver: Driver) -> None:
        self._counter += 1
        grant = self._ttl * GRANT_SHARE
        lease = Lease(driver.node, self._counter, self._ttl, self._core.settings.address, grant)
        asked = self._core.clock.monotonic()
        try:
            await self._leases.put(lease)
            await self._come_back(driver)
        except (Unavailable, OutcomeUnknownError, TimeoutError) as error:
            _log.warning("lease_not_renewed", node=driver.node, error=str(error))
            return
        await driver.grant(max(0.0, grant - (self._core.clock.monotonic() - asked)))

    async def _come_back(self, driver: Driver) -> None:
        """Join again when somebody declared this node lost; its attempts find their fences old."""
        core = self._core
        node = (await core.nodes.get(core.nodes.id(NODE_PROJECT, driver.node))).state
        if node.lost and not driver.attempts:
            await driver.join()

    async def observe(self) -> None:
        """Watch for ever."""
        while True:
            await asyncio.sleep(self._ttl / 3)
            try:
                await self.look()
            except (Unavailable, OutcomeUnknownError) as error:
                _log.warning("leases_not_read", error=str(error))

    async def look(self) -> None:
        """Look at all leases once, and take over what is overdue."""
        now = self._core.clock.monotonic()
        slept = now - self._looked_at > self._ttl
        self._looked_at = now
        self._acts_until = now + self._ttl * ACT_SHARE
        leases = [lease for lease in await self._leases.all() if not self._is_mine(lease.holder)]
        for lease in leases:
            sight = self._sights.get(lease.holder)
            if sight is None or sight.counter != lease.counter or slept:
                self._sights[lease.holder] = _Sight(lease.counter, now)
        overdue = {lease.holder for lease in leases if self._is_overdue(lease, now)}
        await self._sweep_lost({lease.holder for lease in leases} - overdue)
        dead = [node for node in sorted(overdue) if await self._is_here(node)]
        if not dead or self._brakes(len(dead), len(leases) + 1, now):
            return
        for node in dead:
            await self.declare_lost(node)

    def _acts(self) -> bool:
        """Whether the last look is fresh: who was held up since then may act on what is no longer so."""
        return self._core.clock.monotonic() < self._acts_until

    async def _sweep_lost(self, alive: set[str]) -> None:
        """Take away what lost nodes still hold: whoever declared them lost may have died before that.

        A lost node that renews its lease again ends its attempts itself before it joins.
        """
        held = [(stream, run.node) for stream, run in self._core.board.claims.items()]
        for node in sorted({node for _, node in held} - alive):
            present = await self._core.nodes.get(self._core.nodes.id(NODE_PROJECT, node))
            if present.state.lost and not self._is_mine(node):
                _log.warning("lost_nodes_runs_found", node=node)
                await self._take_all(node, {stream for stream, holder in held if holder == node})

    def _is_mine(self, holder: str) -> bool:
        return self._driver is not None and holder == self._driver.node

    def _is_overdue(self, lease: Lease, now: float) -> bool:
        return now - self._sights[lease.holder].at > max(lease.ttl + MARGIN_S, lease.grant_until + MARGIN_S)

    async def _is_here(self, node: str) -> bool:
        present = await self._core.nodes.get(self._core.nodes.id(NODE_PROJECT, node))
        return present.state.is_here

    def _brakes(self, dead: int, of: int, now: float) -> bool:
        """Postpone once, by one time to live, when most nodes look dead: it may be the observer that is blind."""
        if dead / of <= MOST_DEAD:
            self._postponed_until = 0.0
            return False
        if not self._postponed_until:
            self._postponed_until = now + self._ttl
        return now < self._postponed_until

    async def declare_lost(self, node: str) -> None:
        """Take a node's attempts away, then the node."""
        _log.warning("node_lost", node=node)
        core = self._core
        state = (await core.nodes.get(core.nodes.id(NODE_PROJECT, node))).state
        held = {StreamId.parse(name.rpartition("#")[0]) for name in state.held if name.startswith("run/")}
        held |= {stream for stream, _ in core.board.claims_of(node)}
        await core.change_node(
            node, service_origin(), lambda state: node_rules.decide_lost(state) if self._acts() else Decision()
        )
        await self._take_all(node, held)

    async def _take_all(self, node: str, held: set[StreamId]) -> None:
        await asyncio.gather(*(self._take_away(stream, node) for stream in sorted(held, key=str)))

    async def _take_away(self, stream: StreamId, node: str) -> None:
        core = self._core
        run = (await core.runs.get(stream)).state
        if not run.is_held or run.node != node or not self._acts():
            return
        await lose(core, stream, run, Problem(code=NODE_LOST, message=f"The node {node} did not renew its lease."))


async def lose(core: Core, stream: StreamId, run: Run, problem: Problem) -> None:
    """Record that a run's present attempt is lost; harmless when it is over by now."""
    delay = core.settings.loss_delay * 2**run.losses
    again = decisions.Again(core.settings.losses, core.after(delay))
    at = core.writer.now()
    try:
        await core.change_run(
            stream,
            service_origin(stream.id),
            lambda state: decisions.decide_lost(state, run.fence, problem, None, again, at),
        )
    except Conflict as error:
        if error.code != STALE_FENCE:
            raise
