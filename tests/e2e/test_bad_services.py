"""Services that cannot start, scripts that misbehave, and callers who should not call."""

import re
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx2
import pytest

from cloche import Client, ClocheError
from tests.e2e.problems import problem, refused, said
from tests.e2e.steps import Names, Scripts, deployed
from tests.e2e.topology import PATIENCE, SMALL, Topology, eventually

ECHO = "def init(): pass\ndef run(data): return data\n"
TROUBLE = """
import json, os, time
import numpy_is_not_needed_here as nothing  # a module beside the script
def init(): pass
def run(data):
    what = json.loads(data)["do"]
    if what == "raise":
        raise ValueError("no column named age")
    if what == "sleep":
        time.sleep(600)
    if what == "exit":
        os._exit(7)
    if what == "object":
        return object()
    return os.getpid()
"""


def refuses(client: Client, name: str, script: Path, code: str, *, names: str = "", **options: Any) -> None:
    """Deploy and see it fail for this reason, without a word of where things lie on the server."""
    client.services.deploy(name, script, **{**SMALL, **options})
    found = client.services.wait(name, timeout=PATIENCE)
    assert found.status == "Failed", found.status
    assert found.error is not None
    assert found.error.code == code, found.error
    assert names in found.error.message
    assert found.error.todo
    assert not re.search(r'File "/', found.error.message)
    eventually(lambda: code in unscored(client, name), "scoring says why")
    client.services.delete(name)


def unscored(client: Client, name: str) -> str:
    """Return how scoring is refused."""
    with pytest.raises(ClocheError) as caught:
        client.services.score(name, {})
    refused(caught.value, "service_unavailable")
    return str(caught.value)


@pytest.mark.parametrize(
    ("text", "code", "names"),
    [
        ("def init(:\n", "script_syntax_error", "score.py, line 1"),
        ("def init(): pass\n", "script_missing_run", "run()"),
        ("def run(data): return data\n", "script_missing_init", "init()"),
        ("import nowhere_to_be_found\n" + ECHO, "script_import_error", "nowhere_to_be_found"),
        ("def init(): pass\ndef run(*data): pass\n", "script_invalid_run", "run()"),
        ("import os\ndef init(): os._exit(9)\ndef run(data): pass\n", "worker_ended", "code 9"),
    ],
    ids=["syntax", "no run", "no init", "no module", "no parameters", "exits"],
)
def test_a_script_that_cannot_serve_says_why(
    client: Client, script: Scripts, unique: Names, text: str, code: str, names: str
) -> None:
    refuses(client, unique("bad"), script(text, "score.py"), code, names=names)


def test_what_init_raises_is_in_the_error_of_the_service(
    topology: Topology, client: Client, script: Scripts, unique: Names
) -> None:
    score = script("def init():\n    raise ValueError('no model.pkl here')\ndef run(data): pass\n", "score.py")
    name = unique("bad")
    client.services.deploy(name, score, **SMALL)
    told = client.services.wait(name, timeout=PATIENCE).error
    assert told is not None
    assert told.code == "init_failed"
    assert "ValueError: no model.pkl here" in told.message
    assert 'File "score.py", line 2, in init' in told.message, "the trace names the file as the user knows it"
    ended = topology.cli("deploy", score, "--name", unique("bad"), code=1)
    said(ended, "init_failed", names="no model.pkl here")
    client.services.delete(name)


def test_an_init_that_never_returns_is_given_up(client: Client, script: Scripts, unique: Names) -> None:
    score = script("import time\ndef init(): time.sleep(600)\ndef run(data): pass\n", "score.py")
    refuses(client, unique("bad"), score, "init_timeout", names="1 second", init_timeout=1.0)


def test_an_environment_or_a_model_that_does_not_exist(client: Client, script: Scripts, unique: Names) -> None:
    name, score = unique("nothing"), script(ECHO, "score.py")
    refuses(client, unique("bad"), score, "environment_not_found", names=name, environment=name)
    refuses(client, unique("bad"), score, "model_not_found", names=name, model=name)


def test_a_script_that_is_not_there(topology: Topology, client: Client, tmp_path: Path, unique: Names) -> None:
    with pytest.raises(ClocheError) as caught:
        client.services.deploy(unique("bad"), tmp_path / "score.py")
    refused(caught.value, "script_not_found", names="score.py")
    said(topology.cli("deploy", tmp_path / "score.py", "--name", unique("bad"), code=3), "script_not_found")


# --- names


def test_a_name_that_is_taken(topology: Topology, client: Client, script: Scripts, unique: Names) -> None:
    name, score = unique("taken"), script(ECHO, "score.py")
    client.services.deploy(name, score, **SMALL)
    with pytest.raises(ClocheError) as caught:
        client.services.deploy(name, score, **SMALL)
    refused(caught.value, "service_exists")
    with topology.rest() as rest:
        body = {"name": name, "entry_script": "score.py", "snapshot": client.snapshot(score.parent).digest}
        problem(rest.post("/api/v1/services", json=body), 409, "service_exists")
    client.services.wait(name, timeout=PATIENCE)
    client.services.delete(name)


@pytest.mark.parametrize("much", [{"cpus": 1000}, {"memory": 9000 * 2**30}])
def test_a_service_that_no_node_could_hold_is_refused(
    client: Client, script: Scripts, unique: Names, much: dict[str, Any]
) -> None:
    refuses(client, unique("much"), script(ECHO, "score.py"), "insufficient_resources", names="largest node", **much)


def test_a_service_that_asks_for_some_of_its_node_gets_a_place(client: Client, script: Scripts, unique: Names) -> None:
    name = unique("some")
    deployed(client, name, script(ECHO, "score.py"), memory=600 * 2**20)
    assert client.services.score(name, "x") == "x"
    client.services.delete(name)


def test_a_deployment_that_failed_is_repeated_by_the_same_command(
    topology: Topology, client: Client, script: Scripts, unique: Names
) -> None:
    name, score = unique("again"), script("def init(): raise ValueError('not yet')\ndef run(data): return data\n")
    command = ("deploy", score, "--name", name, "--cpus", "0.1", "--memory", "64MiB")
    assert "not yet" in topology.cli(*command, code=None).err
    score.write_text(ECHO)
    topology.cli(*command)
    assert client.services.score(name, {"data": 1}) == '{"data":1}'
    client.services.delete(name)


def test_what_does_not_exist_is_not_updated_scored_or_deleted(
    topology: Topology, client: Client, script: Scripts, unique: Names
) -> None:
    name, score = unique("nothing"), script(ECHO, "score.py")
    asks: tuple[Callable[[], object], ...] = (
        lambda: client.services.deploy(name, score, update=True),
        lambda: client.services.score(name, {}),
        lambda: client.services.keys(name),
        lambda: client.services.regenerate(name, "primary"),
        lambda: client.services.delete(name),
        lambda: "".join(client.services.log(name)),
    )
    for ask in asks:
        with pytest.raises(ClocheError) as caught:
            ask()
        refused(caught.value, "service_not_found")
    said(topology.cli("score", name, "{}", code=3), "service_not_found")


def test_deleting_twice_and_a_key_that_is_none(client: Client, script: Scripts, unique: Names) -> None:
    name = unique("gone")
    client.services.deploy(name, script(ECHO, "score.py"), **SMALL)
    with pytest.raises(ClocheError) as caught:
        client.services.regenerate(name, "tertiary")
    refused(caught.value, "key_not_found", names="primary")
    client.services.wait(name, timeout=PATIENCE)
    client.services.delete(name)
    with pytest.raises(ClocheError) as caught:
        client.services.delete(name)
    refused(caught.value, "service_not_found")


@pytest.mark.parametrize(
    ("field", "value"),
    [
        *(("/workers", 0), ("/workers", 65), ("/timeout_ms", 0), ("/init_timeout", -1), ("/queue", 0)),
        *(("/entry_script", ""), ("/cors_origins", "*"), ("/colour", 1), ("/resources/cpus", -1)),
    ],
    ids=ascii,
)
def test_a_deployment_is_read_strictly(topology: Topology, unique: Names, field: str, value: object) -> None:
    body: dict[str, Any] = {"name": unique("bad"), "entry_script": "s.py", "snapshot": "sha256:" + "0" * 64}
    *above, last = field.strip("/").split("/")
    (body.setdefault("resources", {}) if above else body)[last] = value
    with topology.rest() as rest:
        answer = rest.post("/api/v1/services", json=body)
    problem(answer, 422, answer.json()["code"], pointer=field)


# --- calls


@pytest.fixture(scope="module")
def trouble(topology: Topology, tmp_path_factory: pytest.TempPathFactory, unique: Names) -> Iterator[str]:
    """A service with two workers whose script does what it is told."""
    folder = tmp_path_factory.mktemp("trouble")
    (folder / "numpy_is_not_needed_here.py").touch()
    (folder / "score.py").write_text(TROUBLE)
    name = unique("trouble")
    with topology.client() as client:
        deployed(client, name, folder / "score.py", workers=2, timeout_ms=1000)
        yield name
        client.services.delete(name)


def call(rest: httpx2.Client, name: str, what: str) -> httpx2.Response:
    return rest.post(f"/api/v1/services/{name}/score", json={"do": what})


def test_what_run_raises_stays_in_the_log(topology: Topology, client: Client, trouble: str) -> None:
    with topology.rest() as rest:
        answer = call(rest, trouble, "raise")
    assert answer.status_code == 500
    assert answer.headers["x-ms-run-function-failed"] == "True"
    assert "column" not in answer.text
    eventually(lambda: "ValueError: no column named age" in "".join(client.services.log(trouble)), "the log has it")
    assert answer.headers["x-request-id"] in "".join(client.services.log(trouble))


def test_a_result_that_is_no_json(topology: Topology, trouble: str) -> None:
    with topology.rest() as rest:
        answer = call(rest, trouble, "object")
    assert (answer.status_code, answer.headers["x-ms-run-function-failed"]) == (500, "False")


def test_only_the_worker_that_hangs_is_ended(topology: Topology, trouble: str) -> None:
    with topology.rest() as rest, ThreadPoolExecutor(2) as pool:
        began = time.monotonic()
        stuck = pool.submit(call, rest, trouble, "sleep")
        time.sleep(0.3)
        during = [call(rest, trouble, "pid") for _ in range(5)]
        assert not stuck.done()
        answer = stuck.result()
        assert {one.status_code for one in during} == {200}
        assert len({one.json() for one in during}) == 1, "the other worker answered all of them"
        assert (answer.status_code, answer.headers["x-ms-run-function-failed"]) == (500, "True")
        assert time.monotonic() - began < PATIENCE / 4
        eventually(lambda: call(rest, trouble, "pid").status_code == 200, "it answers still")


def test_a_worker_that_ends_is_replaced(topology: Topology, client: Client, trouble: str) -> None:
    with topology.rest() as rest:
        answer = call(rest, trouble, "exit")
        problem(answer, 500, "worker_ended")
        for _ in range(5):
            "".join(client.services.log(trouble))
        eventually(lambda: call(rest, trouble, "pid").status_code == 200, "another worker answers")


def test_workers_that_are_ended_leave_a_line_in_the_services_log(
    client: Client, topology: Topology, script: Scripts, unique: Names
) -> None:
    name = unique("killed")
    code = "import json, time\ndef init(): pass\ndef run(data):\n    what = json.loads(data)['do']\n"
    code += "    time.sleep(600) if what == 'sleep' else [b'x' * 2**20 for _ in range(400)]\n"
    deployed(client, name, script(code, "score.py"), memory=100 * 2**20, timeout_ms=1000)
    path = f"/api/v1/services/{name}/score"
    with topology.rest() as rest:
        late = rest.post(path, json={"do": "sleep"}, headers={"x-request-id": "r-slept"})
        assert late.status_code == 500
        eventually(lambda: rest.get(f"/api/v1/services/{name}/health").status_code == 200, "it is back")
        large = rest.post(path, json={"do": "grow"}, headers={"x-request-id": "r-grew"})
        told = problem(large, 500, "worker_ended", names="100 MiB")
        assert "out of memory" in told["detail"]

    def lines(part: str) -> bool:
        return any(part in line and "cloche: " in line for line in "".join(client.services.log(name)).splitlines())

    eventually(lambda: lines("longer than 1 s (while it executed request r-slept)"), "the timeout is told")
    eventually(lambda: lines("out of memory) (while it executed request r-grew)"), "the lack of memory is told")
    client.services.delete(name)


def test_wrong_json_for_a_script_with_parameters_is_the_callers_fault(
    topology: Topology, client: Client, script: Scripts, unique: Names
) -> None:
    score = script("import json\ndef init(): pass\ndef run(data): return json.loads(data)\n", "score.py")
    (score.parent / "inference_schema.py").write_text(SCHEMA)
    (score.parent / "score.py").write_text(
        "import inference_schema, sys, types\n"
        "sys.modules['inference_schema.schema_util'] = inference_schema\n"
        "def init(): pass\ndef run(data, scale=2): return data * scale\n"
    )
    name = unique("schema")
    deployed(client, name, score)
    path = f"/api/v1/services/{name}/score"
    with topology.rest() as rest:
        assert rest.post(path, json={"data": 4}).json() == 8
        for body in (b"{not json", b"[1]", b"", b'{"other": 1}', b"\xff"):
            answer = rest.post(path, content=body, headers={"content-type": "application/json"})
            assert answer.status_code == 400, (body, answer.text)
            assert answer.json()["message"]
        answer = rest.post(path, content=b"{}", headers={"content-type": "text/plain"})
        assert answer.status_code == 415
    client.services.delete(name)


SCHEMA = """
def is_schema_decorated(function): return True
def get_input_schema(function): return {"type": "object"}
def get_output_schema(function): return {}
def get_supported_versions(function): return ["2.0"]
"""


def test_the_keys_of_a_service_open_nothing_else(topology: Topology, client: Client, trouble: str) -> None:
    key = client.services.keys(trouble).primary
    with topology.rest(authorization=f"Bearer {key}") as rest:
        assert call(rest, trouble, "pid").status_code == 200
        for path in (
            "/api/v1/runs",
            f"/api/v1/services/{trouble}",
            f"/api/v1/services/{trouble}/keys",
            "/api/v1/events",
        ):
            problem(rest.get(path), 401, "unauthenticated")


def test_a_call_without_a_key_is_refused(topology: Topology, trouble: str) -> None:
    for given in ("", "Bearer wrong", "Basic dXNlcjpwdw=="):
        with topology.rest(authorization=given) as rest:
            problem(call(rest, trouble, "pid"), 401, "unauthenticated")
