"""The scoring data path on real worker processes and a real HTTP server on loopback."""

import asyncio
import json
import os
import signal
import socket
import sys
import tempfile
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass
from pathlib import Path

import httpx2
import pytest
import uvicorn

from cloche_deployer.adapters.scoring_alone import ChildWorkers, Launch, _Child, request_id_source
from cloche_deployer.adapters.scoring_links import UnixConnector
from cloche_deployer.scoring.app import ScoringApp
from cloche_deployer.scoring.pool import PoolSettings, WorkerPool
from cloche_deployer.scoring.target import RoutingTable, ServiceTarget, TargetSettings, digest
from cloche_shared.errors import Failed

PATH = "/api/v1/services/svc/score"
KEY = {"Authorization": "Bearer first-key"}
ECHO = "def init():\n    pass\ndef run(data):\n    return data\n"
RAW_FAILED = "x-ms-run-function-failed"

Workshop = Callable[..., Awaitable[WorkerPool]]


async def until(true: Callable[[], bool]) -> None:
    """Wait up to ten seconds for something to become true."""
    for _ in range(1000):
        if true():
            return
        await asyncio.sleep(0.01)
    raise AssertionError


class Tokens:
    """A platform token that may score in project `p`, and one that may in another."""

    async def projects(self, token: str, *, patient: bool) -> frozenset[str]:
        return {"pt": frozenset({"p"}), "other": frozenset({"q"})}.get(token, frozenset())


@dataclass
class House:
    """One server, one service, and the means to make further pools."""

    client: httpx2.AsyncClient
    target: ServiceTarget
    pool: WorkerPool
    make: Workshop


Serve = Callable[..., Awaitable[House]]


@pytest.fixture
async def workshop(tmp_path: Path) -> AsyncIterator[Workshop]:
    pools: list[WorkerPool] = []
    sockets = tempfile.TemporaryDirectory(prefix="cs-", dir="/tmp")

    async def make(script: str, name: str = "score.py", **settings: object) -> WorkerPool:
        root = tmp_path / f"app{len(pools)}"
        root.mkdir()
        (root / name).write_text(script)
        launch = Launch(sys.executable, root, name, Path(sockets.name), {**os.environ, "MARK": "m"})
        pool = WorkerPool(ChildWorkers(launch), UnixConnector(), PoolSettings(**settings))  # type: ignore[arg-type]
        pools.append(pool)
        await pool.start()
        await pool.ready()
        return pool

    yield make
    await asyncio.gather(*(pool.stop() for pool in pools))
    sockets.cleanup()


@pytest.fixture
async def serve(workshop: Workshop) -> AsyncIterator[Serve]:
    stack: list[Callable[[], Awaitable[object]]] = []

    async def start(script: str, target: TargetSettings | None = None, **settings: object) -> House:
        pool = await workshop(script, **settings)
        service = ServiceTarget(
            "p", "svc", [digest("first-key"), digest("second-key")], pool, target or TargetSettings()
        )
        table = RoutingTable()
        table.put(service)
        app = ScoringApp(table, request_id_source(), access=Tokens(), alone="svc")
        # asyncio only switches Nagle's algorithm off where the socket says that it is TCP.
        listener = socket.socket(socket.AF_INET, socket.SOCK_STREAM, socket.IPPROTO_TCP)
        listener.bind(("127.0.0.1", 0))
        server = uvicorn.Server(uvicorn.Config(app, http="httptools", lifespan="off", log_level="warning"))
        serving = asyncio.create_task(server._serve([listener]))
        client = httpx2.AsyncClient(base_url=f"http://127.0.0.1:{listener.getsockname()[1]}", timeout=20, headers=KEY)

        async def end() -> None:
            await client.aclose()
            server.should_exit = True
            await serving
            listener.close()

        stack.append(end)
        await until(lambda: server.started)
        return House(client, service, pool, workshop)

    yield start
    for end in stack:
        await end()


async def test_plain_run_gets_text_and_its_value_comes_back_as_json(serve: Serve) -> None:
    house = await serve(ECHO)
    answer = await house.client.post(PATH, content=b'{"a": 1}', headers={"content-type": "application/json"})
    assert answer.status_code == 200
    assert answer.headers["content-type"] == "application/json"
    assert answer.json() == '{"a": 1}'
    assert answer.headers[RAW_FAILED] == "False"
    assert float(answer.headers["x-ms-run-fn-exec-ms"]) >= 0
    assert answer.headers["x-ms-request-id"] == answer.headers["x-request-id"]
    assert "x-ms-client-request-id" not in answer.headers
    assert answer.headers["x-ms-server-version"].startswith("cloche/")


async def test_get_gives_the_query_as_json_text(serve: Serve) -> None:
    house = await serve(ECHO)
    answer = await house.client.get(PATH + "?a=1&b=[1,2]&c=x&d=null&e=1&e=y")
    assert json.loads(answer.json()) == {"a": 1, "b": [1, 2], "c": "x", "d": None, "e": [1, "y"]}


async def test_statuses_of_methods_and_paths_are_those_of_the_contract(serve: Serve) -> None:
    house = await serve(ECHO)
    healthy = await house.client.get("/", headers={"Authorization": ""})
    assert (healthy.status_code, healthy.text) == (200, "Healthy")
    options = await house.client.options("/score")
    assert (options.status_code, options.content) == (200, b"")
    wrong = await house.client.delete(PATH)
    assert (wrong.status_code, list(wrong.json())) == (405, ["message"])
    missing = await house.client.get("/nothing")
    assert (missing.status_code, list(missing.json())) == (404, ["message"])
    assert "x-request-id" not in missing.headers
    assert (await house.client.get("/api/v1/services/svc/health")).text == "Healthy"


async def test_request_ids_are_echoed_and_bounded(serve: Serve) -> None:
    house = await serve(ECHO)
    sent = {"x-request-id": "r", "x-ms-client-request-id": "c", "TraceId": "t"}
    answer = await house.client.post(PATH, content=b"1", headers=sent)
    assert [answer.headers[n] for n in ("x-request-id", "x-ms-request-id", "x-ms-client-request-id", "traceid")] == [
        "r", "c", "c", "t",
    ]  # fmt: skip
    legacy = await house.client.post(PATH, content=b"1", headers={"x-ms-request-id": "l"})
    assert (legacy.headers["x-ms-request-id"], legacy.headers["x-ms-client-request-id"]) == ("l", "l")
    for name in ("x-request-id", "x-ms-request-id", "x-ms-client-request-id"):
        assert (await house.client.post(PATH, content=b"1", headers={name: "x" * 101})).status_code == 431


async def test_bodies_that_are_not_text_and_forms_follow_the_contract(serve: Serve) -> None:
    house = await serve(ECHO)
    bad = await house.client.post(PATH, content=b"\xff\xfe")
    assert (bad.status_code, "UTF-8" in bad.json()["message"]) == (400, True)
    assert bad.headers[RAW_FAILED] == "False"
    form = await house.client.post(PATH, data={"a": "1"})
    assert form.json() == ""


async def test_run_that_raises_returns_500_and_logs_the_traceback(serve: Serve) -> None:
    house = await serve("def init():\n    pass\ndef run(data):\n    raise RuntimeError('my secret trouble')\n")
    answer = await house.client.post(PATH, content=b"1", headers={"x-request-id": "rid-7"})
    assert answer.status_code == 500
    assert answer.json() == {"message": "An unexpected error occurred in scoring script. Check the logs for more info."}
    assert answer.headers[RAW_FAILED] == "True"
    assert "x-ms-run-fn-exec-ms" not in answer.headers
    worker = house.pool._ready[0].process
    assert isinstance(worker, _Child)
    log = worker._log.read_text()
    assert "rid-7" in log
    assert "my secret trouble" in log
    assert "scoring_script.py" not in log
    assert (await house.client.post(PATH, content=b"1")).status_code == 500


async def test_results_that_are_not_json_are_an_internal_error_and_none_is_an_object(serve: Serve) -> None:
    house = await serve("def init():\n    pass\ndef run(data):\n    return None if data == '0' else {1, 2}\n")
    assert (await house.client.post(PATH, content=b"0")).json() == {}
    answer = await house.client.post(PATH, content=b"1")
    assert (answer.status_code, answer.headers[RAW_FAILED]) == (500, "False")
    assert "internal error" in answer.json()["message"]


async def test_raw_scripts_get_the_request_and_make_the_response(serve: Serve) -> None:
    script = """
from azureml.contrib.services.aml_request import AMLRequest, rawhttp
from azureml.contrib.services.aml_response import AMLResponse
def init():
    pass
@rawhttp
def run(request):
    assert isinstance(request, AMLRequest)
    if request.method == "OPTIONS":
        return AMLResponse("opt", 200)
    if request.method == "GET":
        return AMLResponse(dict(request.args), 200, {}, json_str=True)
    if "image" in request.files:
        return AMLResponse(request.files["image"].read(), 201, {"Content-Type": "image/png", "X-Two": "a, b"})
    return AMLResponse("bad\\n", 503, {"X-Evil": "a\\r\\nInjected: 1", "Content-Length": "1"})
"""
    house = await serve(script)
    got = await house.client.get(PATH + "?k=v")
    assert got.json() == {"k": "v"}
    assert (await house.client.options(PATH)).text == "opt"
    image = await house.client.post(PATH, files={"image": ("i.png", b"\x89PNG\r\n\x00", "image/png")})
    assert (image.status_code, image.content, image.headers["content-type"]) == (201, b"\x89PNG\r\n\x00", "image/png")
    assert image.headers.get_list("x-two") == ["a", "b"]
    bad = await house.client.post(PATH, content=b"x")
    assert (bad.status_code, bad.text, bad.headers[RAW_FAILED]) == (503, "bad\n", "True")
    assert "injected" not in bad.headers
    assert "x-evil" not in bad.headers


async def test_a_raw_answer_that_http_does_not_know_is_an_internal_error_of_that_request_alone(serve: Serve) -> None:
    script = """
import os
from azureml.contrib.services.aml_request import rawhttp
from azureml.contrib.services.aml_response import AMLResponse
def init():
    pass
@rawhttp
def run(request):
    return AMLResponse(str(os.getpid()), int(request.args["status"]))
"""
    house = await serve(script)
    worker = (await house.client.get(PATH + "?status=599")).text
    for status in (-1, 0, 99, 101, 600, 70000):
        answer = await house.client.get(f"{PATH}?status={status}")
        assert (answer.status_code, list(answer.json())) == (500, ["message"]), status
    assert (await house.client.get(PATH + "?status=200")).text == worker


async def test_request_headers_and_decorated_parameters_are_passed(serve: Serve) -> None:
    script = """
import os, sys, types
util = types.ModuleType("inference_schema.schema_util")
util.is_schema_decorated = lambda run: True
util.get_input_schema = lambda run: {"type": "object", "properties": {"a": {"type": "integer"}}}
util.get_output_schema = lambda run: {"type": "integer"}
util.get_supported_versions = lambda run: ["2.0", "3.0"]
sys.modules["inference_schema.schema_util"] = util
def init():
    pass
def run(a, request_headers, b=2):
    return [a, b, request_headers["X-Mine"], os.environ["MARK"], "Authorization" in request_headers]
"""
    house = await serve(script)
    mine = {"x-mine": "h"}
    good = await house.client.post(PATH, json={"a": 1, "extra": 0}, headers=mine)
    assert good.json() == [1, 2, "h", "m", False]
    assert (await house.client.get(PATH + "?a=5", headers=mine)).json()[0] == 5
    assert (await house.client.post(PATH, content=b"{}", headers={"content-type": "text/plain"})).status_code == 415
    for body in (b"", b"{", b"[]", b"{}"):
        bad = await house.client.post(PATH, content=body, headers={"content-type": "application/json"})
        assert bad.status_code == 400, body
    swagger = (await house.client.get("/swagger.json")).json()
    assert swagger["definitions"]["ServiceOutput"] == {"type": "integer"}
    assert (await house.client.get("/swagger.json?version=3")).json()["openapi"] == "3.0.3"
    assert (await house.client.get("/swagger.json?version=3.1")).status_code == 404


@pytest.mark.parametrize(
    ("script", "code", "text"),
    [
        ("def run(:\n", "script_syntax_error", "line 1"),
        ("import no_such_package\n", "script_import_error", "no_such_package"),
        ("def init():\n    pass\n", "script_missing_run", "run()"),
        ("def run(data):\n    pass\n", "script_missing_init", "init()"),
        ("def init():\n    pass\ndef run(*data):\n    pass\n", "script_invalid_run", "*args"),
        ("def init():\n    pass\ndef run(request_headers):\n    pass\n", "script_invalid_run", "other than"),
        ("def init():\n    1 / 0\ndef run(data):\n    pass\n", "init_failed", "ZeroDivisionError"),
        ("import sys\ndef init():\n    sys.exit(4)\ndef run(data):\n    pass\n", "init_failed", "SystemExit"),
        ("import os\ndef init():\n    os._exit(9)\ndef run(data):\n    pass\n", "worker_ended", "exit code 9"),
    ],
)
async def test_scripts_that_cannot_serve_say_why(workshop: Workshop, script: str, code: str, text: str) -> None:
    with pytest.raises(Failed) as caught:
        await workshop(script)
    assert caught.value.code == code
    assert text in str(caught.value)
    assert "cloche_runtime" not in str(caught.value)
    if code == "init_failed":
        assert 'score.py", line' in caught.value.why


async def test_both_keys_and_tokens_of_the_project_open_the_service_and_nothing_else_does(serve: Serve) -> None:
    house = await serve(ECHO)

    async def status(token: str, **more: str) -> tuple[int, str | None]:
        answer = await house.client.post(PATH, content=b"1", headers={"Authorization": token, **more})
        return answer.status_code, answer.json().get("code") if answer.status_code > 299 else None

    assert await status("Bearer second-key") == (200, None)
    assert await status("Bearer pt") == (200, None)
    assert await status("Bearer pt", **{"Cloche-Project": "q"}) == (404, "service_not_found")
    assert await status("Bearer other") == (404, "service_not_found")
    assert await status("Bearer guess") == (401, "unauthenticated")
    assert await status("Basic first-key") == (401, "unauthenticated")
    assert await status("") == (401, "unauthenticated")
    house.target.rekey([digest("third")])
    assert await status("Bearer second-key") == (401, "unauthenticated")


async def test_bodies_over_the_limit_are_refused_by_their_bytes(serve: Serve) -> None:
    house = await serve(ECHO, TargetSettings(max_body=1000))

    async def chunks() -> AsyncIterator[bytes]:
        for _ in range(20):
            yield b"x" * 100

    for content in (b"x" * 1001, chunks()):
        answer = await house.client.post(PATH, content=content)
        assert (answer.status_code, answer.json()["code"]) == (413, "too_large")
    assert (await house.client.post(PATH, content=b"x" * 1000)).status_code == 200


async def test_origins_are_answered_as_configured(serve: Serve) -> None:
    house = await serve(ECHO, TargetSettings(origins=("https://a.example",)))
    asked = {"Origin": "https://a.example", "Access-Control-Request-Method": "POST", "Authorization": ""}
    preflight = await house.client.options(PATH, headers=asked)
    assert preflight.headers["access-control-allow-origin"] == "https://a.example"
    answer = await house.client.post(PATH, content=b"1", headers={"Origin": "https://evil.example"})
    assert "access-control-allow-origin" not in answer.headers


HANG = """
import os, time
def init():
    pass
def run(data):
    if data == "hang":
        while True:
            time.sleep(1)
    if data == "slow":
        time.sleep(0.4)
    if data == "crash":
        os.kill(os.getpid(), 11)
    return os.getpid()
"""


async def test_a_run_that_never_returns_costs_only_its_own_worker(serve: Serve) -> None:
    house = await serve(HANG, workers=2, timeout=1.0)
    await until(lambda: house.pool.ready_workers == 2)
    hanging = asyncio.create_task(house.client.post(PATH, content=b"hang"))
    await asyncio.sleep(0.2)
    others = [await house.client.post(PATH, content=b"x") for _ in range(20)]
    assert len({a.json() for a in others if a.status_code == 200}) == 1
    assert not hanging.done()
    answer = await hanging
    assert (answer.status_code, answer.json()) == (500, {"message": "Scoring timeout after 1000 ms"})
    assert answer.headers[RAW_FAILED] == "True"
    await until(lambda: house.pool.ready_workers == 2)
    assert house.pool.state == "ready"


async def test_calls_behind_a_crash_are_executed_by_the_next_worker(serve: Serve) -> None:
    house = await serve(HANG)
    before = (await house.client.post(PATH, content=b"x")).json()
    slow = asyncio.create_task(house.client.post(PATH, content=b"slow"))
    await asyncio.sleep(0.1)
    crash, *rest = [asyncio.create_task(house.client.post(PATH, content=c)) for c in (b"crash", b"x", b"x", b"x")]
    assert (await slow).json() == before
    crashed = await crash
    answers = await asyncio.gather(*rest)
    assert (crashed.status_code, crashed.json()["code"]) == (500, "worker_ended")
    assert [a.status_code for a in answers] == [200, 200, 200]
    assert before not in {a.json() for a in answers}


async def test_a_worker_that_always_crashes_makes_the_revision_unhealthy(serve: Serve) -> None:
    house = await serve(HANG, crash_limit=2, backoff=0.7)
    for _ in range(2):
        assert (await house.client.post(PATH, content=b"crash")).status_code == 500
    await until(lambda: house.pool.state == "unhealthy")
    assert house.pool.crash_loop
    assert house.pool.failure is not None
    assert house.pool.failure.code == "worker_ended"
    refused = await house.client.post(PATH, content=b"x")
    assert (refused.status_code, refused.json()["code"]) == (503, "service_unavailable")
    assert (await house.client.get("/api/v1/services/svc/health")).status_code == 503


async def test_a_full_queue_refuses_with_a_time_to_retry(serve: Serve) -> None:
    house = await serve(HANG, queue=2)
    await house.client.post(PATH, content=b"slow")
    answers = await asyncio.gather(*(house.client.post(PATH, content=b"slow") for _ in range(8)))
    refused = [a for a in answers if a.status_code == 429]
    assert len(refused) == 5
    assert refused[0].json()["code"] == "too_many_requests"
    assert int(refused[0].headers["retry-after"]) >= 1


async def test_calls_of_clients_that_left_are_dropped_before_they_begin(serve: Serve, tmp_path: Path) -> None:
    marks = tmp_path / "marks"
    script = (
        "import time\ndef init():\n    pass\ndef run(data):\n"
        f"    open({str(marks)!r}, 'a').write(data + '\\n')\n    time.sleep(0.6)\n    return 1\n"
    )
    house = await serve(script)
    await house.client.post(PATH, content=b"warm")
    first = asyncio.create_task(house.client.post(PATH, content=b"first"))
    await asyncio.sleep(0.1)
    left = asyncio.create_task(house.client.post(PATH, content=b"left"))
    await asyncio.sleep(0.3)
    left.cancel()
    assert (await first).status_code == 200
    assert (await house.client.post(PATH, content=b"last")).status_code == 200
    assert marks.read_text().split() == ["warm", "first", "last"]


async def test_calls_that_wait_beyond_their_deadline_are_dropped(serve: Serve) -> None:
    house = await serve(HANG, wait=0.2)
    await house.client.post(PATH, content=b"slow")
    first, second = await asyncio.gather(*(house.client.post(PATH, content=b"slow") for _ in range(2)))
    assert (first.status_code, second.status_code) == (200, 503)
    assert second.json()["code"] == "deadline_exceeded"


async def test_switching_the_revision_under_load_drops_no_request(serve: Serve) -> None:
    house = await serve("def init():\n    pass\ndef run(data):\n    return 'one'\n", workers=2)
    seen: list[tuple[int, str]] = []
    going = True

    async def load() -> None:
        while going:
            answer = await house.client.post(PATH, content=b"x")
            seen.append((answer.status_code, answer.json()))

    loads = [asyncio.create_task(load()) for _ in range(8)]
    await asyncio.sleep(0.3)
    fresh = await house.make("def init():\n    pass\ndef run(data):\n    return 'two'\n", workers=2)
    former = house.target.switch(fresh)
    assert former is not None
    await former.drain(10)
    assert former.outstanding == 0
    await former.stop()
    await asyncio.sleep(0.3)
    going = False
    await asyncio.gather(*loads)
    assert {status for status, _ in seen} == {200}
    assert {value for _, value in seen} == {"one", "two"}
    assert fresh.metrics.read().requests + former.metrics.read().requests == len(seen)


async def test_an_idle_worker_that_does_not_answer_is_replaced(serve: Serve) -> None:
    house = await serve(HANG, ping_every=0.1, ping_timeout=0.3)
    before = (await house.client.post(PATH, content=b"x")).json()
    os.kill(before, signal.SIGSTOP)
    await until(lambda: house.pool.hello["pid"] != before)
    assert (await house.client.post(PATH, content=b"x")).json() != before
