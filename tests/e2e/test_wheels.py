"""Private wheels: uploaded once, named by content, and in every place where an environment's packages are."""

from collections.abc import Callable
from pathlib import Path

from cloche import Client, ClocheError
from cloche_shared.adapters.memory_resolver import Package, wheel_bytes
from tests.e2e.packages import ThreadedIndex
from tests.e2e.steps import Names, Scripts, completed, deployed, log_of
from tests.e2e.topology import PATIENCE, Topology, eventually

SCORE = """
import json
import {module}

def init():
    pass

def run(data):
    return {{"version": {module}.VERSION}}
"""


def written(folder: Path, name: str, version: str = "1.0", text: str = "", requires: tuple[str, ...] = ()) -> Path:
    """Write a wheel whose module holds `VERSION`; another `text` makes another content."""
    module = name.replace("-", "_")
    package = Package(name, version, requires, {f"{module}.py": f"VERSION = {text or version!r}\n"})
    file = folder / package.wheel_name
    file.write_bytes(wheel_bytes(package))
    return file


def test_a_private_wheel_and_what_it_needs_arrive_in_runs(
    topology: Topology, client: Client, index: ThreadedIndex, unique: Names, script: Scripts, tmp_path: Path
) -> None:
    package, needed, name = unique("own"), unique("pkg"), unique("env")
    lines = index.add(needed, "1.0")
    sent = topology.cli("wheel", "upload", str(written(tmp_path, package, requires=(needed,))), "--json").document
    client.environments.register(name, requirements=lines, wheels=[sent[0]["filename"]])
    modules = [one.replace("-", "_") for one in (package, needed)]
    code = f"import {modules[0]} as own, {modules[1]} as it; print('has', own.VERSION, it.VERSION)"
    run = completed(client, script(code), environment=name)
    assert "has 1.0 1.0" in log_of(client, run)
    lock = client.environments.lock(name, timeout=PATIENCE)
    assert sent[0]["digest"].removeprefix("sha256:") in lock
    assert "/api/v1/wheels" not in lock


def test_a_private_wheel_arrives_in_scoring_workers(
    client: Client, unique: Names, script: Scripts, tmp_path: Path
) -> None:
    package, name, service = unique("own"), unique("env"), unique("svc")
    client.environments.register(name, wheels=[written(tmp_path, package)])
    code = SCORE.format(module=package.replace("-", "_"))
    deployed(client, service, script(code, "score.py"), environment=name)
    assert client.services.score(service, {}) == {"version": "1.0"}
    client.services.delete(service)


def test_a_replaced_wheel_stays_in_what_was_locked_with_it(
    client: Client, unique: Names, script: Scripts, tmp_path: Path
) -> None:
    package, name = unique("own"), unique("env")
    module = package.replace("-", "_")
    code = script(f"import {module}; print('says', {module}.VERSION)")
    first = client.wheels.upload(written(tmp_path, package, text="old"))
    client.environments.register(name, wheels=[first])
    second = client.wheels.upload(written(tmp_path, package, text="new"))
    assert (second.filename, second.digests) == (first.filename, [first.digest, second.digest])
    client.environments.register(name, definition={"python": {"pip": [f"{client.endpoint.url}{second.path}"]}})
    logs = [log_of(client, completed(client, code, environment=f"{name}:{number}")) for number in (1, 2)]
    assert ["says old" in logs[0], "says new" in logs[1]] == [True, True]
    found = client.environments.get(name).model_dump()["definition"]["python"]
    assert (found["pip"], found["wheels"]) == ([], [second.reference])


def code_of(ask: Callable[[], object]) -> str:
    """Return the code with which something is refused, or what came instead."""
    try:
        return repr(ask())
    except ClocheError as error:
        return error.code


def test_another_project_has_no_wheel_of_this_one(
    topology: Topology, client: Client, unique: Names, tmp_path: Path
) -> None:
    wheel = client.wheels.upload(written(tmp_path, unique("own")))
    client.projects.create(other := unique("blue"))
    wanted = {"python": {"wheels": [wheel.reference]}}
    with Client(topology.url, topology.token, other, home=topology.scratch) as stranger:
        asked: dict[str, Callable[[], object]] = {
            "get": lambda: stranger.wheels.get(wheel.filename),
            "register": lambda: stranger.environments.register("own", definition=wanted),
        }
        # a replica that has not heard of the project yet says that there is none
        for name, ask in asked.items():
            eventually(lambda ask=ask: code_of(ask) == "wheel_not_found", f"{name} finds no wheel")
        eventually(lambda: code_of(stranger.wheels.list) == "[]", "no wheel is listed")
