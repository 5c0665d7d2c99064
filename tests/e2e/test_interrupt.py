"""Ctrl-C on a foreground `cloche up`: the first leaves the active runs alone and lists them, the second ends them."""

import json
import os
import select
import signal
import subprocess
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from cloche import Client
from tests.e2e.steps import Scripts, deployed, done, gone, is_alive, says, submit
from tests.e2e.topology import PATIENCE, Embedded, program

pytestmark = pytest.mark.embedded_only

UNTIL = """
import os, sys, time
from pathlib import Path
print("pid", os.getpid(), flush=True)
while not Path(sys.argv[1]).exists():
    time.sleep(0.02)
"""

SCORE = "import os\ndef init(): pass\ndef run(data): return os.getpid()\n"


@contextmanager
def up(server: Embedded) -> Iterator[tuple["subprocess.Popen[str]", Client]]:
    """Run `cloche up` in the foreground on a stopped server's data folder."""
    environ = {name: value for name, value in server.environ().items() if name != "CLOCHE_URL"}
    command = program("up", "--port", "0", "--json")
    with subprocess.Popen(
        command, env=environ, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True
    ) as process:
        try:
            assert process.stdout is not None
            ready, _, _ = select.select([process.stdout], [], [], PATIENCE)
            assert ready, "it does not become ready"
            url = json.loads(process.stdout.readline())["url"]
            with Client(url, (server.home / "token").read_text().strip(), home=server.scratch) as client:
                yield process, client
        finally:
            process.kill()


def until(process: "subprocess.Popen[str]", words: str) -> str:
    """Read what it says on stderr until these words come; return all of it."""
    assert process.stderr is not None
    said = ""
    for line in process.stderr:
        said += line
        if words in line:
            return said
    raise AssertionError(said)


def running(client: Client, script: Path, go: Path) -> tuple[str, int]:
    run = submit(client, script, arguments=[go])
    return run.id, int(says(client, run, r"pid (\d+)")[1])


def test_the_first_stops_the_services_and_lists_the_runs_that_go_on(
    own_topology: Callable[..., Embedded], script: Scripts, tmp_path: Path
) -> None:
    server = own_topology()
    server.stop()
    with up(server) as (process, client):
        run_id, pid = running(client, script(UNTIL), tmp_path / "go")
        worker = deployed(client, "svc", script(SCORE, "score.py")).score({})
        assert isinstance(worker, int)
        os.kill(process.pid, signal.SIGINT)
        said = until(process, "on without Cloche")
        assert run_id in said
        assert "Press Ctrl-C again" in said
        assert process.wait(PATIENCE) in {0, 130}
    gone(worker)
    assert is_alive(pid)
    (tmp_path / "go").touch()
    server.restart()
    with server.client() as client:
        assert done(client, run_id).status == "Completed"
        assert client.services.wait("svc", timeout=PATIENCE).status == "Healthy"


def test_the_second_ends_the_runs(own_topology: Callable[..., Embedded], script: Scripts, tmp_path: Path) -> None:
    server = own_topology()
    server.stop()
    with up(server) as (process, client):
        run_id, pid = running(client, script(UNTIL), tmp_path / "go")
        os.kill(process.pid, signal.SIGINT)
        until(process, "on without Cloche")
        os.kill(process.pid, signal.SIGINT)
        assert "Ending them" in until(process, "Ending them")
        assert process.wait(PATIENCE) in {0, 130}
    gone(pid)
    assert not server.processes()
    server.restart()
    with server.client() as client:
        assert client.runs.get(run_id).status == "Canceled"


def test_without_active_runs_one_is_enough(own_topology: Callable[..., Embedded]) -> None:
    server = own_topology()
    server.stop()
    with up(server) as (process, client):
        assert client.ready()["status"] == "ok"
        os.kill(process.pid, signal.SIGINT)
        assert process.wait(PATIENCE) in {0, 130}
        assert process.stderr is not None
        assert "go on" not in process.stderr.read().replace("active runs go on.", "")
    assert not server.processes()
