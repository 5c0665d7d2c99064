"""Runs outlive Cloche: they are adopted after a crash, go on after `down`, and end only when told to."""

from collections.abc import Callable
from pathlib import Path

import pytest

from tests.e2e.steps import Scripts, completed, done, gone, is_alive, log_of, says, submit
from tests.e2e.topology import Embedded, call, eventually

pytestmark = pytest.mark.embedded_only

COUNT = """
import os, sys, time
from pathlib import Path
print("pid", os.getpid(), flush=True)
number = 0
while not Path(sys.argv[1]).exists():
    number += 1
    print("line", number, flush=True)
    time.sleep(0.02)
print("last", number, flush=True)
"""

UNTIL = "import sys, time\nfrom pathlib import Path\nwhile not Path(sys.argv[1]).exists(): time.sleep(0.02)\n"


def counting(server: Embedded, script: Path, go: Path) -> tuple[str, int]:
    """Start a run that counts until `go` exists; return its id and its process."""
    with server.client() as client:
        run = submit(client, script, arguments=[go])
        pid = int(says(client, run, r"pid (\d+)")[1])
        says(client, run, r"line 5\n")
    return run.id, pid


def test_a_run_is_adopted_after_a_crash_and_its_log_is_complete(
    own_topology: Callable[..., Embedded], script: Scripts, tmp_path: Path
) -> None:
    server = own_topology()
    run_id, pid = counting(server, script(COUNT), tmp_path / "go")
    server.kill()
    assert is_alive(pid)
    server.restart()
    with server.client() as client:
        assert client.runs.get(run_id).status == "Running"
        before = log_of(client, run_id)
        eventually(lambda: len(log_of(client, run_id)) > len(before), "the log goes on")
        (tmp_path / "go").touch()
        ended = done(client, run_id)
        lines = log_of(client, run_id).splitlines()
    assert ended.status == "Completed"
    assert ended.model_dump()["attempt"] == 1
    last = int(lines[-1].split()[1])
    assert lines == [f"pid {pid}", *(f"line {number}" for number in range(1, last + 1)), f"last {last}"]


def test_a_run_that_ended_while_cloche_was_away_is_told_of_by_the_next_start(
    own_topology: Callable[..., Embedded], script: Scripts, tmp_path: Path
) -> None:
    server = own_topology()
    code = "from pathlib import Path\nPath('outputs').mkdir(exist_ok=True)\nPath('outputs/x.txt').write_text('x')\n"
    run_id, pid = counting(server, script(COUNT + code), tmp_path / "go")
    server.kill()
    (tmp_path / "go").touch()
    gone(pid)
    server.restart()
    with server.client() as client:
        ended = done(client, run_id)
        assert (ended.status, ended.model_dump()["attempt"]) == ("Completed", 1)
        assert log_of(client, run_id).splitlines()[-1].startswith("last")
        assert "outputs/x.txt" in {one["path"] for one in client.runs.outputs(run_id)}


def test_a_run_can_be_cancelled_after_it_was_adopted(
    own_topology: Callable[..., Embedded], script: Scripts, tmp_path: Path
) -> None:
    server = own_topology()
    run_id, pid = counting(server, script(COUNT), tmp_path / "go")
    server.kill()
    server.restart()
    with server.client() as client:
        client.runs.cancel(run_id)
        assert done(client, run_id).status == "Canceled"
    gone(pid)


def test_what_waits_when_cloche_is_killed_is_done_after_the_next_start(
    own_topology: Callable[..., Embedded], script: Scripts, tmp_path: Path
) -> None:
    server = own_topology()
    with server.client() as client:
        cpus = client.nodes.list()[0]["cpus"]
        first = client.runs.submit(script(UNTIL), arguments=[tmp_path / "go"], cpus=cpus)
        second = client.runs.submit(script("print('second')"), cpus=cpus)
    server.kill()
    server.restart()
    (tmp_path / "go").touch()
    with server.client() as client:
        assert [done(client, run).status for run in (first, second)] == ["Completed", "Completed"]


def test_down_lets_runs_go_on_and_lists_them(
    own_topology: Callable[..., Embedded], script: Scripts, tmp_path: Path
) -> None:
    server = own_topology()
    run_id, pid = counting(server, script(COUNT), tmp_path / "go")
    said = call(("down", "--home", server.home), server.environ())
    assert run_id in said.out + said.err
    assert not server.lives
    assert is_alive(pid)
    server.restart()
    (tmp_path / "go").touch()
    with server.client() as client:
        assert done(client, run_id).status == "Completed"


def test_down_with_cancel_runs_ends_them(
    own_topology: Callable[..., Embedded], script: Scripts, tmp_path: Path
) -> None:
    server = own_topology()
    run_id, pid = counting(server, script(COUNT), tmp_path / "go")
    call(("down", "--cancel-runs", "--home", server.home), server.environ())
    gone(pid)
    assert not server.processes()
    server.restart()
    with server.client() as client:
        assert client.runs.get(run_id).status == "Canceled"


def test_up_and_down_by_the_command_line(
    own_topology: Callable[..., Embedded], script: Scripts, tmp_path: Path
) -> None:
    server = own_topology()
    server.stop()
    environ = {name: value for name, value in server.environ().items() if name != "CLOCHE_URL"}
    said = call(("up", "-d", "--port", "0", "--json"), environ).document
    assert call(("status", "--json"), environ).document["url"] == said["url"]
    call(("down",), environ)
    assert call(("status", "--json"), environ, code=1).document["running"] is False
    assert not server.processes()


def test_a_restart_loses_nothing_that_was_accepted(own_topology: Callable[..., Embedded], script: Scripts) -> None:
    server = own_topology()
    with server.client() as client:
        ended = completed(client, script("print('kept')"))
        for number in range(20):
            client.environments.register("kept", variables={"NUMBER": str(number)})
    server.kill()
    server.restart()
    with server.client() as client:
        assert client.runs.get(ended.id).model_dump() == ended.model_dump()
        assert log_of(client, ended) == "kept\n"
        assert [one.version for one in client.environments.versions("kept")] == [str(n) for n in range(20, 0, -1)]
