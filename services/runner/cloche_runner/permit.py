"""Permit: a node's right to run processes.

Where several processes share a journal, others take a node's attempts over once its lease has run
out; so none of its processes may begin, or live on, without a grant that ends before that.
"""

import asyncio

from cloche_shared.ports.executor import Process
from cloche_shared.ports.platform import Clock

GRANT_SHARE = 0.7
"""The part of the lease's time to live that a renewal grants to the node's processes."""


class Permit:
    """`lease` is the time to live of the node's lease in seconds; None: there is none, and no end."""

    def __init__(self, clock: Clock, lease: float | None) -> None:
        self.grant = None if lease is None else lease * GRANT_SHARE
        self._clock = clock
        self._until = float("-inf") if lease is not None else float("inf")
        self._extended = asyncio.Event()

    @property
    def is_limited(self) -> bool:
        """Whether others take over what this node holds when it is lost."""
        return self.grant is not None

    def extend(self, seconds: float) -> None:
        """Take note that the lease was renewed: processes may live for so long from now."""
        self._until = self._clock.monotonic() + seconds
        self._extended.set()

    def orphan_after(self, endless: float) -> float:
        """Return how long a process may live after its owner's death; `endless` where no lease is in use."""
        return endless if self.grant is None else self.grant

    async def wait(self) -> float:
        """Wait until processes may be started; return the moment until which that is certain now."""
        while self._clock.monotonic() >= self._until:
            self._extended.clear()
            await self._extended.wait()
        return self._until

    def is_before(self, moment: float) -> bool:
        """Tell whether a moment that `wait` returned is still to come."""
        return self._clock.monotonic() < moment

    async def apply(self, process: Process) -> None:
        """Bound a process that was just started by what is left of the grant."""
        if self.grant is not None:
            await process.grant(max(0.0, self._until - self._clock.monotonic()))
