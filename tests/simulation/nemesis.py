"""The nemesis: kills, pauses and restarts processes, and loses users' processes, as a seed decides."""

import asyncio
import random

from tests.simulation.world import Slot, World

LONGEST_FUSE = 1500


class Nemesis:
    """Acts until it is told to stop; then everything comes up again and stays."""

    def __init__(self, world: World) -> None:
        self._world = world
        self._draw = random.Random(f"{world.seed}/nemesis")
        self._tasks: list[asyncio.Task[None]] = []

    async def rage(self, until: float, deeds: int) -> None:
        """Do so many bad deeds until a moment."""
        for at in sorted(self._draw.uniform(0.0, until) for _ in range(deeds)):
            await asyncio.sleep(max(0.0, at - self._world.loop.time()))
            self._deed()
        await asyncio.sleep(max(0.0, until - self._world.loop.time()))

    def _deed(self) -> None:
        world, draw = self._world, self._draw
        up = [slot for slot in world.slots if slot.process is not None]
        what = draw.choices(("kill", "fuse", "pause", "lose", "all"), (2, 6, 3, 2, 0.5))[0]
        if what == "lose":
            if draw.choice(world.machines).lose_one(draw):
                world.counts["lost supervisors"] += 1
        elif what == "all":
            for slot in up:
                self._kill(slot)
        elif up:
            slot = draw.choice(up)
            if what == "kill":
                self._kill(slot)
            elif what == "fuse":
                self._light(slot)
            else:
                self._tasks.append(asyncio.create_task(self._pause(slot)))

    def _kill(self, slot: Slot) -> None:
        if slot.process is not None:
            self._world.counts["crashes"] += 1
            slot.process.owner.kill()

    def _light(self, slot: Slot) -> None:
        """Let a process die after some of its steps, wherever it is then."""
        assert slot.process is not None
        fuse = self._draw.choice((30, 200, LONGEST_FUSE))
        slot.process.owner.fuse = self._draw.randrange(fuse)
        self._world.counts["crashes"] += 1

    async def _pause(self, slot: Slot) -> None:
        """Stop a process for a while, often for longer than its lease."""
        process = slot.process
        assert process is not None
        if process.owner.paused:
            return
        process.owner.paused = True
        process.halted()
        self._world.counts["pauses"] += 1
        self._world.note("pause", process.name)
        await asyncio.sleep(self._draw.choice((1.0, 5.0, 12.0, 25.0)))
        self._world.note("resume", process.name)
        self._world.loop.resume(process.owner)

    async def restart(self) -> None:
        """Bring processes up again for ever, sooner or later."""
        while True:
            for slot in self._world.slots:
                if slot.down:
                    slot.down = False
                    self._tasks.append(asyncio.create_task(self._boot(slot)))
            await asyncio.sleep(0.2)

    async def _boot(self, slot: Slot) -> None:
        await asyncio.sleep(0.5 if self._world.climate.clear else self._draw.choice((0.1, 1.0, 4.0, 15.0)))
        self._world.boot(slot)

    def relent(self) -> None:
        """Let everything be well from now on."""
        self._world.note("the weather clears")
        self._world.climate.clear = True
        for slot in self._world.slots:
            if slot.process is not None:
                slot.process.owner.fuse = None
                if slot.process.owner.paused:
                    self._world.loop.resume(slot.process.owner)
