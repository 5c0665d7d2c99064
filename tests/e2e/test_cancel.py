"""Cancelling: nothing of a run lives beyond its grace period."""

from pathlib import Path

import pytest

from cloche import Client
from tests.e2e.packages import ThreadedIndex
from tests.e2e.steps import Names, Scripts, done, gone, is_alive, log_of, reaches, says, submit
from tests.e2e.topology import Topology

SLEEP = "import os, time\nprint('pid', os.getpid(), flush=True)\ntime.sleep(600)"

FAMILY = """
import os, signal, subprocess, sys, time
signal.signal(signal.SIGTERM, signal.SIG_IGN)
ignore = "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); print('up', flush=True)"
stubborn = ignore + "; time.sleep(600)"
child = subprocess.Popen([sys.executable, "-c", stubborn], stdout=subprocess.PIPE)
child.stdout.readline()
print("family", os.getpid(), child.pid, flush=True)
time.sleep(600)
"""

GRACEFUL = """
import signal, sys, time
from pathlib import Path
def leave(*_):
    Path("outputs").mkdir(exist_ok=True)
    Path("outputs/checkpoint.txt").write_text("saved")
    print("saved", flush=True)
    sys.exit(0)
signal.signal(signal.SIGTERM, leave)
print("ready", flush=True)
time.sleep(600)
"""


@pytest.mark.main_job
def test_a_running_run_is_ended_by_the_command_line(topology: Topology, client: Client, script: Scripts) -> None:
    run = submit(client, script(SLEEP))
    pid = int(says(client, run, r"pid (\d+)")[1])
    topology.cli("run", "cancel", run.id, "--wait")
    assert client.runs.get(run.id).status == "Canceled"
    gone(pid)


def test_a_child_that_ignores_the_request_is_ended_with_its_whole_group(client: Client, script: Scripts) -> None:
    run = submit(client, script(FAMILY), grace=1)
    found = says(client, run, r"family (\d+) (\d+)")
    client.runs.cancel(run.id)
    assert done(client, run).status == "Canceled"
    gone(int(found[1]), int(found[2]))


def test_a_script_may_save_its_work_when_it_is_cancelled(client: Client, tmp_path: Path, script: Scripts) -> None:
    run = submit(client, script(GRACEFUL))
    says(client, run, "ready")
    client.runs.cancel(run.id)
    assert done(client, run).status == "Canceled"
    got = client.runs.download(run.id, "outputs/checkpoint.txt", tmp_path / "checkpoint.txt")
    assert got.read_text() == "saved"
    assert "saved" in log_of(client, run)


@pytest.mark.main_job
def test_a_run_that_waits_for_its_environment_is_cancelled_at_once(
    client: Client, index: ThreadedIndex, unique: Names, script: Scripts
) -> None:
    name = unique("env")
    client.environments.register(name, requirements=index.add(unique("pkg")))
    index.gate.clear()
    run = submit(client, script(SLEEP), environment=name)
    reaches(client, run, "Preparing")
    assert client.runs.why(run.id)["waits_for"] in {"references", "environment"}
    assert client.runs.cancel(run.id).status == "Canceled"


def test_cancelling_twice_or_after_the_end_changes_nothing(client: Client, script: Scripts) -> None:
    run = submit(client, script("print('done')"))
    assert done(client, run).status == "Completed"
    assert client.runs.cancel(run.id).status == "Completed"
    other = submit(client, script(SLEEP), grace=1)
    reaches(client, other, "Running")
    client.runs.cancel(other.id)
    client.runs.cancel(other.id)
    assert done(client, other).status == "Canceled"


def test_a_process_that_left_the_group_is_ended_too(client: Client, script: Scripts) -> None:
    code = script(
        "import os, subprocess, sys, time\n"
        "child = subprocess.Popen([sys.executable, '-c', 'import time; time.sleep(600)'], start_new_session=True)\n"
        "print('left', child.pid, flush=True)\ntime.sleep(600)"
    )
    run = submit(client, code, grace=1)
    pid = int(says(client, run, r"left (\d+)")[1])
    assert is_alive(pid)
    client.runs.cancel(run.id)
    assert done(client, run).status == "Canceled"
    gone(pid)
