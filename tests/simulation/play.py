"""Plays one history from one seed and judges it."""

import asyncio
import random
from collections import Counter
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass

from tests.simulation.checker import Violation, check
from tests.simulation.clients import Client
from tests.simulation.loop import StuckError, simulate
from tests.simulation.nemesis import LASTING, Nemesis
from tests.simulation.reading import read_back
from tests.simulation.record import History, Sent, Trace
from tests.simulation.weather import Climate
from tests.simulation.world import Layout, World, composed

FAULTS_S = 30.0
PATIENCE_S = 400.0
"""Virtual seconds after the end of the faults within which everything has to come to its end."""


@dataclass
class Played:
    """What became of a history."""

    seed: int
    violations: list[Violation]
    digest: str
    counts: Counter[str]
    deaths: list[str]
    history: History


def play(
    seed: int, *, say: Callable[[str], None] | None = None, defect: AbstractContextManager[object] | None = None
) -> Played:
    """Play a history; `defect` is in force while it lasts."""
    name = f"cloche-{seed}"
    trace = Trace(say)
    layout = Layout.drawn(f"{name}/layout")
    trace.note(0.0, layout)
    box: list[World] = []

    async def story() -> None:
        world = World(name, layout, Climate.drawn(f"{name}/climate"), trace)
        box.append(world)
        await _story(world)

    stuck = ""
    with composed(layout.commit_every, say), defect or nullcontext():
        try:
            simulate(f"{name}/loop", story)
        except StuckError as error:
            stuck = str(error)
    world = box[0]
    if stuck:
        world.history.unsettled.append(stuck)
    world.history.sent = _sent(world)
    world.history.buried = [
        f"{letter.delivery.offset} of {letter.group}: {letter.reason}" for letter in world.broker.dead
    ]
    violations = check(world.history)
    counts = world.counts + world.climate.counts
    counts["callbacks"] = world.loop.callbacks
    counts["documents"] = len(world.history.entries)
    trace.note(world.loop.time(), world.loop.callbacks, *violations)
    return Played(seed, violations, trace.digest(), counts, world.deaths, world.history)


async def _story(world: World) -> None:
    draw = random.Random(f"{world.seed}/story")
    for slot in world.slots:
        world.boot(slot)
    nemesis = Nemesis(world)
    restarting = asyncio.create_task(nemesis.restart())
    within = FAULTS_S / 3 if world.layout.theme in LASTING else FAULTS_S
    clients = [
        asyncio.create_task(Client(world, number).work(draw.randint(3, 8), within))
        for number in range(draw.randint(2, 4))
    ]
    await asyncio.gather(nemesis.rage(FAULTS_S, draw.randint(0, 10)), nemesis.take_machine(FAULTS_S))
    nemesis.relent()
    await asyncio.gather(*clients)
    await _cancel_what_never_fits(world)
    await _settle(world)
    if not world.history.unsettled:
        await read_back(world)
    restarting.cancel()


async def _cancel_what_never_fits(world: World) -> None:
    """Cancel runs that ask for more GPUs than any node has: they wait for ever, as they should."""
    client = Client(world, 1000)
    for op in list(world.history.ops):
        if op.kind == "submit" and op.told == "ok" and op.args["spec"]["resources"]["gpus"] > world.layout.gpus:
            await client.cancel(op.args["project"], op.result["id"], surely=True)
    never = [run for run in world.pending.runs if _asks(world, run) > world.layout.gpus]
    for run in never:
        _, project, name = run.split("/")
        await client.cancel(project, name, surely=True)


async def _cancel_what_services_displace(world: World) -> None:
    """Cancel runs that wait for GPUs which scoring services keep, as they may."""
    client = Client(world, 1001)
    if any(holder.startswith("service/") for _, holder in world.pending.held):
        for run in [run for run in world.pending.runs if _asks(world, run)]:
            _, project, name = run.split("/")
            await client.cancel(project, name, surely=True)


def _asks(world: World, run: str) -> int:
    """Return the GPUs that a run asks for."""
    entry = next(entry for entry in world.history.entries if entry.subject == run and entry.seq == 1)
    return int(entry.facts[0][1]["spec"]["resources"]["gpus"])


async def _settle(world: World) -> None:
    """Wait until everything has come to its end, or the patience to theirs."""
    began = world.loop.time()
    while world.loop.time() < began + PATIENCE_S:
        if world.loop.time() > began + PATIENCE_S / 4:
            await _cancel_what_services_displace(world)
        is_up = all(slot.ready for slot in world.slots if not slot.gone)
        open_ends = [*world.pending.open(), *world.unserved(), *world.left_over()]
        if is_up and not open_ends and world.caught_up():
            return
        await asyncio.sleep(0.5)
    world.history.left_over = world.left_over()
    down = [f"{slot.name} does not come up" for slot in world.slots if not slot.ready and not slot.gone]
    unread = [] if world.caught_up() else ["some events were not read by some group"]
    world.history.unsettled.extend([*world.pending.open(), *world.unserved(), *down, *unread])


def _sent(world: World) -> list[Sent]:
    return [
        Sent(part.source, event.id, event.subject, event.sequence, event.type, event.value())
        for topic in sorted(world.broker.topics)
        for part in world.broker.topics[topic]
        for event in (delivery.event for delivery in part.log)
        if event is not None
    ]
