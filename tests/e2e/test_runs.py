"""Runs: what a script gets, what it leaves, and how its log is read."""

import re
from pathlib import Path

import pytest

from cloche import Client
from tests.e2e.steps import Names, Scripts, completed, done, log_of, reaches, says, submit
from tests.e2e.topology import PATIENCE, Topology, eventually

TRAIN = """
import sys
from pathlib import Path
{IMPORT}
run = Run.get_context()
for step in range(5):
    run.log("loss", 1.0 / (step + 1))
run.log_list("accuracy", [0.5, 0.7, 0.9])
run.log_row("table", x=1, y=2)
run.log_row("table", x=3, y=4)
run.tag("quality", "good")
run.add_properties({"author": "ada"})
Path("note.txt").write_text("a note")
run.upload_file("notes/note.txt", "note.txt")
Path("outputs").mkdir(exist_ok=True)
Path("outputs/model.txt").write_text("weights")
Path("logs").mkdir(exist_ok=True)
Path("logs/own.log").write_text("own")
print("arguments:", sys.argv[1:])
run.complete()
"""

SLOW = """
import sys, time
from pathlib import Path
print("first", flush=True)
while not Path(sys.argv[1]).exists():
    time.sleep(0.05)
print("last", flush=True)
"""


@pytest.mark.main_job
def test_a_script_gets_its_arguments_as_they_were_given(topology: Topology, script: Scripts) -> None:
    code = script("import sys; print(sys.argv[1:])")
    said = topology.cli(
        "submit", code, "--cpus", "0.1", "--memory", "64MiB", "--follow", "--", "--rate", "0.1", "a b", "$(x)"
    )
    assert "['--rate', '0.1', 'a b', '$(x)']" in said.out


@pytest.mark.main_job
@pytest.mark.parametrize("line", ["from cloche.core import Run", "from azureml.core import Run"])
def test_what_a_script_logs_and_leaves_can_be_read(client: Client, tmp_path: Path, script: Scripts, line: str) -> None:
    ended = completed(client, script(TRAIN.replace("{IMPORT}", line)), arguments=["--alpha", 1])
    said = client.runs.metrics(ended.id)
    assert said["metrics"]["loss"] == pytest.approx([1, 1 / 2, 1 / 3, 1 / 4, 1 / 5])
    assert said["metrics"]["accuracy"] == [0.5, 0.7, 0.9]
    assert said["metrics"]["table"] == {"x": [1, 3], "y": [2, 4]}
    assert said["tags"]["quality"] == "good"
    assert said["properties"]["author"] == "ada"
    paths = {one["path"] for one in client.runs.outputs(ended.id)}
    assert {"outputs/model.txt", "logs/own.log", "notes/note.txt"} <= paths
    got = client.runs.download(ended.id, "outputs/model.txt", tmp_path / "got" / "model.txt")
    assert got.read_text() == "weights"
    assert "arguments: ['--alpha', '1']" in log_of(client, ended)


def test_the_command_line_shows_metrics_and_downloads_outputs(
    topology: Topology, client: Client, tmp_path: Path, script: Scripts
) -> None:
    ended = completed(client, script(TRAIN.replace("{IMPORT}", "from cloche.core import Run")))
    shown = topology.cli("run", "metrics", ended.id, "--json").document
    assert shown["tags"]["quality"] == "good"
    assert "outputs/model.txt" in topology.cli("run", "outputs", ended.id).out
    topology.cli("run", "download", ended.id, "outputs", "--to", tmp_path)
    assert (tmp_path / "outputs" / "model.txt").read_text() == "weights"


def test_metrics_can_be_read_while_the_run_goes_on(client: Client, tmp_path: Path, script: Scripts) -> None:
    code = "from cloche.core import Run\nRun.get_context().log('early', 7)\n" + SLOW
    run = submit(client, script(code), arguments=[tmp_path / "go"])
    eventually(lambda: client.runs.metrics(run.id)["metrics"].get("early") == 7, "the metric is shown")
    assert client.runs.get(run.id).status == "Running"
    (tmp_path / "go").touch()
    assert done(client, run).status == "Completed"


@pytest.mark.main_job
def test_a_log_comes_live_and_goes_on_from_any_byte(client: Client, tmp_path: Path, script: Scripts) -> None:
    run = submit(client, script(SLOW), arguments=[tmp_path / "go"])
    pieces = client.runs.log(run.id, follow=True)
    assert next(pieces) == b"first\n"
    (tmp_path / "go").touch()
    assert b"".join(pieces) == b"last\n"
    assert b"".join(client.runs.log(run.id, follow=True, offset=6)) == b"last\n"
    assert b"".join(client.runs.log(run.id, follow=False, offset=3)) == b"st\nlast\n"


def test_a_log_stream_resumes_after_the_last_event_id(topology: Topology, client: Client, script: Scripts) -> None:
    ended = completed(client, script("print('one'); print('two')"))
    path = f"/api/v1/runs/{ended.id}/log"
    with topology.rest(accept="text/event-stream") as rest:
        whole = rest.get(path).text
        rest.headers["last-event-id"] = "4"
        rest_of_it = rest.get(path).text
    assert "one" in whole
    assert "one" not in rest_of_it
    assert "two" in rest_of_it
    assert re.search(r"^id: ?8$", rest_of_it, re.MULTILINE)


def test_outputs_and_logs_are_collected_after_a_failure_too(client: Client, script: Scripts) -> None:
    code = script(
        "import sys\nfrom pathlib import Path\nPath('outputs').mkdir(exist_ok=True)\n"
        "Path('outputs/half.txt').write_text('half')\nprint('going down')\nsys.exit(3)"
    )
    ended = done(client, submit(client, code))
    assert ended.status == "Failed"
    assert "outputs/half.txt" in {one["path"] for one in client.runs.outputs(ended.id)}
    assert "going down" in log_of(client, ended)


def test_of_a_run_the_folders_are_kept_that_were_asked_for(client: Client, script: Scripts, tmp_path: Path) -> None:
    code = script(
        "from pathlib import Path\nprint('data:', Path('data/rows.csv').read_text(), Path('mine').exists())\n"
        "for name in ('outputs', 'logs', 'mine'):\n    Path(name).mkdir()\n    Path(name, 'a.txt').write_text('a')"
    )
    (code.parent / "mine").mkdir()
    (code.parent / "mine" / "old.txt").write_text("of an earlier run")
    (tmp_path / "rows.csv").write_text("1")
    ended = completed(client, code, data={"data": tmp_path / "rows.csv"}, collect=["outputs", "mine"])
    assert [one["path"] for one in client.runs.outputs(ended.id)] == ["mine/a.txt", "outputs/a.txt"]
    assert "data: 1 False" in log_of(client, ended)


def test_what_lies_in_a_sources_outputs_is_not_the_runs(client: Client, script: Scripts) -> None:
    code = script("import os\nprint('here:', os.path.exists('outputs'), os.path.exists('logs'))\nraise SystemExit(3)")
    for name in ("outputs/model.pkl", "logs/old.log", "data/outputs/kept.txt"):
        (code.parent / name).parent.mkdir(parents=True)
        (code.parent / name).write_text("of an earlier run")
    failed = done(client, submit(client, code))
    assert client.runs.outputs(failed.id) == []
    says(client, failed, "here: False False")


@pytest.mark.main_job
def test_run_wait_ends_with_the_exit_code_of_the_script(topology: Topology, client: Client, script: Scripts) -> None:
    run = submit(client, script("raise SystemExit(7)"))
    topology.cli("run", "wait", run.id, code=7)
    assert client.runs.get(run.id).exit_code == 7


def test_without_a_gpu_a_script_sees_none(client: Client, script: Scripts) -> None:
    code = script("import os; print('devices:', repr(os.environ['CUDA_VISIBLE_DEVICES']))")
    assert "devices: ''" in log_of(client, completed(client, code))


def test_a_script_knows_its_run_and_nothing_of_the_server(client: Client, script: Scripts) -> None:
    ended = completed(
        client, script("import os\nfor name in sorted(os.environ): print(name)\nprint(os.environ['CLOCHE_RUN_ID'])")
    )
    log = log_of(client, ended)
    assert ended.id in log
    assert "CLOCHE_TOKEN" not in log


@pytest.mark.parametrize("ignoring", [".clocheignore", ".amlignore"])
def test_a_snapshot_leaves_out_what_its_ignore_file_names(client: Client, script: Scripts, ignoring: str) -> None:
    code = script("import os\nfor _, _, names in os.walk('.'): print(names)")
    (code.parent / ignoring).write_text("*.secret\ndata/\n")
    (code.parent / "kept.txt").write_text("kept")
    (code.parent / "left.secret").write_text("left")
    (code.parent / "data").mkdir()
    (code.parent / "data" / "big.bin").write_text("big")
    log = log_of(client, completed(client, code))
    assert "kept.txt" in log
    assert "left.secret" not in log
    assert "big.bin" not in log


def test_a_module_beside_the_script_can_be_imported(client: Client, script: Scripts) -> None:
    code = script("import helper; print(helper.WORD)")
    (code.parent / "helper.py").write_text("WORD = 'helped'")
    assert "helped" in log_of(client, completed(client, code))


def test_a_run_is_found_by_the_beginning_of_its_id(topology: Topology, client: Client, script: Scripts) -> None:
    ended = completed(client, script("print(1)"))
    assert topology.cli("run", "show", ended.id[:-2], "--json").document["id"] == ended.id


def test_runs_show_who_submitted_them_and_what_they_took(client: Client, script: Scripts, unique: Names) -> None:
    ended = completed(
        client, script("print(1)"), tags={"team": "a"}, experiment=unique("exp"), display_name="my run"
    ).model_dump()
    assert ended["display_name"] == "my run"
    assert ended["resources"]["cpus"] == 0.1
    assert ended["tags"]["team"] == "a"
    assert ended["created_by"]
    assert ended["started_at"] < ended["ended_at"]
    assert ended["attempt"] == 1


@pytest.mark.main_job
def test_the_same_environment_is_reused_by_the_next_run(client: Client, script: Scripts, unique: Names) -> None:
    name = unique("env")
    client.environments.register(name, variables={"A": name})
    completed(client, script("print(1)"), environment=name)
    assert completed(client, script("print(2)"), environment=name).model_dump()["reused"] is True


def test_follow_shows_the_log_and_ends_with_the_exit_code(topology: Topology, script: Scripts) -> None:
    code = script("print('hello'); raise SystemExit(4)")
    said = topology.cli("submit", code, "--cpus", "0.1", "--memory", "64MiB", "--follow", code=4)
    assert "hello" in said.out


def test_a_run_that_asks_for_more_attempts_gets_them(client: Client, tmp_path: Path, script: Scripts) -> None:
    code = script(
        "import sys\nfrom pathlib import Path\ntries = Path(sys.argv[1])\n"
        "tries.write_text(tries.read_text() + 'x' if tries.exists() else 'x')\n"
        "print('try', len(tries.read_text()))\nsys.exit(len(tries.read_text()) < 3)"
    )
    ended = completed(client, code, arguments=[tmp_path / "tries"], retries=2)
    assert ended.model_dump()["attempt"] == 3
    marks = ["cloche: attempt 1 failed; another one follows", "cloche: attempt 2 failed; another one follows"]
    assert log_of(client, ended).splitlines() == ["try 1", marks[0], "try 2", marks[1], "try 3"]


def test_a_run_that_fails_is_not_tried_again_unless_asked(client: Client, script: Scripts) -> None:
    ended = done(client, submit(client, script("raise SystemExit(1)")))
    assert ended.model_dump()["attempt"] == 1


def test_a_deadline_ends_a_run_and_names_itself(client: Client, script: Scripts) -> None:
    run = submit(client, script("import time\nprint('begun', flush=True)\ntime.sleep(600)"), deadline=1, grace=1)
    ended = done(client, run)
    assert ended.status == "Failed"
    assert ended.problem is not None
    assert ended.problem.code == "deadline_exceeded"
    assert "begun" in log_of(client, ended)


def test_a_run_that_takes_more_memory_than_it_asked_for_is_ended_and_told_so(client: Client, script: Scripts) -> None:
    code = script("import time\nkept = []\nwhile True:\n    kept.append(bytearray(8 << 20)); time.sleep(0.05)")
    ended = done(client, submit(client, code))
    assert ended.status == "Failed"
    assert ended.problem is not None
    assert ended.problem.code == "out_of_memory"


@pytest.mark.main_job
def test_statuses_are_shown_while_the_run_goes_through_them(
    topology: Topology, client: Client, tmp_path: Path, script: Scripts
) -> None:
    run = submit(client, script(SLOW), arguments=[tmp_path / "go"])
    reaches(client, run, "Running")
    says(client, run, "first")
    assert run.id in topology.cli("ps").out
    (tmp_path / "go").touch()
    ended = client.runs.wait(run.id, timeout=PATIENCE)
    assert ended.status == "Completed"
    assert run.id in [one.id for one in client.runs.list(status="Completed", limit=50)]
