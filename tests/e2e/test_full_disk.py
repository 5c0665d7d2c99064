"""Runs that fill the data folder's disk: they end, their users are told, and the server starts again."""

import os
import re
import signal
import time
from collections.abc import Callable

import pytest

from tests.e2e.problems import said
from tests.e2e.steps import Scripts, completed, done, gone, log_of, reaches, says, submit
from tests.e2e.topology import Embedded, eventually

pytestmark = pytest.mark.embedded_only
MIB = 1024 * 1024
DISK = 32 * MIB
Servers = Callable[..., Embedded]

FILLING = """
import os
print("filling", flush=True)
os.makedirs("outputs", exist_ok=True)
with open("outputs/small", "w") as file:
    file.write("kept")
with open("outputs/large", "wb", buffering=0) as file:
    for size in (1 << 20, 4096, 1):
        try:
            while True:
                file.write(os.urandom(size))
        except OSError:
            pass
sys.exit(int(sys.argv[1]))
"""
CLINGING = """
import os
import time
os.makedirs("outputs", exist_ok=True)
print("filling", flush=True)
file = open("outputs/large", "ab", buffering=0)
while True:
    try:
        file.write(b"x" * 65536)
    except OSError:
        time.sleep(0.05)
"""


@pytest.mark.parametrize("code", [0, 1])
def test_a_run_that_fills_the_disk_fails_by_itself_and_frees_it(
    own_topology: Servers, script: Scripts, code: int
) -> None:
    server = own_topology(disk=DISK, CLOCHE_RUNNER__ROOM_WAIT="3")
    with server.client() as client:
        completed(client, script("print('before')"))
        run = submit(client, script(FILLING), arguments=[str(code)])
        ended = done(client, run)
        assert ended.status == "Failed"
        assert ended.problem is not None
        assert ended.problem.code == "disk_full", ended.problem
        assert "outputs/large" in ended.problem.message
        assert "Free some space" in ended.problem.todo
        assert any("outputs/large" in one for one in ended.model_dump()["left_out"])
        assert [entry["path"] for entry in client.runs.outputs(run.id)] == ["outputs/small"]
        assert (ended.exit or {})["code"] in {code, 1}, "what else it writes on a full disk may fail too"
        assert "filling" in log_of(client, run)
        eventually(lambda: not list((server.folder / "node" / "work").glob("run-*")), "its working folder is gone")
        completed(client, script("print('after')"))


def test_who_follows_a_run_is_told_that_the_disk_is_full(own_topology: Servers, script: Scripts) -> None:
    server = own_topology(disk=DISK, CLOCHE_RUNNER__ROOM_WAIT="6")
    with server.client() as client:
        completed(client, script("print('before')"))
    told = server.cli("submit", script(FILLING), "--memory", "64MiB", "--follow", "--", "0", code=None)
    assert told.code != 0
    assert "The disk is full" in told.err
    said(told, "disk_full", names="outputs/large")


def test_a_run_that_clings_to_a_full_disk_can_be_cancelled(own_topology: Servers, script: Scripts) -> None:
    server = own_topology(disk=DISK, CLOCHE_RUNNER__ROOM_WAIT="2")
    with server.client() as client:
        completed(client, script("print('before')"))
        run = submit(client, script(CLINGING))
        reaches(client, run, "Running")
        why = eventually(lambda: (found := client.runs.why(run.id))["waits_for"] == "room" and found, "it is told")
        assert "The disk is full" in why["reason"]
        client.runs.cancel(run.id)
        assert done(client, run).status == "Canceled"
        completed(client, script("print('after')"))


def test_a_server_starts_on_a_disk_that_a_run_filled_while_it_was_away(own_topology: Servers, script: Scripts) -> None:
    server = own_topology(disk=DISK, CLOCHE_RUNNER__ROOM_WAIT="2")
    with server.client() as client:
        completed(client, script("print('before')"))
        run = submit(client, script("import time; print('up', flush=True); time.sleep(4)" + FILLING), arguments=["0"])
        says(client, run, "up")
    server.kill()
    eventually(lambda: (server.folder / "node" / "processes").glob("run-*/exit.json"), "the run has ended")
    time.sleep(6)
    server.fill_disk()
    server.restart()
    with server.client() as client:
        ended = done(client, run)
        assert (ended.status, ended.problem and ended.problem.code) == ("Failed", "disk_full")
        eventually(lambda: not list((server.folder / "node" / "work").glob("run-*")), "its working folder is gone")
        completed(client, script("print('after')"))


def test_a_start_names_the_run_that_takes_whatever_becomes_free(own_topology: Servers, script: Scripts) -> None:
    server = own_topology(disk=DISK)
    with server.client() as client:
        completed(client, script("print('before')"))
        run = submit(client, script(CLINGING))
        reaches(client, run, "Running")
    server.kill()
    server.fill_disk()
    problem = server.start()["error"]
    assert problem["code"] == "disk_full"
    told = re.search(rf"run-{run.id}-1 \(kill (\d+)\)", problem["todo"])
    assert told, problem
    os.kill(int(told[1]), signal.SIGTERM)
    gone(int(told[1]))
    server.free_disk()
    (server.folder / "node" / "work" / f"run-{run.id}-1" / "outputs" / "large").unlink()
    server.restart()
    with server.client() as client:
        client.runs.cancel(run.id)
        assert done(client, run).ended


def test_a_start_for_which_there_is_no_room_at_all_says_what_may_be_removed(
    own_topology: Servers, script: Scripts
) -> None:
    server = own_topology(disk=DISK)
    with server.client() as client:
        completed(client, script("print('before')"))
    server.kill()
    (server.folder / "cloche.log.1").write_bytes(b"x" * MIB)
    (server.folder / "reserve").unlink()
    server.fill_disk()
    problem = server.start()["error"]
    assert problem["code"] == "disk_full"
    assert str(server.home) in problem["what"]
    assert "cloche.log.1 (1.0 MiB" in problem["todo"]
    server.free_disk()
    server.restart()
    with server.client() as client:
        completed(client, script("print('after')"))
