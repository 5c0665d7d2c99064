"""REST for gateway clients: keys, pages, tags, waiting, positions, problems."""

import time
from concurrent.futures import ThreadPoolExecutor

import httpx2
import pytest

from cloche import Client
from tests.e2e.steps import SCORE, Names, Scripts, done, submit
from tests.e2e.topology import PATIENCE, SMALL, Topology

ENVIRONMENTS = "/api/v1/environments"
SLEEP = "import time\ntime.sleep(600)"


def registered(rest: httpx2.Client, name: str, number: int = 0, *, key: str = "") -> httpx2.Response:
    body = {"name": name, "definition": {"variables": {"NUMBER": str(number)}}}
    return rest.post(ENVIRONMENTS, json=body, headers={"idempotency-key": key} if key else {})


@pytest.mark.main_job
def test_a_repeated_idempotency_key_acts_once_and_answers_the_same(topology: Topology, unique: Names) -> None:
    key, name = unique("key"), unique("env")
    with topology.rest() as rest:
        first = registered(rest, name, key=key)
        registered(rest, name, 2)
        again = registered(rest, name, key=key)
        assert first.json()["version"] == again.json()["version"] == "1"
        assert len(rest.get(f"{ENVIRONMENTS}/{name}/versions").json()["items"]) == 2


def test_an_idempotency_key_with_another_body_is_refused(topology: Topology, unique: Names) -> None:
    key, name = unique("key"), unique("env")
    with topology.rest() as rest:
        registered(rest, name, key=key)
        other = registered(rest, name, 2, key=key)
    assert (other.status_code, other.json()["code"]) == (422, "idempotency_key_reused")


def test_16_concurrent_submissions_with_one_key_make_one_run(
    topology: Topology, client: Client, unique: Names, script: Scripts
) -> None:
    first = done(client, submit(client, script("print(1)")))
    body = {"script": "train.py", "snapshot": first.model_dump()["snapshot"], "resources": SMALL}
    with topology.rest(**{"idempotency-key": unique("key")}) as rest, ThreadPoolExecutor(16) as pool:
        answers = list(pool.map(lambda _: rest.post("/api/v1/runs", json=body), range(16)))
    assert len({answer.json()["id"] for answer in answers}) == 1
    assert done(client, answers[0].json()["id"]).status == "Completed"


WITHOUT_KEY = {
    "post /api/v1/commands",  # a command acts once by its own source and id
    "post /api/v1/environments/check",  # changes nothing
    # what is sent again has its own ids: twice is as good as once
    *(f"post /api/v1/journals/{service}/republish" for service in ("registry", "builder", "runner", "deployer")),
    "post /api/v1/events/groups/{group}/replay",
}


def test_every_mutation_takes_an_idempotency_key(topology: Topology) -> None:
    with topology.rest() as rest:
        paths = rest.get("/openapi.json").json()["paths"]
    without = [
        f"{method} {path}"
        for path, item in paths.items()
        for method in ("post", "put", "delete")
        if method in item and "/files/" not in path and not path.endswith("/score")
        if "idempotency-key" not in {one["name"].lower() for one in item[method].get("parameters", ())}
    ]
    assert set(without) == WITHOUT_KEY


def test_pages_stay_what_they_are_while_others_insert(topology: Topology, unique: Names) -> None:
    head = unique("page")
    with topology.rest() as rest:
        for number in range(6):
            made = registered(rest, f"{head}-{number:02}")
        rest.headers["cloche-position"] = made.headers["cloche-position"]
        seen: list[str] = []
        token = ""
        while True:
            page = rest.get(ENVIRONMENTS, params={"page_size": 2, **({"page_token": token} if token else {})}).json()
            seen += [item["name"] for item in page["items"]]
            registered(rest, f"{unique('aaa')}")
            token = page["next_page_token"]
            if not token:
                break
    mine = [name for name in seen if name.startswith(head)]
    assert mine == [f"{head}-{number:02}" for number in range(6)]
    assert len(seen) == len(set(seen))


def test_a_page_token_that_is_none_is_refused(topology: Topology) -> None:
    with topology.rest() as rest:
        answer = rest.get(ENVIRONMENTS, params={"page_token": "nonsense"})
        large = rest.get(ENVIRONMENTS, params={"page_size": 100_000})
    assert (answer.status_code, answer.json()["code"]) == (422, "invalid_page_token")
    assert large.status_code == 422


def test_a_change_is_refused_when_it_was_decided_on_something_older(topology: Topology, unique: Names) -> None:
    name = unique("env")
    with topology.rest() as rest:
        seen = registered(rest, name).headers["etag"]
        registered(rest, name, 2)
        archive = f"{ENVIRONMENTS}/{name}/archive"
        stale = rest.post(archive, headers={"if-match": seen})
        fresh = rest.get(f"{ENVIRONMENTS}/{name}").headers["etag"]
        done_now = rest.post(archive, headers={"if-match": fresh})
    assert (stale.status_code, stale.json()["code"]) == (412, "etag_mismatch")
    assert done_now.status_code == 200
    assert done_now.headers["etag"] != fresh


def test_long_work_answers_202_with_a_location_and_waits_when_asked_to(
    topology: Topology, client: Client, script: Scripts
) -> None:
    first = submit(client, script("print(1)")).model_dump()
    body = {"script": "train.py", "snapshot": first["snapshot"], "resources": SMALL}
    with topology.rest() as rest:
        at_once = rest.post("/api/v1/runs", json=body)
        waited = rest.get(at_once.headers["location"], headers={"prefer": f"wait={min(60, int(PATIENCE))}"})
        patient = rest.post("/api/v1/runs", json=body, headers={"prefer": "wait=60"})
    assert at_once.status_code == 202
    assert at_once.headers["location"] == f"/api/v1/runs/{at_once.json()['id']}"
    assert waited.json()["status"] == "Completed"
    assert (patient.status_code, patient.json()["status"]) == (200, "Completed")


def test_a_wait_ends_after_its_time(topology: Topology, client: Client, script: Scripts) -> None:
    run = submit(client, script(SLEEP), grace=0)
    began = time.monotonic()
    with topology.rest() as rest:
        answer = rest.get(f"/api/v1/runs/{run.id}", headers={"prefer": "wait=1"})
    assert time.monotonic() - began >= 0.9
    assert answer.json()["status"] not in {"Completed", "Failed"}
    client.runs.cancel(run.id)
    done(client, run)


@pytest.mark.main_job
def test_a_list_shows_what_the_caller_wrote_before(topology: Topology, unique: Names) -> None:
    with topology.rest() as rest:
        for _ in range(10):
            name = unique("written")
            position = registered(rest, name).headers["cloche-position"]
            token, names = "", set()
            while True:
                params: dict[str, str | int] = {"page_size": 100, **({"page_token": token} if token else {})}
                page = rest.get(ENVIRONMENTS, params=params, headers={"cloche-position": position}).json()
                names |= {item["name"] for item in page["items"]}
                token = page["next_page_token"]
                if not token:
                    break
            assert name in names


def test_a_position_of_another_installation_is_ignored(topology: Topology) -> None:
    with topology.rest(**{"cloche-position": "000000000000:environment/default/x@99999"}) as rest:
        assert rest.get(ENVIRONMENTS).status_code == 200


@pytest.mark.parametrize(
    ("method", "path", "body", "status", "code"),
    [
        ("GET", "/api/v1/nowhere", None, 404, "route_not_found"),
        ("GET", "/api/v1/runs/none", None, 404, "run_not_found"),
        ("GET", "/api/v1/environments/none-of-it", None, 404, "environment_not_found"),
        ("GET", "/api/v1/models/none-of-it", None, 404, "model_not_found"),
        ("GET", "/api/v1/services/none-of-it", None, 404, "service_not_found"),
        ("GET", "/api/v1/builds/none-of-it", None, 404, "build_not_found"),
        ("PATCH", "/api/v1/runs", b"{}", 405, "method_not_allowed"),
        ("POST", "/api/v1/runs", b"{", 400, "malformed_json"),
        ("POST", "/api/v1/runs", b"{}", 422, "missing_field"),
    ],
)
def test_every_refusal_is_a_problem_with_a_code(
    topology: Topology, method: str, path: str, body: bytes | None, status: int, code: str
) -> None:
    with topology.rest(**{"content-type": "application/json"}) as rest:
        answer = rest.request(method, path, content=body)
    problem = answer.json()
    assert answer.headers["content-type"].startswith("application/problem+json")
    assert (answer.status_code, problem["status"]) == (status, status)
    assert {"type", "title", "detail", "instance", "code", "request_id"} <= set(problem)
    assert problem["instance"] == path
    assert answer.headers["x-request-id"] == problem["request_id"]
    assert problem["code"] == code


@pytest.mark.parametrize(
    ("environment", "pointer", "code"),
    [
        ({"definition": {}}, "/environment/name", "missing_field"),
        ({"name": "a", "definition": {"pip": []}}, "/environment/definition/pip", "unknown_field"),
        ({"name": "a", "definition": {"python": {"pip": [5]}}}, "/environment/definition/python/pip/0", "invalid_type"),
        ({"version": "1"}, "/environment/name", "missing_field"),
        ({"name": "a", "lable": "x"}, "/environment/lable", "unknown_field"),
        (5, "/environment", "invalid_type"),
    ],
)
def test_a_mistake_in_an_environment_is_pointed_at(
    topology: Topology, environment: object, pointer: str, code: str
) -> None:
    with topology.rest() as rest:
        problem = rest.post("/api/v1/builds", json={"environment": environment}).json()
    assert [(one["pointer"], one["code"]) for one in problem["errors"]] == [(pointer, code)]


def test_a_request_id_and_a_trace_are_taken_over(topology: Topology) -> None:
    trace = "0af7651916cd43dd8448eb211c80319c"
    headers = {"x-request-id": "my-request", "traceparent": f"00-{trace}-b7ad6b7169203331-01"}
    with topology.rest(**headers) as rest:
        answer = rest.get(ENVIRONMENTS)
    assert answer.headers["x-request-id"] == "my-request"
    assert trace in answer.headers["traceparent"]


def test_health_version_metrics_and_documentation_are_served(topology: Topology) -> None:
    with topology.rest() as rest:
        assert rest.get("/livez").json()["status"] == "ok"
        assert rest.get("/readyz").json()["status"] == "ok"
        assert rest.get("/healthz").status_code == 200
        version = rest.get("/version").json()
        assert version["name"] == "cloche"
        assert version["installation"]
        assert "# TYPE cloche_" in rest.get("/metrics").text
        document = rest.get("/openapi.json").json()
        assert document["openapi"].startswith("3.")
        assert "/api/v1/runs" in document["paths"]
        page = rest.get("/docs")
        assert page.headers["content-type"].startswith("text/html")


def test_a_service_is_made_seen_and_deleted_over_rest(
    topology: Topology, client: Client, unique: Names, script: Scripts
) -> None:
    name = unique("svc")
    with topology.rest() as rest:
        snapshot = client.snapshot(script(SCORE, "score.py").parent)
        for digest, path in snapshot.paths.items():
            assert rest.put(f"/api/v1/files/services/{digest}", content=path.read_bytes()).status_code in {
                200,
                201,
                204,
            }
        sent = rest.put(f"/api/v1/files/services/{snapshot.digest}", content=snapshot.content)
        assert sent.is_success
        body = {"name": name, "entry_script": "score.py", "snapshot": snapshot.digest, "resources": SMALL}
        made = rest.post("/api/v1/services", json=body)
        assert made.status_code == 202
        found = rest.get(made.headers["location"], headers={"prefer": "wait=60"}).json()
        assert found["status"] == "Healthy"
        assert rest.post(f"/api/v1/services/{name}/score", json=3).json() == {"greeting": "hello", "got": 3}
        assert rest.delete(f"/api/v1/services/{name}").status_code == 204
        assert rest.get(f"/api/v1/services/{name}").status_code == 404
