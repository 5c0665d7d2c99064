"""Environments of conda packages with pip's on top, from their registration to a run and a scoring service."""

import asyncio
import queue
import threading
from collections.abc import Iterator
from typing import Any

import pytest

pytest.importorskip("rattler")

from cloche import Client
from tests.e2e.packages import ThreadedIndex
from tests.e2e.steps import Names, Scripts, completed, log_of
from tests.e2e.topology import Topology
from tests.environments.conda_channel import PACKAGES, PYTHON, make_channel, python_package, running_channel


@pytest.fixture(scope="module")
def channel(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The address of a conda channel with a real Python, which is served from a thread."""
    root = asyncio.run(make_channel(tmp_path_factory.mktemp("channel"), *PACKAGES, python_package()))
    places: queue.SimpleQueue[str] = queue.SimpleQueue()
    loop, end = asyncio.new_event_loop(), asyncio.Event()

    async def serve() -> None:
        async with running_channel(root) as server:
            places.put(server.url)
            await end.wait()

    thread = threading.Thread(target=lambda: loop.run_until_complete(serve()))
    thread.start()
    yield places.get()
    loop.call_soon_threadsafe(end.set)
    thread.join()
    loop.close()


def register(topology: Topology, name: str, python: dict[str, Any]) -> None:
    with topology.rest() as rest:
        made = rest.post("/api/v1/environments", json={"name": name, "definition": {"python": python}})
    assert made.status_code == 201, made.text


@pytest.mark.main_job
def test_a_run_works_with_condas_python_and_packages_and_pips_on_top(
    topology: Topology, client: Client, unique: Names, script: Scripts, index: ThreadedIndex, channel: str
) -> None:
    package, name = unique("pkg"), unique("env")
    index.add(package, "1.5")
    options = {"index_url": index.url}
    conda = {"packages": ["learner"], "channels": [channel]}
    register(topology, name, {"conda": conda, "pip": [package], "pip_options": options})
    imports = f"import sys, learner, {package.replace('-', '_')} as top"
    code = f"{imports}\nprint(sys.version.split()[0], top.VERSION)\nlearner.main()"
    ended = completed(client, script(code), environment=name)

    assert f"{PYTHON} 1.5\nlearner with 1.26.4" in log_of(client, ended)
    lock = topology.cli("env", "lock", name).out
    assert f'conda: "{channel}/noarch/learner-1.0-pyh0_0.tar.bz2"' in lock
    assert f'name: "{package}"' in lock


def test_conda_packages_that_clash_fail_the_build_and_are_named(
    topology: Topology, unique: Names, channel: str
) -> None:
    register(topology, name := unique("env"), {"conda": {"packages": ["alpha>=2", "gamma"], "channels": [channel]}})
    ended = topology.cli("env", "build", name, "--json", code=None)

    assert ended.code != 0
    assert "solver_conflict" in ended.out + ended.err
    assert "alpha>=2, gamma" in ended.out + ended.err
