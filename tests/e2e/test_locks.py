"""The life of an environment's lock: made, looked at, refreshed on purpose, and never moved under a run."""

from collections.abc import Callable
from pathlib import Path

import pytest

from cloche import Client
from tests.e2e.packages import ThreadedIndex
from tests.e2e.steps import Names, Scripts, done, log_of, reaches
from tests.e2e.topology import PATIENCE, Embedded, Topology

HOLD = """
import sys, time
from pathlib import Path
while not Path(sys.argv[1]).exists():
    time.sleep(0.05)
"""


@pytest.mark.undelayed
def test_drift_and_explain_change_nothing_and_a_refresh_says_what_it_changed(
    topology: Topology, client: Client, index: ThreadedIndex, unique: Names
) -> None:
    package, name = unique("pkg"), unique("env")
    index.add(package, "1.0")
    client.environments.register(name, requirements=index.requirements(package))
    assert client.environments.explain(name, timeout=PATIENCE).action == "build"
    first = client.environments.lock(name, timeout=PATIENCE)
    index.add(package, "2.0")
    moved = [{"kind": "pip", "name": package, "before": "1.0", "after": "2.0"}]
    foreseen = topology.cli("env", "drift", name, "--json").document
    assert (foreseen["drifted"], foreseen["packages"]) == (True, moved)
    told = topology.cli("env", "explain", name, "--json").document
    assert (told["action"], told["lock_digest"]) == ("reuse", foreseen["before"]["digest"])
    assert topology.cli("env", "lock", name).out.strip() == first.strip()
    done_now = topology.cli("env", "refresh", name, "--json").document
    assert (done_now["packages"], done_now["before"]) == (moved, foreseen["before"])
    assert 'version = "2.0"' in client.environments.lock(name, timeout=PATIENCE)
    assert client.builds.lock(told["build_id"], told["lock_digest"]) == first
    assert "Built sha256:" in topology.cli("env", "logs", name).out


def test_the_difference_of_two_versions_holds_what_was_locked(
    client: Client, index: ThreadedIndex, unique: Names
) -> None:
    package, name = unique("pkg"), unique("env")
    index.add(package, "1.0")
    client.environments.register(name, requirements=index.requirements(f"{package}<2"))
    client.environments.lock(name, timeout=PATIENCE)
    index.add(package, "2.0")
    client.environments.register(name, requirements=index.requirements(package), variables={"COLOR": "green"})
    assert client.environments.diff(name).packages is None
    client.environments.lock(name, timeout=PATIENCE)
    found = client.environments.diff(name)
    assert [(one.name, one.before, one.after) for one in found.packages or ()] == [(package, "1.0", "2.0")]
    assert [one.pointer for one in found.changes] == [f"/python/pip/{package}", "/variables/COLOR"]


@pytest.mark.embedded_only
def test_a_run_that_was_queued_before_a_refresh_gets_its_own_lock(
    own_topology: Callable[..., Embedded], index: ThreadedIndex, unique: Names, script: Scripts, tmp_path: Path
) -> None:
    package, name = unique("pkg"), unique("env")
    module = package.replace("-", "_")
    index.add(package, "1.0")
    code = script(f"import {module}; print('version', {module}.VERSION)")
    with own_topology().client() as client:
        client.environments.register(name, requirements=index.requirements(package))
        client.environments.lock(name, timeout=PATIENCE)
        cpus = float(client.nodes.list()[0]["cpus"])
        holder = client.runs.submit(script(HOLD), arguments=[tmp_path / "go"], cpus=cpus)
        reaches(client, holder, "Running")
        queued = reaches(client, client.runs.submit(code, environment=name, cpus=cpus), "Queued")
        index.add(package, "2.0")
        assert len(client.environments.refresh(name, timeout=PATIENCE).packages) == 1
        later = client.runs.submit(code, environment=name, cpus=cpus)
        (tmp_path / "go").touch()
        logs = [log_of(client, done(client, run)) for run in (queued, later)]
    assert ["version 1.0" in logs[0], "version 2.0" in logs[1]] == [True, True]
