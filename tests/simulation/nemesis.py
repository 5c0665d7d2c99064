"""The nemesis: kills, pauses and restarts processes, and loses users' processes, as a seed decides."""

import asyncio
import random

from tests.simulation.world import Slot, World

LONGEST_FUSE = 1500
ONE_GOES = 0.25
LASTING = frozenset({"zombies", "places"})
"""What histories are about in which pauses last longer than leases."""
VICTIMS = {
    "everything": {"runner": 2},
    "runs": {"runner": 6},
    "zombies": {"runner": 12},
    "environments": {"registry": 6, "builder": 3},
    "services": {"deployer": 5},
    "places": {"runner": 12, "deployer": 4},
}
"""How much more often than others a service is struck."""


class Nemesis:
    """Acts until it is told to stop; then everything comes up again and stays."""

    def __init__(self, world: World) -> None:
        self._world = world
        self._draw = random.Random(f"{world.seed}/nemesis")
        self._tasks: list[asyncio.Task[None]] = []

    async def take_machine(self, until: float) -> None:
        """Let one of several machines go for ever at some moment, in some histories."""
        machines = self._world.machines
        if len(machines) > 1 and self._draw.random() < ONE_GOES:
            await asyncio.sleep(self._draw.uniform(until / 3, until))
            self._world.lose_machine(self._draw.choice(machines))
            self._world.counts["lost machines"] += 1

    async def rage(self, until: float, deeds: int) -> None:
        """Do so many bad deeds until a moment."""
        for at in sorted(self._draw.uniform(0.0, until) for _ in range(deeds)):
            await asyncio.sleep(max(0.0, at - self._world.loop.time()))
            self._deed()
        await asyncio.sleep(max(0.0, until - self._world.loop.time()))

    def _deed(self) -> None:
        world, draw = self._world, self._draw
        up = [slot for slot in world.slots if slot.process is not None]
        pauses = 12 if world.layout.theme in LASTING else 3
        what = draw.choices(("kill", "fuse", "pause", "lose", "all"), (1, 4, pauses, 2, 0.5))[0]
        if what == "lose":
            if draw.choice(world.machines).lose_one(draw):
                world.counts["lost supervisors"] += 1
        elif what == "all":
            for slot in up:
                self._kill(slot)
        elif up:
            slot = draw.choices(up, [self._weight(slot) for slot in up])[0]
            if what == "kill":
                self._kill(slot)
            elif what == "fuse":
                self._light(slot)
            else:
                self._tasks.append(asyncio.create_task(self._pause(slot)))

    def _weight(self, slot: Slot) -> float:
        """Return how likely a process is struck; zombies are made of runners that have something to lose."""
        theme = self._world.layout.theme
        weight = VICTIMS[theme].get(slot.service, 1)
        if theme == "zombies" and slot.service == "runner":
            return weight * (1 + 10 * self._world.machines[slot.number - 1].living())
        return weight

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
        longest = (9.0, 12.0, 16.0, 20.0) if self._world.layout.theme in LASTING else (1.0, 4.0, 9.0, 14.0)
        await asyncio.sleep(self._draw.choice(longest))
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
