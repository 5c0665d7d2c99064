"""Executor in memory: scripted programs on a simulated machine, in the event loop's own time.

A `MemoryMachine` holds the groups and survives the executors, as a real machine survives its
services: an executor that is dropped or disconnected leaves its groups running, and the next one
adopts them. Programs are coroutines; only `asyncio.sleep` and the loop's timers pass time.
"""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from signal import SIGKILL, SIGTERM

from cloche_runtime.spool import Redactor
from cloche_shared.errors import Conflict, Unavailable
from cloche_shared.ports.executor import Ending, Exit, LogChunk, Process, ProcessSpec

_PID = 2  # every simulated program's: pids mean nothing off their machine


class CannotStart(Exception):
    """Raised by a program that cannot be executed; its text is the exit's detail."""


class Life:
    """What a scripted program can do and notice.

    The user's code begins when the program calls `begin`. A program that sets `stubborn` survives
    SIGTERM and may look at `terminated`.
    """

    def __init__(self, spec: ProcessSpec, group: "_Group") -> None:
        self.spec = spec
        self.stubborn = False
        self.terminated = asyncio.Event()
        self._group = group

    def begin(self) -> None:
        """Say that the user's code begins."""
        self._group.began(started=True)

    def say(self, data: bytes) -> None:
        """Write to the log."""
        self._group.feed(data)

    def use(self, memory: int) -> None:
        """Take so many bytes of memory in all."""
        self._group.measure(memory)


Program = Callable[[Life], Awaitable[int]]


class MemoryMachine:
    """A machine: `programs` chooses what a spec runs; `refuses` makes each start fail as unavailable."""

    def __init__(self, programs: Callable[[ProcessSpec], Program]) -> None:
        self.programs = programs
        self.refuses = False
        self.groups: dict[str, _Group] = {}

    def lose(self, process_id: str) -> None:
        """End a group as when its supervisor is killed."""
        self.groups[process_id].end("lost", 0.0, detail="the supervisor vanished; what it left was ended")


class MemoryExecutor:
    """An owner's hold on a machine."""

    def __init__(self, machine: MemoryMachine) -> None:
        self._machine = machine
        self._held: set[_Group] = set()

    async def start(self, spec: ProcessSpec) -> Process:
        group = self._machine.groups.get(spec.id)
        if group is None:
            if self._machine.refuses:
                raise Unavailable("executor_unavailable", f"The process {spec.id} could not be started.")
            group = _Group(spec, self._machine.programs(spec))
            self._machine.groups[spec.id] = group
        self._hold(group)
        await asyncio.sleep(0)
        return MemoryProcess(group)

    async def adopt(self, owner: str) -> list[Process]:
        groups = [one for _, one in sorted(self._machine.groups.items()) if one.spec.owner == owner]
        for group in groups:
            self._hold(group)
        await asyncio.sleep(0)
        return [MemoryProcess(one) for one in groups]

    async def forget(self, process_id: str) -> None:
        group = self._machine.groups.get(process_id)
        if group is None:
            return
        if group.exit is None:
            raise Conflict("process_lives", f"The process {process_id} cannot be forgotten.", why="It still lives.")
        del self._machine.groups[process_id]
        self._held.discard(group)

    def disconnect(self) -> None:
        """Let go at once, as when the owner is killed: the groups live on."""
        for group in self._held:
            group.hold(-1)
        self._held.clear()

    async def close(self) -> None:
        """Let go of everything; the groups live on."""
        self.disconnect()

    def _hold(self, group: "_Group") -> None:
        if group not in self._held:
            self._held.add(group)
            group.hold(1)


class MemoryProcess:
    """A group as an owner sees it."""

    def __init__(self, group: "_Group") -> None:
        self._group = group

    @property
    def id(self) -> str:
        return self._group.spec.id

    @property
    def pid(self) -> int:
        return self._group.pid

    async def started(self) -> bool:
        while self._group.started is None:
            await self._group.changed.wait()
        return self._group.started

    async def wait(self) -> Exit:
        while self._group.exit is None:
            await self._group.changed.wait()
        return self._group.exit

    async def cancel(self, *, grace: float | None = None) -> None:
        self._group.end("canceled", self._group.spec.limits.grace if grace is None else grace)

    async def grant(self, seconds: float) -> None:
        self._group.grant(seconds)

    async def log(self, offset: int = 0, *, follow: bool = True) -> AsyncIterator[LogChunk]:
        while True:
            changed, ended = self._group.changed, self._group.exit is not None
            data = bytes(self._group.log[offset:])
            if data:
                yield LogChunk(offset, data)
                offset += len(data)
            elif ended or not follow:
                return
            else:
                await changed.wait()


class _Group:
    """One simulated group with its supervisor: the same rules as `cloche_runtime.supervisor`."""

    def __init__(self, spec: ProcessSpec, program: Program) -> None:
        self.spec = spec
        self.pid = 0
        self.log = bytearray()
        self.started: bool | None = None
        self.exit: Exit | None = None
        self.changed = asyncio.Event()
        self._loop = asyncio.get_running_loop()
        self._began = self._loop.time()
        self._dropped = 0
        self._peak = 0
        self._owners = 0
        self._ending: Ending | None = None
        self._detail = ""
        self._signal: int | None = None
        self._redactor = Redactor(spec.redact)
        self._timers: dict[str, asyncio.TimerHandle] = {}
        self._life = Life(spec, self)
        self._task = asyncio.create_task(self._live(program), name=f"group:{spec.id}")
        if spec.limits.deadline is not None:
            self._at("deadline", spec.limits.deadline, lambda: self.end("deadline", spec.limits.grace))

    # --- what the program does

    def began(self, *, started: bool) -> None:
        if self.started is None:
            self.started = started
            self._tell()

    def feed(self, data: bytes) -> None:
        self._keep(self._redactor.feed(data))

    def measure(self, memory: int) -> None:
        self._peak = max(self._peak, memory)
        if self.spec.limits.memory is not None and memory > self.spec.limits.memory:
            self.end("out_of_memory", 0.0)

    # --- what owners and clocks do

    def hold(self, change: int) -> None:
        self._owners += change
        if self._owners:
            self._stop("orphan")
        elif self.exit is None:
            self._at("orphan", self.spec.limits.orphan_after, lambda: self.end("orphaned", 0.0))

    def grant(self, seconds: float) -> None:
        if self.exit is None:
            self._at("grant", seconds, lambda: self.end("orphaned", 0.0))

    def end(self, ending: Ending, grace: float, *, detail: str = "") -> None:
        """Decide how the group ends, if it is not decided: SIGTERM, and SIGKILL after `grace` seconds."""
        if self.exit is not None:
            return
        if self._ending is None:
            self._ending, self._detail = ending, detail
            self._life.terminated.set()
            if grace > 0 and not self._life.stubborn:
                self._kill(SIGTERM)
                return
        if grace > 0:
            self._at("kill", grace, lambda: self._kill(SIGKILL))
        else:
            self._kill(SIGKILL)

    def _kill(self, number: int) -> None:
        self._signal = self._signal or number
        self._task.cancel()

    async def _live(self, program: Program) -> None:
        code: int | None = None
        try:
            self.pid = _PID
            code = await program(self._life)
        except CannotStart as error:
            self._ending, self._detail = "not_started", str(error)
        except asyncio.CancelledError:
            self._signal = self._signal or SIGKILL
        self._finish(code)

    def _finish(self, code: int | None) -> None:
        for timer in self._timers.values():
            timer.cancel()
        self._keep(self._redactor.end())
        if self._dropped:
            self.log += b"\n[cloche: %d bytes of the log were dropped]\n" % self._dropped
        ending: Ending = self._ending or ("exited" if self._signal is None else "signaled")
        self.began(started=False)
        self.exit = Exit(
            ending,
            code=code,
            signal=self._signal,
            started=bool(self.started),
            log_bytes=len(self.log),
            log_dropped=self._dropped,
            wall_seconds=self._loop.time() - self._began,
            peak_memory=self._peak,
            detail=self._detail,
        )
        self._tell()

    # --- within

    def _keep(self, data: bytes) -> None:
        if not data:
            return
        room = 0 if self._dropped else max(0, self.spec.limits.log - len(self.log))
        self.log += data[:room]
        if room < len(data):
            if not self._dropped:
                self.log += b"\n[cloche: log truncated here, its limit is %d bytes]\n" % self.spec.limits.log
            self._dropped += len(data) - room
        self._tell()

    def _at(self, name: str, seconds: float, action: Callable[[], None]) -> None:
        self._stop(name)
        self._timers[name] = self._loop.call_later(seconds, action)

    def _stop(self, name: str) -> None:
        timer = self._timers.pop(name, None)
        if timer is not None:
            timer.cancel()

    def _tell(self) -> None:
        self.changed.set()
        self.changed = asyncio.Event()
