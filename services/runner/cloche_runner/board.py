"""The board: what this process knows of runs and nodes, and who wants to hear of changes.

It is an index over the journal and never the truth: whatever is decided is decided on the streams.
Its loops are woken at once by changes of this process, and by events for those of others.
"""

import asyncio
from collections.abc import Iterator

from cloche_runner.domain.nodes import Node
from cloche_runner.domain.runs import Run, holder
from cloche_runner.domain.scheduler import Plan, Queue, Waiting
from cloche_shared.contracts.runs import Resources
from cloche_shared.journal.commit import StreamId


class Signal:
    """Wakes one loop: it remembers that something happened since the loop last looked."""

    def __init__(self) -> None:
        self._event = asyncio.Event()

    def ring(self) -> None:
        """Wake the loop."""
        self._event.set()

    async def wait(self, seconds: float) -> None:
        """Wait until it rings, at most so many seconds."""
        try:
            async with asyncio.timeout(seconds):
                await self._event.wait()
        except TimeoutError:
            pass
        self._event.clear()


class Board:
    """Queue, claims and nodes as last seen."""

    def __init__(self) -> None:
        self.queue = Queue()
        self.nodes: dict[str, Node] = {}
        self.claims: dict[StreamId, Run] = {}
        self.plan = Plan()
        self.to_place = Signal()
        self.to_drive = Signal()
        self._seen: dict[StreamId, int] = {}
        self._watchers: dict[StreamId, asyncio.Event] = {}
        self._watching: dict[StreamId, int] = {}

    def saw_run(self, stream: StreamId, run: Run, seq: int) -> None:
        """Take a run's state into account, unless a newer one is known."""
        if seq <= self._seen.get(stream, 0):
            return
        self._seen[stream] = seq
        if run.phase == "queued":
            self.queue.add(waiting_of(stream, run))
            self.to_place.ring()
        else:
            self.queue.remove(str(stream))
        if run.is_held:
            self.claims[stream] = run
            self.to_drive.ring()
        elif self.claims.pop(stream, None) is not None:
            self.to_drive.ring()
        if run.is_terminal:
            # a late event about it must not bring it back, so the number stays until many others ended
            self._forget_old()
        self._tell(stream)

    def _forget_old(self) -> None:
        if len(self._seen) > 2 * _KEPT:
            active = set(self.claims)
            ended = [one for one in self._seen if one not in active and str(one) not in self.queue]
            for stream in ended[:-_KEPT]:
                del self._seen[stream]

    def saw_node(self, stream: StreamId, node: Node, seq: int) -> None:
        """Take a node's state into account, unless a newer one is known."""
        if seq <= self._seen.get(stream, 0):
            return
        self._seen[stream] = seq
        self.nodes[stream.id] = node
        self.to_place.ring()
        self._tell(stream)

    def claims_of(self, node: str) -> Iterator[tuple[StreamId, Run]]:
        """Return the runs that a node holds."""
        return iter([(stream, run) for stream, run in self.claims.items() if run.node == node])

    def is_active(self, stream: StreamId) -> bool:
        """Whether a run is queued or held, as far as is known."""
        return stream in self.claims or str(stream) in self.queue

    async def changed(self, stream: StreamId) -> None:
        """Wait until something new is seen of an aggregate."""
        event = self._watchers.setdefault(stream, asyncio.Event())
        self._watching[stream] = self._watching.get(stream, 0) + 1
        try:
            await event.wait()
        finally:
            self._watching[stream] -= 1
            if not self._watching[stream]:
                del self._watching[stream]
                if self._watchers.get(stream) is event:
                    del self._watchers[stream]

    def _tell(self, stream: StreamId) -> None:
        event = self._watchers.pop(stream, None)
        if event is not None:
            event.set()


_KEPT = 20_000


def waiting_of(stream: StreamId, run: Run) -> Waiting:
    """Return a queued run as the scheduler sees it."""
    spec = run.spec
    return Waiting(
        key=str(stream),
        holder=holder(str(stream), run.attempt + 1),
        project=stream.project,
        priority=spec.priority if spec is not None else 0,
        since=run.created_at,
        resources=spec.resources if spec is not None else Resources(),
        not_before=run.not_before,
    )
