"""Reads everything that was accepted back through live services, once they are well again."""

from typing import Any

import orjson

from cloche_shared.errors import ClocheError
from tests.simulation.record import Op
from tests.simulation.world import World

ENDED = frozenset({"Completed", "Failed", "Canceled"})


async def read_back(world: World) -> None:
    """Note each accepted thing that a service does not show as it was accepted."""
    for op in world.history.ops:
        if op.told != "ok":
            continue
        why = ""
        if op.kind == "register":
            why = await _environment(world, op)
        elif op.kind == "submit":
            why = await _run(world, op)
        if why:
            world.history.read_back.append(why)


async def _ask(world: World, service: str, ask: Any) -> Any:
    process = world.ready(service)[0].process
    assert process is not None
    return await process.call(ask)


async def _environment(world: World, op: Op) -> str:
    project, name, told = op.args["project"], op.args["name"], op.result["version"]
    try:
        found = await _ask(world, "registry", lambda registry: registry.environments.find(project, name))
    except ClocheError as error:
        return f"environment {name} was accepted, and reading it says {error.code}"
    row = await world.views["registry"].get("environments", project, name)
    if len(found.versions) < told:
        return f"environment {name} has {len(found.versions)} versions, and version {told} was accepted"
    return "" if row is not None else f"environment {name} is in no list"


async def _run(world: World, op: Op) -> str:
    project, run_id = op.args["project"], op.result["id"]

    async def ask(runner: Any) -> Any:
        return (await runner.core.runs.get(runner.core.runs.id(project, run_id))).state

    run = await _ask(world, "runner", ask)
    if run.status not in ENDED:
        return f"run {run_id} reads back as {run.status}"
    row = await world.views["runner"].get("runs", project, run_id)
    shown = orjson.loads(row.body)["status"] if row is not None else "nothing"
    return "" if shown == run.status else f"run {run_id} is {run.status}, and the list says {shown}"
