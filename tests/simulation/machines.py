"""The machines under the nodes: they outlive the services, run users' programs, and keep their disks."""

import asyncio
import contextvars
import random
from collections.abc import AsyncIterator, Coroutine
from typing import Any, TypeVar

from cloche_runner.adapters.memory import MemoryDisk
from cloche_shared.adapters.memory_executor import CannotStart, Life, MemoryExecutor, MemoryMachine, Program
from cloche_shared.ports.executor import Exit, LogChunk, Process, ProcessSpec
from tests.simulation.record import History, Lived
from tests.simulation.stage import Workshop

T = TypeVar("T")

_WORLD = contextvars.Context()


async def _outside(work: Coroutine[Any, Any, T]) -> T:
    """Do something that goes on when the process that asked for it dies."""
    return await asyncio.get_running_loop().create_task(work, context=_WORLD)


class Machine:
    """One node's machine. `history` gets every process of a user; with `lasting` these take long.

    One that is `gone` never comes back, nor does anything on it.
    """

    def __init__(self, seed: str, name: str, gpus: tuple[str, ...], history: History, lasting: bool) -> None:
        self.name = name
        self.gone = False
        self.workshop = Workshop(f"{seed.rpartition('/')[0]}/workers", name, history.scoring)
        self.gpus = gpus
        self.disk = MemoryDisk()
        self.groups = MemoryMachine(self._program)
        self._seed = seed
        self._lived = history.lived
        self._lasting = lasting

    def executor(self) -> "HostedExecutor":
        """Return a new owner's hold on the machine."""
        return HostedExecutor(MemoryExecutor(self.groups))

    def lose_one(self, draw: random.Random) -> bool:
        """Let the supervisor of some living group vanish."""
        living = [name for name, group in self.groups.groups.items() if group.exit is None]
        if living:
            self.groups.lose(draw.choice(living))
        return bool(living)

    def go(self) -> None:
        """Go down for ever, with everything on it."""
        self.gone = True
        for name, group in self.groups.groups.items():
            if group.exit is None:
                self.groups.lose(name)
        self.workshop.end_all()

    def living(self) -> int:
        """Return how many groups live."""
        return sum(group.exit is None for group in self.groups.groups.values())

    def remains(self) -> list[str]:
        """Return the attempts of which something is here: a group, a working folder, a journal."""
        return sorted({*self.groups.groups, *self.disk.work, *self.disk.journals})

    def _program(self, spec: ProcessSpec) -> Program:
        draw = random.Random(f"{self._seed}/{spec.id}")
        gpus = tuple(uuid for uuid in spec.env["CUDA_VISIBLE_DEVICES"].split(",") if uuid)

        async def program(life: Life) -> int:
            lived = Lived(self.name, spec.id, gpus, asyncio.get_running_loop().time())
            self._lived.append(lived)
            try:
                return await self._behave(life, draw)
            finally:
                lived.ended = asyncio.get_running_loop().time()

        return program

    async def _behave(self, life: Life, draw: random.Random) -> int:
        if draw.random() < 0.03:
            raise CannotStart("cannot start python: No such file or directory")
        await asyncio.sleep(draw.uniform(0.0, 0.3))
        life.begin()
        life.stubborn = draw.random() < 0.2
        life.say(b"a line\n")
        self.disk.write(life.spec.id, "outputs/model.pkl", life.spec.id.encode())
        self.disk.log(life.spec.id, v=1, op="log", name="loss", value=0.5)
        seconds = 30.0 if self._lasting else draw.choice((0.0, 0.5, 3.0, 12.0))
        await asyncio.sleep(seconds * draw.random())
        return draw.choice((0, 0, 0, 0, 3))


class HostedExecutor:
    """The port `Executor`; groups and their timers belong to the machine, not to the caller."""

    def __init__(self, executor: MemoryExecutor) -> None:
        self._executor = executor

    async def start(self, spec: ProcessSpec) -> Process:
        return _Hosted(await _outside(self._executor.start(spec)))

    async def adopt(self, owner: str) -> list[Process]:
        return [_Hosted(process) for process in await _outside(self._executor.adopt(owner))]

    async def forget(self, process_id: str) -> None:
        await _outside(self._executor.forget(process_id))

    def disconnect(self) -> None:
        """Let go, because the owner died."""
        self._executor.disconnect()


class _Hosted:
    def __init__(self, process: Process) -> None:
        self._process = process

    @property
    def id(self) -> str:
        return self._process.id

    @property
    def pid(self) -> int:
        return self._process.pid

    async def started(self) -> bool:
        return await self._process.started()

    async def wait(self) -> Exit:
        return await self._process.wait()

    async def cancel(self, *, grace: float | None = None) -> None:
        await _outside(self._process.cancel(grace=grace))

    async def grant(self, seconds: float) -> None:
        await _outside(self._process.grant(seconds))

    def log(self, offset: int = 0, *, follow: bool = True) -> AsyncIterator[LogChunk]:
        return self._process.log(offset, follow=follow)
