"""An installation of compose over its whole life: stopped, saved, gone, brought back with more of everything."""

import json
import os
import re
import time
from collections.abc import Iterator
from pathlib import Path

import httpx2
import pytest

from tests.environments import engine
from tests.environments.compose import Composed, composed
from tests.environments.places import NotPossible

pytestmark = [pytest.mark.timeout(900), pytest.mark.slow]

SCRIPT = (
    "import pathlib\npathlib.Path('outputs').mkdir(exist_ok=True)\npathlib.Path('outputs/mark').write_text('kept')\n"
)
PATIENT = "import time\nfor n in range(600):\n    print('tick', n, flush=True)\n    time.sleep(1)\n"
RUN = re.compile(r"[0-9a-f]{8}-[0-9a-f-]{27}")


@pytest.fixture
def installation(tmp_path: Path) -> Iterator[Composed]:
    try:
        with composed(tmp_path / "life") as found:
            yield found
    except NotPossible as error:
        pytest.skip(f"compose: {error}")


@pytest.fixture
def script(tmp_path: Path) -> Path:
    file = tmp_path / "code" / "keep.py"
    file.parent.mkdir()
    file.write_text(SCRIPT)
    return file


def left(project: str) -> list[str]:
    """Return what the engine still has of a project."""
    client, label = engine.client(), {"label": f"com.docker.compose.project={project}"}
    containers = [one.name for one in client.containers.list(all=True, filters=label)]
    volumes = [one.name for one in client.volumes.list(filters=label)]
    return containers + volumes + [one.name for one in client.networks.list(filters=label)]


def last_run(project: Composed) -> str:
    return str(json.loads(project.cloche("run", "list", "--json"))[0]["id"])


def node_of(project: Composed, said: str) -> str:
    """Return where a run that was submitted runs, as soon as it does."""
    run = RUN.findall(said)[0]
    project.wait(lambda: "tick" in project.cloche("logs", run, ok=False), "the run to begin")
    return str(json.loads(project.cloche("run", "show", run, "--json"))["node"])


def test_an_installation_outlives_its_containers_and_volumes(
    installation: Composed, script: Path, tmp_path: Path
) -> None:
    project = installation
    project.cloche("env", "register", "bare", "--empty")
    project.cloche("submit", str(script), "--env", "bare", "--follow")
    a_service_that_is_away_is_said_to_be(project)
    saved = tmp_path / "backup.tar"
    project.compose("stop", "--timeout", "10")
    with saved.open("wb") as file, Path("/dev/null").open("rb") as nothing:
        project.piped("run", "--rm", "-T", "backup", given=nothing, taken=file)
    with saved.open("rb") as file, pytest.raises(AssertionError, match="volumes are not empty"):
        project.piped("run", "--rm", "-T", "restore", given=file)
    project.compose("down", "--volumes", "--timeout", "5")
    assert left(project.project) == []
    with saved.open("rb") as file:
        project.piped("run", "--rm", "-T", "restore", given=file)
    project.widen("compose/node-2.yaml", "fence-2", "executor-2", "runner-2", "deployer-2")
    project.compose("up", "--detach", "--wait", "--wait-timeout", "420", "--scale", "registry=2")
    what_was_there_is_there_again(project, tmp_path)
    two_nodes_work(project, script)


def a_service_that_is_away_is_said_to_be(project: Composed) -> None:
    project.compose("stop", "--timeout", "10", "registry")
    answer = httpx2.get(f"{project.url}/api/v1/environments", timeout=30)
    assert (answer.status_code, answer.json()["code"]) == (503, "service_unreachable")
    assert 1 <= int(answer.headers["retry-after"]) <= 30
    assert answer.headers["content-type"] == "application/problem+json"
    project.compose("start", "registry")
    project.wait(lambda: "bare" in project.cloche("env", "list", ok=False), "the registry to answer again")


def what_was_there_is_there_again(project: Composed, tmp_path: Path) -> None:
    assert "bare" in project.cloche("env", "list")
    run = last_run(project)
    assert "Completed" in project.cloche("run", "show", run)
    project.cloche("run", "download", run, "--to", str(tmp_path / "back"))
    assert [one.read_text() for one in (tmp_path / "back").rglob("mark")] == ["kept"]


def two_nodes_work(project: Composed, script: Path) -> None:
    """What one node has no room for runs on the other; and each registry is asked."""
    script.write_text(PATIENT)
    whole = ("--env", "bare", "--cpus", str(os.cpu_count()))
    first = node_of(project, project.cloche("submit", str(script), *whole))
    second = node_of(project, project.cloche("submit", str(script), *whole))
    assert {first, second} == {"node-1", "node-2"}
    seen = set()
    until = time.monotonic() + 60
    while len(seen) < 2 and time.monotonic() < until:
        project.cloche("env", "list")
        seen = {
            number for number in (1, 2) if b'"route":"/environments"' in project.container("registry", number).logs()
        }
    assert seen == {1, 2}
