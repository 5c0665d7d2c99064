"""Builds: once per content, with a log that all who wait share, and prefixes that stay what they are."""

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from cloche import Client
from tests.e2e.packages import ThreadedIndex
from tests.e2e.steps import Names, Scripts, completed, log_of
from tests.e2e.topology import PATIENCE, Embedded, Topology


@pytest.fixture
def env(client: Client, index: ThreadedIndex, unique: Names) -> tuple[str, str]:
    """Return the name of an environment with a package nobody has, and that package's."""
    package, name = unique("pkg"), unique("env")
    client.environments.register(name, requirements=index.add(package))
    return name, package


@pytest.mark.main_job
def test_identical_concurrent_requests_build_once_and_share_the_log(
    client: Client, index: ThreadedIndex, env: tuple[str, str]
) -> None:
    name, _ = env
    index.gate.clear()
    with ThreadPoolExecutor(8) as pool:
        asked = list(pool.map(lambda _: client.builds.start(name), range(8)))
        index.gate.set()
        ended = list(pool.map(lambda one: client.builds.wait(one.id, timeout=PATIENCE), asked))
    logs = {"".join(client.builds.log(one.id, follow=False)) for one in ended}
    assert {one.status for one in ended} == {"Completed"}
    assert len({one.model_dump()["build_id"] for one in ended}) == 1
    assert len({one.id for one in ended}) == 8
    (log,) = logs
    assert [log.count(text) for text in ("attempt 1", "attempt 2", "Built sha256")] == [1, 0, 1]


@pytest.mark.main_job
def test_a_build_log_comes_while_the_build_goes_on(client: Client, index: ThreadedIndex, env: tuple[str, str]) -> None:
    index.gate.clear()
    build = client.builds.start(env[0])
    lines = client.builds.log(build.id, follow=True)
    first = next(lines)
    assert first.strip()
    assert not client.builds.get(build.id).ended
    index.gate.set()
    rest = "".join(lines)
    assert client.builds.wait(build.id, timeout=PATIENCE).status == "Completed"
    assert first not in rest
    assert first + rest == "".join(client.builds.log(build.id, follow=True))


@pytest.mark.main_job
def test_a_second_build_is_reused(topology: Topology, client: Client, env: tuple[str, str]) -> None:
    first = client.builds.wait(client.builds.start(env[0]).id, timeout=PATIENCE).model_dump()
    second = topology.cli("env", "build", env[0], "--json").document
    assert first["reused"] is False
    assert second["reused"] is True
    assert first["lock_digest"] == second["lock_digest"]


def test_the_lock_of_a_build_can_be_downloaded(topology: Topology, client: Client, env: tuple[str, str]) -> None:
    name, package = env
    build = client.builds.wait(client.builds.start(name).id, timeout=PATIENCE)
    lock = client.builds.lock(build.id)
    assert package in lock
    assert "sha256" in lock
    assert "lock-version" in lock
    assert topology.cli("env", "lock", name).out.strip() == lock.strip()


def test_an_unpinned_package_stays_as_it_was_locked_until_a_refresh(
    client: Client, index: ThreadedIndex, unique: Names, script: Scripts
) -> None:
    package, name = unique("pkg"), unique("env")
    index.add(package, "1.0")
    client.environments.register(name, requirements=index.requirements(package))
    module = package.replace("-", "_")
    code = script(f"import {module}; print('version', {module}.VERSION)")
    first = completed(client, code, environment=name)
    index.add(package, "2.0")
    second = completed(client, code, environment=name)
    assert "version 1.0" in log_of(client, first)
    assert "version 1.0" in log_of(client, second)
    refreshed = client.builds.wait(client.builds.start(name, refresh=True).id, timeout=PATIENCE)
    assert 'version = "2.0"' in client.builds.lock(refreshed.id)
    assert refreshed.model_dump()["lock_digest"] != second.model_dump()["lock_digest"]


def test_a_package_that_has_only_its_source_is_built(
    client: Client, index: ThreadedIndex, unique: Names, script: Scripts
) -> None:
    package, name = unique("pkg"), unique("env")
    client.environments.register(name, requirements=index.add(package, only_source=True))
    code = script(f"import {package.replace('-', '_')} as it; print('built is', it.built)")
    assert "built is True" in log_of(client, completed(client, code, environment=name))


def test_a_failed_build_keeps_its_log(client: Client, index: ThreadedIndex, unique: Names) -> None:
    package, name = unique("pkg"), unique("env")
    client.environments.register(name, requirements=index.add(package, only_source=True, compiles=False))
    ended = client.builds.wait(client.builds.start(name).id, timeout=PATIENCE)
    assert ended.status == "Failed"
    assert "nowhere.h" in "".join(client.builds.log(ended.id, follow=False))


@pytest.mark.embedded_only
def test_a_touched_prefix_is_noticed_and_replaced(
    own_topology: Callable[..., Embedded], index: ThreadedIndex, unique: Names, script: Scripts
) -> None:
    package, name = unique("pkg"), unique("env")
    module = package.replace("-", "_")
    code = script(f"import {module}; print('is', {module}.VERSION, {module}.__file__)")
    with own_topology().client() as client:
        client.environments.register(name, requirements=index.add(package))
        first = log_of(client, completed(client, code, environment=name))
        file = Path(first.split()[-1])
        assert "is 1.0" in first
        file.parent.chmod(0o755)
        file.unlink()
        file.write_text("VERSION = 'changed'\n")
        assert "is 1.0" in log_of(client, completed(client, code, environment=name))
