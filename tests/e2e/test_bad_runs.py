"""Runs that cannot start, that fail, or that never end: each ends, and says why and what to do."""

import os
import time
from pathlib import Path
from typing import Any

import pytest

from cloche import Client, ClocheError
from tests.e2e.problems import failed, problem, refused, said
from tests.e2e.steps import Names, Scripts, done, log_of, reaches, submit
from tests.e2e.topology import PATIENCE, Topology, eventually

MIB = 1024 * 1024


def fails(client: Client, script: Path, code: str, *, names: str = "", **options: Any) -> Any:
    """Submit a run, see it fail for this reason, and return the run."""
    run = done(client, submit(client, script, **options))
    assert run.status == "Failed", run.status
    failed(run.problem, code, names=names)
    return run


def test_an_environment_that_does_not_exist_ends_the_run(
    topology: Topology, client: Client, script: Scripts, unique: Names
) -> None:
    name, train = unique("nothing"), script("print(1)")
    run = fails(client, train, "environment_not_found", names=name, environment=name)
    assert run.exit is None
    ended = topology.cli("submit", train, "--env", name, code=3)
    assert "cloche env register" in said(ended, "environment_not_found", names=name)


def test_a_version_of_an_environment_that_does_not_exist_lists_those_that_do(
    client: Client, script: Scripts, unique: Names
) -> None:
    name, train = unique("env"), script("print(1)")
    client.environments.register(name)
    fails(client, train, "environment_version_not_found", names="1", environment=f"{name}:7")
    fails(client, train, "label_not_found", names="stable", environment=f"{name}@stable")


def test_a_model_that_does_not_exist_ends_the_run(client: Client, script: Scripts, unique: Names) -> None:
    name = unique("nothing")
    fails(client, script("print(1)"), "model_not_found", names=name, models=[name])


def test_a_script_that_is_not_there(topology: Topology, client: Client, tmp_path: Path) -> None:
    ended = topology.cli("submit", tmp_path / "none.py", code=3)
    said(ended, "script_not_found", names="none.py")
    with pytest.raises(ClocheError) as caught:
        client.runs.submit(tmp_path / "none.py")
    refused(caught.value, "script_not_found", names="none.py")


def test_a_script_outside_of_the_folder_that_is_sent(client: Client, script: Scripts, tmp_path: Path) -> None:
    (tmp_path / "other").mkdir()
    with pytest.raises(ClocheError) as caught:
        client.runs.submit(script("print(1)"), source=tmp_path / "other")
    refused(caught.value, "script_outside_source", names="other")


def test_a_script_that_ends_with_3_ends_the_program_with_3(topology: Topology, script: Scripts) -> None:
    train = script("import sys\nprint('before the end')\nsys.exit(3)")
    ended = topology.cli("submit", train, "--follow", "--cpus", "0.1", code=3)
    assert "before the end" in ended.out
    said(ended, "user_code_failed", names="exit code 3")


def test_a_script_that_raises_shows_its_last_line(client: Client, script: Scripts) -> None:
    run = fails(client, script("raise ValueError('no column: age')"), "user_code_failed", names="no column: age")
    assert run.exit_code == 1
    log = log_of(client, run)
    assert 'File "train.py", line 1' in log, "the trace names the file as the user knows it"


def test_a_script_that_is_no_python(client: Client, script: Scripts) -> None:
    fails(client, script("def train(:\n"), "user_code_failed", names="SyntaxError")
    fails(client, script("import a_package_that_is_nowhere"), "user_code_failed", names="a_package_that_is_nowhere")


def test_a_script_that_is_killed_names_the_signal(client: Client, script: Scripts) -> None:
    fails(client, script("import os\nos.kill(os.getpid(), 9)"), "killed_by_signal", names="SIGKILL")
    run = fails(client, script("import os\nos.kill(os.getpid(), 11)"), "killed_by_signal", names="SIGSEGV")
    assert run.exit["signal"] == 11


def test_a_script_that_uses_too_much_memory_names_its_limit(client: Client, script: Scripts) -> None:
    train = script("kept = []\nwhile True:\n    kept.append(bytearray(4_000_000))\n")
    run = fails(client, train, "out_of_memory", names="96 MiB", memory=96 * MIB)
    assert run.problem.model_dump()["limit"] == 96 * MIB


def test_a_script_that_never_ends_is_ended_at_its_deadline(topology: Topology, client: Client, script: Scripts) -> None:
    train = script("import signal, time\nsignal.signal(signal.SIGTERM, lambda *_: None)\nprint('on')\ntime.sleep(600)")
    run = submit(client, train, deadline=1.0, grace=0.5)
    ended = done(client, run)
    failed(ended.problem, "deadline_exceeded", names="1 s")
    assert topology.cli("run", "wait", run.id, code=124).code == 124


@pytest.mark.embedded_only
def test_a_child_of_a_script_does_not_outlive_the_deadline(client: Client, script: Scripts) -> None:
    train = script(
        "import subprocess, sys, time\n"
        "child = subprocess.Popen([sys.executable, '-c', 'import time; time.sleep(600)'])\n"
        "print('child', child.pid, flush=True)\ntime.sleep(600)\n"
    )
    run = submit(client, train, deadline=2.0, grace=0.2)
    ended = done(client, run)
    failed(ended.problem, "deadline_exceeded")
    child = int(log_of(client, ended).split()[1])
    eventually(lambda: _is_dead(child), "the child ended")


def _is_dead(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z"
    except OSError:
        return True


def test_more_gpus_than_there_are_wait_and_say_so(topology: Topology, client: Client, script: Scripts) -> None:
    run = submit(client, script("print(1)"), gpus=64)
    reaches(client, run, "Queued")
    why = client.runs.why(run.id)
    assert why["waits_for"] == "resources"
    assert "64 GPUs" in why["reason"]
    assert "64 GPUs" in topology.cli("run", "why", run.id).out
    assert topology.cli("run", "cancel", run.id).code == 0
    assert done(client, run).status == "Canceled"


def test_more_memory_than_there_is_waits_and_says_so(client: Client, script: Scripts) -> None:
    for asked in ({"memory": 2**50}, {"cpus": 1024.0}, {"gpus": 1, "gpu_kind": "no such kind"}):
        run = submit(client, script("print(1)"), **asked)
        reaches(client, run, "Queued")
        why = eventually(lambda run=run: _resources(client.runs.why(run.id)), "it waits for resources")
        assert "the largest node has" in why["reason"] or "no such kind" in why["reason"], why
        client.runs.cancel(run.id)
        assert done(client, run).status == "Canceled"


def _resources(why: dict[str, Any]) -> dict[str, Any] | None:
    return why if why["waits_for"] == "resources" else None


@pytest.mark.parametrize(
    ("field", "value", "code"),
    [
        ("/resources/memory", -1, "invalid_field"),
        ("/resources/memory", 1.5, "invalid_type"),
        ("/resources/memory", "1g", "invalid_type"),
        ("/resources/cpus", -1, "invalid_field"),
        ("/resources/cpus", 1e9, "invalid_field"),
        ("/resources/gpus", -1, "invalid_field"),
        ("/resources/gpus", 65, "invalid_field"),
        ("/resources/gpus", True, "invalid_type"),
        ("/resources/privileged", True, "unknown_field"),
        ("/priority", 101, "invalid_field"),
        ("/priority", 10**15, "invalid_field"),
        ("/deadline", 0, "invalid_field"),
        ("/deadline", -5, "invalid_field"),
        ("/deadline", 1e300, "invalid_field"),
        ("/grace", -1, "invalid_field"),
        ("/retries", 1000, "invalid_field"),
        ("/script", "", "invalid_field"),
        ("/script", None, "invalid_type"),
        ("/arguments", "a b", "invalid_type"),
        ("/arguments", [1], "invalid_type"),
        ("/arguments", ["x"] * 1001, "invalid_field"),
        ("/snapshot", "sha256:../../token", "invalid_field"),
        ("/snapshot", "md5:00", "invalid_field"),
        ("/tags", {"a": 1}, "invalid_type"),
        ("/experiment", "../x", "invalid_name"),
        ("/environment", "cloche-default", ""),
        ("/volumes", ["/:/host"], "unknown_field"),
    ],
    ids=ascii,
)
def test_a_submission_is_read_strictly(topology: Topology, field: str, value: object, code: str) -> None:
    body: dict[str, Any] = {"script": "a.py", "snapshot": "sha256:" + "0" * 64, "resources": {}}
    *above, last = field.strip("/").split("/")
    (body["resources"] if above else body)[last] = value
    with topology.rest() as rest:
        answer = rest.post("/api/v1/runs", json=body)
    told = problem(answer, 422, code or answer.json()["code"])
    assert any(one["pointer"].startswith(field) for one in told["errors"]), told


def test_a_retry_of_a_script_that_always_fails_ends(client: Client, script: Scripts) -> None:
    run = fails(client, script("import sys\nprint('try')\nsys.exit(4)"), "user_code_failed", names="4", retries=1)
    assert run.model_dump()["attempt"] == 2


def test_a_run_that_ended_is_not_cancelled_any_more(topology: Topology, client: Client, script: Scripts) -> None:
    run = done(client, submit(client, script("print(1)")))
    assert client.runs.cancel(run.id).status == "Completed"
    said(topology.cli("run", "show", "ffffffff-none", code=3), "run_not_found", names="ffffffff")


def test_an_argument_that_is_no_text_is_refused_before_it_is_sent(client: Client, script: Scripts) -> None:
    with pytest.raises(ClocheError) as caught:
        client.runs.submit(script("print(1)"), arguments=[os.fsdecode(b"\xff.csv")])
    refused(caught.value, "malformed_json", names="UTF-8")


def test_a_log_full_of_control_characters_is_kept_as_it_is_and_forges_nothing(
    topology: Topology, client: Client, script: Scripts
) -> None:
    forged = '{"ts":"2026-01-01T00:00:00Z","level":"info","service":"cloche","action":"forged"}'
    run = done(client, submit(client, script(f"print('\\x1b[2J\\r\\n' + {forged!r})"), display_name="x\x1b[31m\r\ny"))
    assert run.status == "Completed"
    assert "\x1b[2J" in log_of(client, run)
    shown = topology.cli("run", "show", run.id).out
    assert "\x1b" not in shown
    assert "\r" not in shown


def test_a_flood_of_output_is_bounded_and_stays_readable(client: Client, script: Scripts) -> None:
    began = time.monotonic()
    run = done(client, submit(client, script("for number in range(200_000):\n    print('line', number)\n")))
    log = log_of(client, run)
    assert log.endswith("line 199999\n")
    assert time.monotonic() - began < PATIENCE


TRICKS = """
import os
os.makedirs("outputs")
os.symlink("/etc/passwd", "outputs/passwd")
os.symlink("/", "outputs/root")
os.symlink("../../token", "outputs/token")
os.symlink("ok", "outputs/linked")
os.mkfifo("outputs/fifo")
open("outputs/ok", "w").write("ok")
open("outputs/line\\nbreak", "w").write("x")
open(b"outputs/\\xff\\xfe", "w").write("x")
os.makedirs("outputs/" + "/".join(["d"] * 50))
"""


def test_outputs_that_are_tricks_are_left_where_they_are_and_named(
    topology: Topology, client: Client, script: Scripts
) -> None:
    run = done(client, submit(client, script(TRICKS), deadline=30.0))
    assert run.status == "Completed", run.problem
    assert [one["path"] for one in client.runs.outputs(run.id)] == ["outputs/linked", "outputs/ok"]
    left_out = "\n".join(run.model_dump()["left_out"])
    for name in ("passwd", "root", "token", "fifo", r"line\nbreak", r"\udcff\udcfe"):
        assert f"outputs/{name}: " in left_out, left_out
    assert "outputs/fifo" in topology.cli("run", "show", run.id).out
    ended = done(client, submit(client, script("import os\nos.symlink('/etc', 'outputs')"), deadline=30.0))
    assert ended.status == "Completed"
    assert client.runs.outputs(ended.id) == []
    assert "outputs: " in str(ended.model_dump()["left_out"])


@pytest.mark.embedded_only
def test_children_that_left_the_session_end_with_the_run(client: Client, script: Scripts) -> None:
    train = script(
        "import os, time\n"
        "for _ in range(8):\n"
        "    child = os.fork()\n"
        "    if not child:\n"
        "        os.setsid()\n"
        "        time.sleep(600)\n"
        "    print(child, flush=True)\n"
    )
    run = done(client, submit(client, train, deadline=60.0))
    assert run.status == "Completed", run.problem
    children = [int(line) for line in log_of(client, run).split()]
    assert len(children) == 8
    eventually(lambda: all(_is_dead(child) for child in children), "the children ended")
