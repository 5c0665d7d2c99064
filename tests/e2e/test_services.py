"""Scoring services: deployed, scored, updated under load, deleted, and back after a restart."""

import json
import os
import signal
import threading
import time
from collections import Counter
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from cloche import Client, ClocheError
from tests.e2e.steps import SCORE, Names, Scripts, deployed, gone
from tests.e2e.topology import PATIENCE, SMALL, Embedded, Topology, eventually, own_address

MODEL_SCORE = """
import json, os
from pathlib import Path

def init():
    global WORDS
    root = Path(os.environ["AZUREML_MODEL_DIR"])
    WORDS = {str(file.relative_to(root)): file.read_text() for file in sorted(root.rglob("*.txt"))}

def run(data):
    return {"files": WORDS, "pid": os.getpid()}
"""

RAW = """
from azureml.contrib.services.aml_request import rawhttp, AMLRequest
from azureml.contrib.services.aml_response import AMLResponse

def init():
    pass

@rawhttp
def run(request):
    if request.method == "GET":
        return AMLResponse("got " + request.args.get("q", "nothing"), 200)
    return AMLResponse(request.get_data()[::-1], 201, {"X-Own": "yes"})
"""


PLACES = """
import os

def init():
    open("kept.txt", "w").close()

def run(data):
    return {"pid": os.getpid(), "here": sorted(os.listdir()), "home": os.path.isdir(os.environ["HOME"])}
"""
"""A script that looks at its folder whenever it is asked."""


def model(client: Client, name: str, folder: Path, text: str) -> str:
    """Register a version of a model with one file."""
    folder.mkdir(exist_ok=True)
    (folder / "word.txt").write_text(text)
    return client.models.register(name, path=folder / "word.txt").version


def answer_of(client: Client, name: str, data: object, key: str | None = None) -> Any:
    """Return what a service answers, as soon as it answers."""

    def ask() -> list[object]:
        try:
            return [client.services.score(name, data, key=key)]
        except ClocheError:
            return []

    return eventually(ask, f"{name} answers")[0]


@pytest.mark.main_job
def test_a_service_is_deployed_and_scored_by_the_command_line(
    topology: Topology, unique: Names, script: Scripts
) -> None:
    name = unique("svc")
    code = script(SCORE, "score.py")
    said = topology.cli("deploy", code, "--name", name, "--cpus", "0.1", "--memory", "64MiB", "--json").document
    assert said["status"] == "Healthy"
    assert said["scoring_uri"].endswith(f"/api/v1/services/{name}/score")
    assert topology.cli("score", name, '{"a": 1}').document == {"greeting": "hello", "got": {"a": 1}}
    assert name in topology.cli("service", "list").out
    listed = {one["name"]: one["workers"] for one in topology.cli("service", "list", "--json").document}
    assert listed[name] == topology.cli("service", "show", name, "--json").document["workers"]
    assert "init is done" in topology.cli("service", "logs", name).out
    topology.cli("service", "delete", name, "--yes")
    topology.cli("service", "show", name, code=3)


@pytest.mark.main_job
def test_both_keys_and_the_token_open_scoring_and_nothing_else_does(
    topology: Topology, client: Client, unique: Names, script: Scripts
) -> None:
    name = unique("svc")
    service = deployed(client, name, script(SCORE, "score.py"))
    keys = service.keys()
    path = f"/api/v1/services/{name}/score"
    for key in (keys.primary, keys.secondary, topology.token):
        with topology.rest(authorization=f"Bearer {key}") as rest:
            assert rest.post(path, json=1).status_code == 200
    for header in ("Bearer nonsense", "Basic abc", ""):
        with topology.rest(authorization=header, address=own_address()) as rest:
            answer = rest.post(path, json=1)
        assert answer.status_code == 401
    service.delete()


def test_a_key_of_a_service_opens_nothing_but_its_scoring(
    topology: Topology, client: Client, unique: Names, script: Scripts
) -> None:
    code = script(SCORE, "score.py")
    one, other = unique("svc"), unique("svc")
    key = deployed(client, one, code).keys().primary
    deployed(client, other, code)
    with topology.rest(authorization=f"Bearer {key}", address=own_address()) as rest:
        assert rest.post(f"/api/v1/services/{other}/score", json=1).status_code == 401
        for path in ("runs", "environments", f"services/{one}", f"services/{one}/keys", "events"):
            assert rest.get(f"/api/v1/{path}").status_code == 401
    client.services.delete(one)
    client.services.delete(other)


@pytest.mark.main_job
def test_a_replaced_key_opens_no_more(topology: Topology, client: Client, unique: Names, script: Scripts) -> None:
    name = unique("svc")
    service = deployed(client, name, script(SCORE, "score.py"))
    former = service.keys()
    fresh = client.services.regenerate(name, "primary")
    assert fresh.primary != former.primary
    assert fresh.secondary == former.secondary
    path = f"/api/v1/services/{name}/score"

    def status(key: str) -> int:
        with topology.rest(authorization=f"Bearer {key}", address=own_address()) as rest:
            return rest.post(path, json=1).status_code

    assert status(fresh.primary) == 200
    eventually(lambda: status(former.primary) == 401, "the former key opens nothing", seconds=PATIENCE)
    service.delete()


def test_several_workers_share_the_requests(client: Client, unique: Names, script: Scripts) -> None:
    code = script(
        "import os, time\ndef init(): pass\ndef run(data):\n    time.sleep(0.05)\n    return os.getpid()", "s.py"
    )
    service = deployed(client, unique("svc"), code, workers=2)
    eventually(lambda: client.services.get(service.name).model_dump()["workers"]["ready"] == 2, "two are ready")
    with ThreadPoolExecutor(8) as pool:
        pids = set(pool.map(lambda _: service.score({}), range(24)))
    assert len(pids) == 2
    service.delete()


def test_raw_http_gives_the_script_the_whole_request(
    topology: Topology, client: Client, unique: Names, script: Scripts
) -> None:
    name = unique("svc")
    service = deployed(client, name, script(RAW, "score.py"))
    with topology.rest() as rest:
        got = rest.get(f"/api/v1/services/{name}/score", params={"q": "this"})
        posted = rest.post(f"/api/v1/services/{name}/score", content=b"abc")
    assert (got.status_code, got.text) == (200, "got this")
    assert (posted.status_code, posted.content, posted.headers["x-own"]) == (201, b"cba", "yes")
    service.delete()


def test_one_model_lies_where_azure_puts_it(client: Client, unique: Names, script: Scripts, tmp_path: Path) -> None:
    name = unique("model")
    model(client, name, tmp_path / "files", "one")
    service = deployed(client, unique("svc"), script(MODEL_SCORE, "score.py"), model=name)
    found = service.score({})
    assert isinstance(found, dict)
    assert found["files"] == {"word.txt": "one"}
    shown = service.model_dump()["models"]
    assert [(one["name"], one["version"]) for one in shown] == [(name, "1")]
    service.delete()


def test_several_models_lie_by_name_and_version(client: Client, unique: Names, script: Scripts, tmp_path: Path) -> None:
    first, second = unique("model"), unique("model")
    for name in (first, second, second):
        model(client, name, tmp_path / "files", name)
    service = deployed(client, unique("svc"), script(MODEL_SCORE, "score.py"), model=[first, f"{second}:2"])
    found = service.score({})
    assert isinstance(found, dict)
    assert set(found["files"]) == {f"{first}/1/word.txt", f"{second}/2/word.txt"}
    service.delete()


@pytest.mark.main_job
def test_an_update_to_a_new_model_version_drops_no_request(
    topology: Topology, client: Client, unique: Names, script: Scripts, tmp_path: Path
) -> None:
    name, service_name = unique("model"), unique("svc")
    model(client, name, tmp_path / "files", "one")
    code = script(MODEL_SCORE, "score.py")
    deployed(client, service_name, code, model=f"{name}:1")
    model(client, name, tmp_path / "files", "two")
    statuses: Counter[int] = Counter()
    words: list[str] = []
    stop = threading.Event()

    def load() -> None:
        with topology.rest() as rest:
            while not stop.is_set():
                answer = rest.post(f"/api/v1/services/{service_name}/score", json={})
                statuses[answer.status_code] += 1
                words.append(answer.json()["files"]["word.txt"])
                time.sleep(0.01)

    loaders = [threading.Thread(target=load) for _ in range(4)]
    for one in loaders:
        one.start()
    try:
        eventually(lambda: len(words) > 10, "the load is on")
        assert deployed(client, service_name, code, model=f"{name}:2", update=True).active_revision == 2
        eventually(lambda: words[-1] == "two", "the new version answers")
    finally:
        stop.set()
        for one in loaders:
            one.join()
    assert set(statuses) == {200}
    assert (words[0], words[-1]) == ("one", "two")
    assert client.services.get(service_name).active_revision == 2
    client.services.delete(service_name)


def test_an_update_that_fails_leaves_the_former_revision_in_place(
    client: Client, unique: Names, script: Scripts
) -> None:
    name = unique("svc")
    deployed(client, name, script(SCORE, "score.py"))
    failing = script("def init(): raise ValueError('no luck')\ndef run(data): pass", "s.py")
    client.services.deploy(name, failing, update=True, **SMALL)
    found = client.services.wait(name, timeout=PATIENCE)
    assert found.active_revision == 1
    assert found.error is not None
    assert "no luck" in json.dumps(found.error.model_dump())
    assert client.services.score(name, 1) == {"greeting": "hello", "got": 1}
    client.services.delete(name)


def test_a_service_whose_workers_keep_ending_is_failed_wherever_one_looks(
    client: Client, unique: Names, script: Scripts
) -> None:
    name = unique("svc")
    code = "import os, threading\ndef init(): threading.Timer(0.5, os._exit, [3]).start()\ndef run(data): return 1"
    client.services.deploy(name, script(code, "score.py"), **SMALL)
    eventually(lambda: client.services.get(name).status == "Failed", f"{name} has failed")
    error = client.services.get(name).error
    assert error is not None
    assert "exited with code 3" in error.message
    eventually(lambda: {one.name: one.status for one in client.services.list()}[name] == "Failed", "the list agrees")
    assert deployed(client, name, script(SCORE, "s.py"), update=True).active_revision == 2
    assert client.services.score(name, 1) == {"greeting": "hello", "got": 1}
    client.services.delete(name)


def test_a_deleted_service_ends_its_workers_and_frees_what_it_held(
    client: Client, unique: Names, script: Scripts
) -> None:
    code = script("import os\ndef init(): pass\ndef run(data): return os.getpid()", "score.py")
    service = deployed(client, unique("svc"), code)
    pid = service.score({})
    assert isinstance(pid, int)
    service.delete()
    gone(pid)
    with pytest.raises(ClocheError) as caught:
        service.score({})
    assert caught.value.code == "service_not_found"


def test_a_worker_that_dies_is_replaced(client: Client, unique: Names, script: Scripts) -> None:
    code = script("import os\ndef init(): pass\ndef run(data): return os.getpid()", "score.py")
    service = deployed(client, unique("svc"), code)
    former = service.score({})
    assert isinstance(former, int)
    os.kill(former, signal.SIGKILL)

    assert answer_of(client, service.name, {}) != former
    service.delete()


@pytest.mark.embedded_only
def test_services_come_back_after_a_restart_with_the_same_keys(
    own_topology: Callable[..., Embedded], unique: Names, script: Scripts, tmp_path: Path
) -> None:
    server, name = own_topology(), unique("svc")
    with server.client() as client:
        model(client, name, tmp_path / "files", "kept")
        service = deployed(client, name, script(MODEL_SCORE, "score.py"), model=name)
        keys, before = service.keys(), answer_of(client, name, {})
    server.restart()
    with server.client() as client:
        after = answer_of(client, name, {}, key=keys.primary)
        assert after["files"] == before["files"]
        assert client.services.get(name).status == "Healthy"
        assert client.services.keys(name) == keys


@pytest.mark.embedded_only
def test_workers_of_a_killed_server_are_adopted_where_they_live(
    own_topology: Callable[..., Embedded], unique: Names, script: Scripts
) -> None:
    server, name = own_topology(), unique("svc")
    with server.client() as client:
        before = answer_of(client, deployed(client, name, script(PLACES, "score.py")).name, 1)
    server.kill()
    server.restart()
    with server.client() as client:
        assert answer_of(client, name, 1) == before
        assert {"kept.txt", "score.py"} <= set(before["here"])
