"""The workers of one revision: which of them gets a call, and what happens when one ends."""

import asyncio
import contextlib
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

from cloche_deployer.scoring.calls import Call, ClientLeft, ScoringTimeout, WaitedTooLong, WorkerLost
from cloche_deployer.scoring.metrics import Metrics
from cloche_deployer.scoring.ports import Connector, WorkerEnd, WorkerProcess, Workers
from cloche_deployer.scoring.seat import Seat
from cloche_shared.errors import ClocheError, Failed, Throttled, Unavailable
from cloche_shared.notes import notes_of

_log = notes_of(__name__)

State = Literal["starting", "ready", "restarting", "unhealthy", "stopped"]

_TICK = 0.05
_PATIENCE = 0.1
_CONNECT_PAUSE = 0.02
_ENDING = 1.0


@dataclass(frozen=True, slots=True)
class PoolSettings:
    """How a revision is served; seconds where nothing else is said.

    `workers` processes; at most `queue` calls wait for one of them. `timeout` bounds the script's
    function, `wait` the time before it begins. `init_timeout` bounds the start of a worker.
    `grace` lies between asking and killing. After a crash the next worker starts after `backoff`,
    doubled up to `backoff_max`; `crash_limit` crashes within `crash_window` are a crash loop. An
    idle worker that does not answer a ping within `ping_timeout` is replaced.
    """

    workers: int = 1
    queue: int = 256
    timeout: float = 3600.0
    wait: float = 3600.0
    init_timeout: float = 1800.0
    grace: float = 5.0
    backoff: float = 0.1
    backoff_max: float = 30.0
    crash_limit: int = 5
    crash_window: float = 60.0
    ping_every: float = 5.0
    ping_timeout: float = 15.0


class WorkerPool:
    """Owns the workers of one revision from start (or adoption) to stop (or detachment).

    `note` takes a sentence for the service's log about each worker that ended by itself or was killed.
    """

    def __init__(
        self,
        workers: Workers,
        connector: Connector,
        settings: PoolSettings,
        metrics: Metrics | None = None,
        note: Callable[[str], None] = lambda _sentence: None,
    ) -> None:
        self._note = note
        self._workers = workers
        self._connector = connector
        self._settings = settings
        self._ready: list[Seat] = []
        self._waiting: deque[Call] = deque()
        self._tasks: list[asyncio.Task[None]] = []
        self._watchers: set[asyncio.Task[None]] = set()
        self._timer: asyncio.TimerHandle | None = None
        self._changed = asyncio.Event()
        self._crashes: deque[float] = deque(maxlen=settings.crash_limit)
        self._own_crashes: deque[float] = deque(maxlen=settings.crash_limit)
        self._begun = self._closing = self._draining = self._keep = False
        self.failure: ClocheError | None = None
        self.hello: dict[str, object] = {}
        self.headers_wanted = False
        self.any_method = False
        self.metrics = metrics or Metrics()

    @property
    def state(self) -> State:
        """What the pool can do now."""
        if self._closing or self._draining:
            return "stopped"
        if self._ready:
            return "ready"
        if self.crash_loop:
            return "unhealthy"
        return "restarting" if self._begun else "starting"

    @property
    def crash_loop(self) -> bool:
        """Whether workers crashed so often of late that none can be expected soon."""
        return self._often(self._crashes)

    def _often(self, crashes: deque[float]) -> bool:
        since = asyncio.get_running_loop().time() - self._settings.crash_window
        return sum(moment > since for moment in crashes) >= self._settings.crash_limit

    @property
    def ready_workers(self) -> int:
        """How many workers can take calls."""
        return len(self._ready)

    @property
    def outstanding(self) -> int:
        """How many calls wait or are with a worker."""
        return len(self._waiting) + sum(len(seat.open) for seat in self._ready)

    @property
    def timeout(self) -> float:
        """Seconds that the script's function may run."""
        return self._settings.timeout

    @property
    def longest(self) -> float:
        """Seconds after which every call that was taken has its answer."""
        return self._settings.wait + self._settings.timeout

    def age(self, call: Call) -> float:
        """Return the seconds since a call was submitted."""
        return asyncio.get_running_loop().time() - call.born

    async def start(self) -> None:
        """Adopt what lives, start what is missing; `ready` tells when the first can serve."""
        adopted = list(await self._workers.adopt())
        count = max(self._settings.workers, 1)
        for surplus in adopted[count:]:
            await surplus.stop(grace=self._settings.grace)
        for index in range(count):
            process = adopted[index] if index < len(adopted) else None
            self._tasks.append(asyncio.create_task(self._occupy(process), name=f"scoring-seat-{index}"))
        self._tasks.append(asyncio.create_task(self._ping(), name="scoring-ping"))

    async def ready(self) -> None:
        """Wait until a worker can serve. Raises `Failed` with the reason of the first that cannot."""
        while not self._ready:
            if self.failure is not None:
                raise self.failure
            self._changed.clear()
            await self._changed.wait()

    async def down(self) -> ClocheError:
        """Wait until the revision is to be given up, and return why.

        Only crashes without a call count: whoever may send requests must not be able to end the service.
        """
        while self._ready or self.failure is None or not self._often(self._own_crashes):
            self._changed.clear()
            await self._changed.wait()
        return self.failure

    def submit(self, call: Call) -> None:
        """Give a call to the least loaded worker, or let it wait; its future tells the outcome.

        Raises `Throttled` when too many wait, `Unavailable` when no worker can be expected.
        """
        loop = asyncio.get_running_loop()
        now = call.born = loop.time()
        call.deadline = now + self._settings.wait
        call.future = loop.create_future()
        seat = self._choose(now) if not self._waiting else None
        if seat is not None:
            seat.send(call, now)
        else:
            self.check_room()
            self._waiting.append(call)
        if self._timer is None:
            self._timer = loop.call_later(_TICK, self._tick)

    def check_room(self) -> None:
        """Raise `Throttled` or `Unavailable` when no further call may wait."""
        if self._ready and not self._waiting and not self._closing:
            return
        if self.state not in {"ready", "restarting"}:
            raise Unavailable(
                "service_unavailable",
                "No worker of this service can answer now.",
                why=str(self.failure or "") or f"The service is {self.state}.",
                todo="See the service's log for the reason.",
            )
        if len(self._waiting) >= self._settings.queue:
            raise Throttled(
                "too_many_requests",
                f"{self._settings.queue} requests wait for this service already.",
                todo="Send the request again after the time in Retry-After, or give the service more workers.",
            )

    def _choose(self, now: float) -> Seat | None:
        best, least = None, 1 << 30
        for seat in self._ready:
            load = len(seat.open)
            if load < seat.window:
                if load and now - seat.head_since > _PATIENCE:
                    load += seat.window
                if load < least:
                    best, least = seat, load
        return best

    def _freed(self, seat: Seat) -> None:
        """Fill a seat that has room again, or take back what a lost one held."""
        if seat.link is None:
            self._lost(seat)
        if self._draining:
            self._changed.set()
        waiting = self._waiting
        while waiting:
            now = asyncio.get_running_loop().time()
            chosen = self._choose(now)
            if chosen is None:
                return
            call = waiting.popleft()
            if not call.future.done():
                chosen.send(call, now)

    def _lost(self, seat: Seat) -> None:
        """Only the oldest call can have begun (the worker answers before it goes on); others wait again."""
        if seat in self._ready:
            self._ready.remove(seat)
        calls = list(seat.open.values())
        seat.open.clear()
        for call in reversed(calls[1:]):
            if not call.future.done():
                self._waiting.appendleft(call)
        if calls:
            seat.fallen = calls[0]
            if self._closing:
                calls[0].fail(WorkerLost())
        self._changed.set()

    def _tick(self) -> None:
        loop = asyncio.get_running_loop()
        now = loop.time()
        for seat in list(self._ready):
            if seat.open and now - seat.head_since > self._settings.timeout:
                next(iter(seat.open.values())).fail(ScoringTimeout())
                seat.kill(f"run() took longer than {self._settings.timeout:g} s")
            for number, call in list(seat.open.items())[1:]:
                if self._overdue(call, now):
                    seat.drop(number)
                    del seat.open[number]
        for call in list(self._waiting):
            if self._overdue(call, now):
                self._waiting.remove(call)
        self._timer = loop.call_later(_TICK, self._tick) if self.outstanding else None

    def _overdue(self, call: Call, now: float) -> bool:
        """Whether a call that has not begun is to be dropped; begins to watch a slow one's client."""
        if call.future.done():
            return True
        if now > call.deadline:
            call.fail(WaitedTooLong())
            return True
        if call.watcher is None and now - call.born > _PATIENCE:
            call.watcher = asyncio.create_task(self._watch(call), name="scoring-watch")
            self._watchers.add(call.watcher)
            call.watcher.add_done_callback(self._watchers.discard)
            watcher = call.watcher
            call.future.add_done_callback(lambda _: watcher.cancel())
        return False

    async def _watch(self, call: Call) -> None:
        await call.watch()
        call.fail(ClientLeft())

    async def _ping(self) -> None:
        loop = asyncio.get_running_loop()
        while True:
            await asyncio.sleep(self._settings.ping_every)
            now = loop.time()
            for seat in list(self._ready):
                if seat.open:
                    seat.silent_since = None
                elif seat.silent_since is not None and now - seat.silent_since > self._settings.ping_timeout:
                    seat.kill(f"it gave no sign of life for {self._settings.ping_timeout:g} s")
                else:
                    seat.ping(now)

    async def _occupy(self, process: WorkerProcess | None) -> None:
        pause = self._settings.backoff
        while not self._closing:
            seat = Seat(self._freed)
            began = asyncio.get_running_loop().time()
            try:
                process = process or await self._workers.start()
                await self._attend(seat, process)
            except ClocheError as error:
                self._crashed(error, seat)
            except Exception as error:  # noqa: BLE001 - a seat that ended here would never serve again
                _log.exception("worker_not_kept")
                self._crashed(_unexpected(error), seat)
            process = None
            if seat.killed:
                continue
            lived = asyncio.get_running_loop().time() - began
            pause = self._settings.backoff if lived > self._settings.crash_window else pause
            await asyncio.sleep(pause)
            pause = min(pause * 2, self._settings.backoff_max)

    def _crashed(self, error: ClocheError, seat: Seat) -> None:
        if self._closing:
            return
        now = asyncio.get_running_loop().time()
        self.failure = error
        self._crashes.append(now)
        if seat.fallen is None:
            self._own_crashes.append(now)
        self._note(error.what.partition("\n")[0] + _executing(seat))
        if self.state == "unhealthy":
            while self._waiting:
                self._waiting.popleft().fail(WorkerLost())
        self._changed.set()

    async def _attend(self, seat: Seat, process: WorkerProcess) -> None:
        """Serve with one worker until it ends. Raises `Failed` with the reason, unless we ended it."""
        seat.process = process
        ended = asyncio.create_task(process.ended(), name="scoring-worker-end")
        try:
            await self._greet(seat, process, ended)
            while seat.link is not None:
                self._changed.clear()
                await self._changed.wait()
            if not seat.killed:
                # its connection ends a moment before it does: how it ended by itself is what users need
                await asyncio.wait({ended}, timeout=_ENDING)
        finally:
            if seat.fallen is not None:
                seat.fallen.fail(WorkerLost(_detail(ended)))
            if self._keep:
                ended.cancel()
            else:
                await process.stop(grace=0.0)
        if not seat.killed:
            raise _died(await ended)
        if not self._closing:
            self._note(f"The scoring worker was killed: {seat.why_killed}{_executing(seat)}")

    async def _greet(self, seat: Seat, process: WorkerProcess, ended: "asyncio.Task[WorkerEnd]") -> None:
        try:
            async with asyncio.timeout(self._settings.init_timeout):
                await self._connect(seat, process, ended)
                hello = await asyncio.shield(seat.hello)
        except TimeoutError:
            raise Failed(
                "init_timeout",
                f"init() did not return within {self._settings.init_timeout:g} seconds.",
                todo="Make init() quicker, or raise the service's init timeout.",
            ) from None
        if hello is None:
            raise _died(await ended, "while init() ran")
        if not hello["ready"]:
            raise Failed(
                str(hello["code"]),
                str(hello["what"]),
                why=str(hello["traceback"]),
                todo=str(hello["todo"]),
            )
        self.hello = hello
        self.headers_wanted = bool(hello["headers"])
        self.any_method = bool(hello["methods"])
        self._begun = True
        self.failure = None
        self._ready.append(seat)
        self._changed.set()
        self._freed(seat)

    async def _connect(self, seat: Seat, process: WorkerProcess, ended: "asyncio.Task[WorkerEnd]") -> None:
        while True:
            try:
                seat.link = await self._connector.connect(process.socket, seat)
            except Unavailable:
                if ended.done():
                    raise _died(ended.result(), "before it listened") from None
                await asyncio.sleep(_CONNECT_PAUSE)
            else:
                return

    async def drain(self, seconds: float) -> None:
        """Take no further calls and wait until those that are here are answered, at most `seconds`."""
        self._draining = True
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                while self.outstanding and not self._closing:
                    self._changed.clear()
                    await self._changed.wait()

    async def stop(self) -> None:
        """End every worker; calls that are still here fail."""
        await self._close()

    async def detach(self) -> None:
        """Let go of the workers without ending them, so that the next owner can adopt them."""
        self._keep = True
        await self._close()

    async def _close(self) -> None:
        self._closing = True
        self._changed.set()
        processes = [seat.process for seat in self._ready if seat.process is not None]
        if not self._keep:
            await asyncio.gather(*(process.stop(grace=self._settings.grace) for process in processes))
        for task in [*self._tasks, *self._watchers]:
            task.cancel()
        await asyncio.gather(*self._tasks, *self._watchers, return_exceptions=True)
        for seat in list(self._ready):
            seat.kill()
        while self._waiting:
            self._waiting.popleft().fail(WorkerLost())
        if self._timer is not None:
            self._timer.cancel()


def _unexpected(error: Exception) -> Failed:
    return Failed(
        "worker_not_started",
        f"A worker could not be started or kept: {type(error).__name__}.",
        why=str(error),
        todo="Cloche's own log says more.",
    )


def _detail(ended: "asyncio.Task[WorkerEnd]") -> str:
    """Return how a worker ended, empty while that is not known."""
    known = ended.done() and not ended.cancelled() and ended.exception() is None
    return ended.result().detail if known else ""


def _executing(seat: Seat) -> str:
    """Name the request that a worker executed when it ended."""
    request = seat.fallen.request_id.decode("latin-1") if seat.fallen is not None else ""
    return f" (while it executed request {request})" if request else ""


def _died(end: WorkerEnd, when: str = "") -> Failed:
    return Failed(
        "worker_ended",
        f"The scoring worker ended {when}".strip() + f": {end.detail}",
        why=end.log,
        todo="See the service's log; the script or a library that it uses ended the process.",
    )
