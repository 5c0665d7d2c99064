"""The consumer engine: from a subscription to handlers, over every bus.

In order per key, parallel across keys. An event's offset is committed after its effect: per source
the lowest contiguous one, so a crash means redelivery, never loss. What fails for a while is tried
again in place while other keys go on; what can never work becomes a dead letter, and counts as
handled only once the bus has it.
"""

import asyncio
import contextlib
from collections import deque
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TypeVar

from cloche_shared.contracts.envelope import Event
from cloche_shared.errors import Invalid, Throttled, Unavailable
from cloche_shared.notes import notes_of
from cloche_shared.ports.bus import Bus, DeadLetter, Delivery, Subscription
from cloche_shared.ports.journal import OutcomeUnknownError
from cloche_shared.ports.platform import Random

T = TypeVar("T")
Handler = Callable[[Event], Awaitable[None]]

TRANSIENT = (Unavailable, Throttled, OutcomeUnknownError, TimeoutError, ConnectionError)
BUG_TRIES = 3
FIRST_DELAY, DELAY_FACTOR, LONGEST_DELAY = 0.1, 4.0, 30.0
"""The waits before the second to the sixth try are about 0.1, 0.4, 1.6, 6.4 and 25.6 s, then always 30 s."""
COMMIT_EVERY = 0.05
"""Seconds between two commits of offsets, so that a busy group costs the broker 20 a second."""
MOST_PENDING = 5_000
"""Events taken in and not yet handled; beyond it nothing more is fetched."""

_log = notes_of(__name__)


@dataclass(slots=True)
class Counters:
    """What a consumer did since it started, for metrics."""

    handled: int = 0
    skipped: int = 0
    retried: int = 0
    buried: int = 0


@dataclass(slots=True, eq=False)
class _Ledger:
    """The events of one source that were taken in, in order; `next` is the offset to commit."""

    next: int = 0
    newest: int = -1
    items: "deque[_Item]" = field(default_factory=deque)

    def settle(self) -> None:
        items = self.items
        while items and items[0].done:
            self.next = items.popleft().delivery.offset + 1


@dataclass(slots=True, eq=False)
class _Item:
    delivery: Delivery
    ledger: _Ledger
    done: bool = False
    tries: int = 0
    bugs: int = 0
    letter: DeadLetter | None = None


@dataclass(slots=True, eq=False)
class _Lane:
    """What waits for one key. It is queued, worked on, or parked until a retry: never two of these."""

    key: str
    items: deque[_Item] = field(default_factory=deque)


def delay_before(tries: int, random: Random) -> float:
    """Return the seconds to wait after `tries` failed tries, jittered."""
    return min(LONGEST_DELAY, FIRST_DELAY * DELAY_FACTOR ** min(tries - 1, 10)) * random.uniform(0.5, 1.0)


class Consumer:
    """Feeds a group's events to handlers by type (`cloche.RunSubmitted.v1`).

    Types that are not in the table go to `other`, or are skipped and counted: they are for others, or from a
    newer version. With `buries_unreadable` false, what cannot be read is skipped too: another group buries it.
    At most `concurrency` handlers run at a time. A handler that raises one of `TRANSIENT`
    is called again until it succeeds; one that raises `Invalid` never is; anything else is a bug,
    tried three times.
    """

    def __init__(  # noqa: PLR0913 - a composition root names each of them
        self,
        bus: Bus,
        group: str,
        topics: Sequence[str],
        handlers: Mapping[str, Handler],
        *,
        random: Random,
        code_version: str,
        concurrency: int = 256,
        stop_deadline: float = 10.0,
        other: Handler | None = None,
        buries_unreadable: bool = True,
    ) -> None:
        self.group = group
        self._other = other
        self._buries_unreadable = buries_unreadable
        self.counters = Counters()
        self._bus = bus
        self._topics = tuple(topics)
        self._handlers = dict(handlers)
        self._random = random
        self._code_version = code_version
        self._concurrency = concurrency
        self._stop_deadline = stop_deadline
        self._stopping = asyncio.Event()
        self._subscription: Subscription | None = None
        self._ledgers: dict[str, _Ledger] = {}
        self._dirty: dict[str, None] = {}
        self._lanes: dict[str, _Lane] = {}
        self._ready: deque[_Lane] = deque()
        self._idle: deque[asyncio.Future[None]] = deque()
        self._workers: list[asyncio.Task[None]] = []
        self._room = asyncio.Event()
        self._progress = asyncio.Event()
        self._pending = 0
        self._running = 0

    async def lag(self) -> int:
        """Return how many events are not handled yet."""
        behind = await self._subscription.lag() if self._subscription is not None else 0
        return behind + self._pending

    def stop(self) -> None:
        """Take nothing more in; `run` returns once running handlers ended, at most after the deadline."""
        self._stopping.set()

    async def run(self) -> None:
        """Consume until `stop` is called. Cancelling it ends handlers where they are."""
        async with self._bus.subscribe(self.group, self._topics) as subscription:
            self._subscription = subscription
            intake = asyncio.create_task(self._take_in(subscription))
            commits = asyncio.create_task(self._commit_for_ever(subscription))
            stop = asyncio.create_task(self._stopping.wait())
            tasks = [stop, intake, commits]
            try:
                await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
                intake.cancel()
                await self._drain()
            finally:
                tasks += self._workers
                for task in tasks:
                    task.cancel()
                ended = await asyncio.gather(*tasks, return_exceptions=True)
                self._subscription = None
            await self._commit(subscription)
            for end in ended:
                if isinstance(end, Exception):
                    raise end

    async def _drain(self) -> None:
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(self._stop_deadline):
                while self._running:
                    self._progress.clear()
                    await self._progress.wait()

    async def _take_in(self, subscription: Subscription) -> None:
        failures = 0
        while True:
            while self._pending >= MOST_PENDING:
                self._room.clear()
                await self._room.wait()
            try:
                batch = await subscription.fetch()
            except TRANSIENT as error:
                failures += 1
                _log.warning("fetch_failed", group=self.group, error=str(error), tries=failures)
                await asyncio.sleep(delay_before(failures, self._random))
                continue
            failures = 0
            for delivery in batch:
                self._accept(delivery)
            self._wake_workers()
            # A fetch that finds something need not suspend; the handlers want the loop now.
            await asyncio.sleep(0)

    def _accept(self, delivery: Delivery) -> None:
        source, offset, event = delivery.source, delivery.offset, delivery.event
        ledger = self._ledgers.get(source)
        if ledger is None or offset <= ledger.newest:
            # New, or dealt to us again from an older offset: what still runs counts in the old ledger.
            ledger = self._ledgers[source] = _Ledger(offset)
        ledger.newest = offset
        if self._skips(event):
            self.counters.skipped += 1
            self._pass_over(source, ledger, delivery)
            return
        item = _Item(delivery, ledger)
        ledger.items.append(item)
        self._pending += 1
        lane = self._lanes.get(delivery.key)
        if lane is None:
            lane = self._lanes[delivery.key] = _Lane(delivery.key)
            self._ready.append(lane)
        lane.items.append(item)

    def _skips(self, event: Event | None) -> bool:
        if event is None:
            return not self._buries_unreadable
        return self._other is None and event.type not in self._handlers

    def _pass_over(self, source: str, ledger: _Ledger, delivery: Delivery) -> None:
        if ledger.items:
            ledger.items.append(_Item(delivery, ledger, done=True))
        else:
            ledger.next = delivery.offset + 1
            self._dirty[source] = None

    def _wake_workers(self) -> None:
        """Give each lane that is ready a worker; more are hired only while all are busy."""
        served = min(len(self._ready), len(self._idle))
        for _ in range(served):
            waiter = self._idle.popleft()
            if not waiter.done():
                waiter.set_result(None)
        for _ in range(min(len(self._ready) - served, self._concurrency - len(self._workers))):
            worker = asyncio.create_task(self._work())
            worker.add_done_callback(self._worker_ended)
            self._workers.append(worker)

    def _worker_ended(self, worker: "asyncio.Task[None]") -> None:
        if not worker.cancelled():
            self._stopping.set()

    async def _work(self) -> None:
        """Work on lanes. One worker runs through a lane without a task per event."""
        while True:
            while not self._ready or self._stopping.is_set():
                waiter = asyncio.get_running_loop().create_future()
                self._idle.append(waiter)
                await waiter
            lane = self._ready.popleft()
            self._running += 1
            try:
                await self._run_lane(lane)
            finally:
                self._running -= 1
                self._progress.set()

    async def _run_lane(self, lane: _Lane) -> None:
        items = lane.items
        while items:
            item = items[0]
            delay = await self._handle(item)
            if delay is not None:
                asyncio.get_running_loop().call_later(delay, self._unpark, lane)
                return
            items.popleft()
            self._finish(item)
            if self._stopping.is_set():
                return
        del self._lanes[lane.key]

    def _unpark(self, lane: _Lane) -> None:
        self._ready.append(lane)
        self._wake_workers()

    def _finish(self, item: _Item) -> None:
        item.done = True
        self._pending -= 1
        ledger = item.ledger
        if ledger.items[0] is item:
            ledger.settle()
            self._dirty[item.delivery.source] = None
        if not self._room.is_set():
            self._room.set()

    async def _handle(self, item: _Item) -> float | None:
        """Try once. Return None when the event is done with, else the seconds until the next try."""
        event = item.delivery.event
        try:
            if item.letter is not None or event is None:
                await self._bury(item, item.delivery.reason)
                return None
            handler = self._handlers.get(event.type, self._other)
            if handler is not None:
                await handler(event)
        except TRANSIENT as error:
            item.tries += 1
            return self._retry(item, error)
        except Invalid as error:
            item.tries += 1
            return await self._give_up(item, error)
        except asyncio.CancelledError as error:
            task = asyncio.current_task()
            if task is None or task.cancelling():
                raise
            # Not we are cancelled, but something that the handler waited for: a bug like any other.
            return await self._bug(item, error)
        except Exception as error:  # noqa: BLE001 - a handler's bug concerns its event, not the consumer
            return await self._bug(item, error)
        self.counters.handled += 1
        return None

    async def _bug(self, item: _Item, error: BaseException) -> float | None:
        item.tries += 1
        item.bugs += 1
        return await self._give_up(item, error) if item.bugs >= BUG_TRIES else self._retry(item, error)

    def _retry(self, item: _Item, error: BaseException) -> float:
        self.counters.retried += 1
        event = item.delivery.event
        delay = delay_before(item.tries, self._random)
        _log.warning(
            "event_retried",
            group=self.group,
            event_id=event.id if event else "",
            tries=item.tries,
            delay=round(delay, 3),
            error=_reason(error),
        )
        return delay

    async def _give_up(self, item: _Item, error: BaseException) -> float | None:
        try:
            await self._bury(item, _reason(error))
        except TRANSIENT as trouble:
            return self._retry(item, trouble)
        return None

    async def _bury(self, item: _Item, reason: str) -> None:
        if item.letter is None:
            item.letter = DeadLetter(self.group, item.delivery, reason, max(item.tries, 1), self._code_version)
        await self._bus.bury(item.letter)
        self.counters.buried += 1
        event = item.delivery.event
        _log.error("event_buried", group=self.group, event_id=event.id if event else "", reason=item.letter.reason)

    async def _commit_for_ever(self, subscription: Subscription) -> None:
        while True:
            await asyncio.sleep(COMMIT_EVERY)
            await self._commit(subscription)

    async def _commit(self, subscription: Subscription) -> None:
        if not self._dirty:
            return
        dirty, self._dirty = self._dirty, {}
        try:
            await subscription.commit({source: self._ledgers[source].next for source in dirty})
        except TRANSIENT as error:
            self._dirty |= dirty
            _log.warning("commit_failed", group=self.group, error=str(error))


def _reason(error: BaseException) -> str:
    return f"{type(error).__name__}: {error}"


BatchHandler = Callable[[Sequence[Event]], Awaitable[None]]


class BatchConsumer:
    """Feeds a group's events to one handler in batches, for projectors: one effect, one commit.

    The handler must be harmless to call again with events that it had. When a batch fails for
    another reason than `TRANSIENT`, its events are tried one by one, so that only those that cannot
    be handled become dead letters. After a batch it rests for `rest` seconds, so that a burst of facts
    about one aggregate becomes one row instead of one for each.
    """

    def __init__(  # noqa: PLR0913 - a composition root names each of them
        self,
        bus: Bus,
        group: str,
        topics: Sequence[str],
        handle: BatchHandler,
        *,
        random: Random,
        code_version: str,
        rest: float = 0.0,
    ) -> None:
        self.group = group
        self.counters = Counters()
        self._bus = bus
        self._topics = tuple(topics)
        self._handle = handle
        self._random = random
        self._code_version = code_version
        self._rest = rest
        self._stopping = asyncio.Event()
        self._subscription: Subscription | None = None

    async def lag(self) -> int:
        """Return how many events are not handled yet."""
        return await self._subscription.lag() if self._subscription is not None else 0

    def stop(self) -> None:
        """Let `run` return after the batch that is being handled."""
        self._stopping.set()

    async def run(self) -> None:
        """Consume until `stop` is called."""
        async with self._bus.subscribe(self.group, self._topics) as subscription:
            self._subscription = subscription
            stop = asyncio.create_task(self._stopping.wait())
            try:
                while not self._stopping.is_set():
                    fetch = asyncio.create_task(self._patiently(subscription.fetch))
                    try:
                        await asyncio.wait((stop, fetch), return_when=asyncio.FIRST_COMPLETED)
                    finally:
                        if not fetch.done():
                            fetch.cancel()
                    if fetch.done():
                        await self._run_batch(subscription, fetch.result())
                        await self._pause()
            finally:
                stop.cancel()
                self._subscription = None

    async def _pause(self) -> None:
        if self._rest:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(self._rest):
                    await self._stopping.wait()

    async def _run_batch(self, subscription: Subscription, batch: Sequence[Delivery]) -> None:
        events = [delivery.event for delivery in batch if delivery.event is not None]
        try:
            if events:
                await self._patiently(lambda: self._handle(events))
            self.counters.handled += len(events)
        except Exception:  # noqa: BLE001 - which event it was is found out one by one
            for delivery in batch:
                await self._run_one(delivery)
        else:
            for delivery in batch:
                if delivery.event is None:
                    await self._bury(delivery, delivery.reason, 1)
        await self._patiently(lambda: subscription.commit({item.source: item.offset + 1 for item in batch}))

    async def _run_one(self, delivery: Delivery) -> None:
        event = delivery.event
        if event is None:
            await self._bury(delivery, delivery.reason, 1)
            return
        for tries in range(1, BUG_TRIES + 1):
            try:
                await self._patiently(lambda: self._handle([event]))
            except Exception as error:  # noqa: BLE001 - a bug concerns its event
                if isinstance(error, Invalid) or tries == BUG_TRIES:
                    await self._bury(delivery, _reason(error), tries)
                    return
                self.counters.retried += 1
                await asyncio.sleep(delay_before(tries, self._random))
            else:
                self.counters.handled += 1
                return

    async def _bury(self, delivery: Delivery, reason: str, tries: int) -> None:
        letter = DeadLetter(self.group, delivery, reason, tries, self._code_version)
        await self._patiently(lambda: self._bus.bury(letter))
        self.counters.buried += 1
        _log.error("event_buried", group=self.group, offset=delivery.offset, reason=reason)

    async def _patiently(self, action: Callable[[], Awaitable[T]]) -> T:
        """Do it until no passing trouble is in the way."""
        tries = 0
        while True:
            try:
                return await action()
            except TRANSIENT as error:
                tries += 1
                self.counters.retried += 1
                _log.warning("batch_retried", group=self.group, tries=tries, error=_reason(error))
                await asyncio.sleep(delay_before(tries, self._random))
