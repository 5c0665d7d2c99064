"""Requests that nobody should send: each is refused with its code and changes nothing."""

import socket
import time
from collections.abc import Iterator
from urllib.parse import urlsplit

import httpx2
import pytest

from tests.e2e.problems import problem
from tests.e2e.steps import Names
from tests.e2e.topology import Topology

ENVIRONMENTS = "/api/v1/environments"
JSON = {"content-type": "application/json"}
NOBODY = "00000000-0000-0000-0000-000000000000"


@pytest.fixture
def rest(topology: Topology) -> Iterator[httpx2.Client]:
    with topology.rest() as found:
        yield found


def test_only_json_is_taken(rest: httpx2.Client) -> None:
    for kind in ("text/plain", "application/x-www-form-urlencoded", "application/jsonp", ""):
        problem(rest.post(ENVIRONMENTS, content=b"{}", headers={"content-type": kind}), 415, "unsupported_media_type")


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"{",
        b'{"name": "a"',
        b"\xff\xfe{}",
        b"{'name': 'a'}",
        b'{"name": "a", "name": "b"}',
        b'{"name": "a", "definition": {"variables": {"A": "1", "A": "2"}}}',
        b'{"name": NaN}',
        b'{"name": Infinity}',
        b'{"name": "a\\ud800"}',
        b'{"name": "a\\udfff"}',
        b'{"name": "a"} {}',
        b"[" * 50_000,
        b'{"name": "a\x00"}',
    ],
    ids=lambda body: repr(body[:40]),
)
def test_what_parsers_disagree_about_is_no_json(rest: httpx2.Client, body: bytes) -> None:
    problem(rest.post(ENVIRONMENTS, content=body, headers=JSON), 400, "malformed_json")


@pytest.mark.parametrize(
    "body",
    [
        b'{"a":' * 40 + b"1" + b"}" * 40,
        b"[" * 33 + b"]" * 33,
        b'{"name": [' + b"1," * 10_001 + b"1]}",
        b'{"name": 9007199254740993}',
        b'{"name": 123456789012345678901234567890}',
        b'{"name": -9007199254740993}',
    ],
    ids=lambda body: repr(body[:30]),
)
def test_json_has_limits(rest: httpx2.Client, body: bytes) -> None:
    problem(rest.post(ENVIRONMENTS, content=body, headers=JSON), 422, "invalid_field", names="limit")


def test_a_body_over_its_limit_is_cut_off_whatever_it_announces(rest: httpx2.Client) -> None:
    announced = rest.post(ENVIRONMENTS, content=b" " * (2 << 20), headers=JSON)
    pieces = iter([b" " * (1 << 19)] * 8)
    streamed = rest.post(ENVIRONMENTS, content=pieces, headers=JSON)
    for answer in (announced, streamed):
        assert problem(answer, 413, "too_large")["limit"] == 1 << 20


def test_unknown_fields_are_pointed_at(rest: httpx2.Client, unique: Names) -> None:
    name = unique("env")
    for body, pointer in (
        ({"name": name, "definition": {}, "colour": 1}, "/colour"),
        ({"name": name, "definition": {"pyhton": {}}}, "/definition/pyhton"),
        ({"name": name, "definition": {"python": {"pip_options": {"trusted_host": "x"}}}}, None),
        ({"name": name, "definition": {"a/b~c": 1}}, "/definition/a~1b~0c"),
    ):
        told = problem(rest.post(ENVIRONMENTS, json=body), 422, "unknown_field", pointer=pointer or "")
        assert told["errors"][0]["code"] == "unknown_field"
    problem(rest.get(f"{ENVIRONMENTS}/{name}"), 404, "environment_not_found", names=name)


@pytest.mark.parametrize("path", ["runs", "environments", "builds", "models", "services", "nodes"])
def test_a_query_that_a_list_does_not_have_is_not_silently_lost(rest: httpx2.Client, path: str) -> None:
    for query in ("stauts=Failed", "status[$gt]=", "$where=1", "sort=name"):
        pointer = "#query/" + query.partition("=")[0]
        problem(rest.get(f"/api/v1/{path}?{query}"), 422, "unknown_field", pointer=pointer)


@pytest.mark.parametrize(
    "path",
    [
        "runs?status=%s",
        "runs?page_token=%s",
        "runs?page_size=%s",
        "environments/nothing?version=%s",
        "environments/nothing?label=%s",
        "models/nothing?version=%s",
    ],
)
def test_an_operator_of_a_database_is_no_filter(rest: httpx2.Client, path: str) -> None:
    for value in ('{"$gt":""}', "$ne", '[{"$regex":".*"}]'):
        answer = rest.get("/api/v1/" + path % value)
        assert answer.status_code == 422, answer.text
        assert answer.json()["code"] in {"invalid_field", "invalid_type", "invalid_page_token", "invalid_name"}


def test_an_operator_of_a_database_is_no_value(rest: httpx2.Client) -> None:
    operator = {"$gt": ""}
    for path, body, pointer in (
        (ENVIRONMENTS, {"name": operator, "definition": {}}, "/name"),
        ("/api/v1/runs", {"script": operator, "snapshot": operator}, "/script"),
        ("/api/v1/models", {"name": operator}, "/name"),
        ("/api/v1/services", {"name": operator, "entry_script": "a", "snapshot": "sha256:" + "0" * 64}, "/name"),
        ("/api/v1/files/runs/missing", {"digests": [operator]}, "/digests/0"),
    ):
        problem(rest.post(path, json=body), 422, "invalid_type", pointer=pointer)


BAD_NAMES = [
    *("", ".", "..", "../a", "a/b", "a\\b", "a b", "-a", ".a", "_a", "a" * 256, "\u00e4", "\u0430dmin", "a\u202eb"),
    *(
        "a\x00",
        "a\r\nb",
        "a\n",
        "\x1b[31mred",
        "%2e%2e",
        "a:b",
        "a@b",
        "$where",
        "a\u2028b",
        "\ufeffa",
        " a",
    ),
]


def test_a_text_with_two_spellings_is_refused_in_the_one_that_is_not_normal(rest: httpx2.Client) -> None:
    for body in (
        b'{"name": "a\\u0301"}',
        '{"name": "a\u0301"}'.encode(),
        '{"a\u0301": 1}'.encode(),
        '["\u212b"]'.encode(),
    ):
        problem(rest.post(ENVIRONMENTS, content=body, headers=JSON), 422, "invalid_field", names="NFC")
    answer = rest.post(ENVIRONMENTS, json={"name": "a", "definition": {"variables": {"A": "e\u0301"}}})
    problem(answer, 422, "invalid_field", names="NFC")


def test_a_text_is_not_longer_than_anybody_reads(rest: httpx2.Client) -> None:
    answer = rest.post(ENVIRONMENTS, json={"name": "a" * (256 * 1024 + 1), "definition": {}})
    problem(answer, 422, "invalid_field", names="limit")


@pytest.mark.parametrize("path", ["environments", "models", "services", "runs"])
def test_a_name_that_is_none_is_refused(rest: httpx2.Client, path: str) -> None:
    digest = "sha256:" + "0" * 64
    for name in BAD_NAMES:
        bodies: dict[str, dict[str, object]] = {
            "environments": {"name": name, "definition": {}},
            "models": {"name": name, "manifest": digest},
            "services": {"name": name, "entry_script": "score.py", "snapshot": digest},
            "runs": {"script": "a.py", "snapshot": digest, "environment": {"name": name}},
        }
        told = problem(rest.post(f"/api/v1/{path}", json=bodies[path]), 422, "invalid_name", names="A name has")
        assert told["errors"][0]["pointer"].startswith(("/name", "/environment"))


@pytest.mark.parametrize(
    "path",
    [
        *("environments/..%2f..%2fetc%2fpasswd", "environments/%2e%2e/x", "models/..%2f..%2ftoken/files/x"),
        *("files/runs/..%2f..%2ftoken", "runs/..%2f..%2fetc", "services/..%2f..%2fx", "builds/..%2flock"),
        *(f"runs/{NOBODY}/outputs/..%2f..%2f..%2ftoken", f"runs/{NOBODY}/outputs/%2fetc%2fpasswd"),
        *("environments/a%00b", "environments/%ff%fe", "models/a%0d%0aset-cookie:x=1"),
    ],
)
def test_a_path_never_leaves_its_tree(rest: httpx2.Client, path: str) -> None:
    answer = rest.get(f"/api/v1/{path}")
    assert answer.status_code in {400, 404, 422}, answer.text
    assert answer.json()["code"]
    assert "root:" not in answer.text
    assert "set-cookie" not in answer.headers


@pytest.mark.parametrize(
    ("method", "path", "allowed"),
    [
        ("PATCH", ENVIRONMENTS, "GET, HEAD, POST"),
        ("DELETE", "/api/v1/runs", "GET, HEAD, POST"),
        ("POST", "/api/v1/nodes", "GET, HEAD"),
        ("PUT", f"/api/v1/runs/{NOBODY}/cancel", "POST"),
    ],
)
def test_a_method_that_a_path_does_not_know_is_told_those_it_knows(
    rest: httpx2.Client, method: str, path: str, allowed: str
) -> None:
    answer = rest.request(method, path)
    problem(answer, 405, "method_not_allowed", names=allowed)
    assert answer.headers["allow"] == allowed


def test_nothing_lies_where_nothing_was_put(rest: httpx2.Client) -> None:
    for path in ("/api/v1/nothing", "/api/v2/environments", "/admin", "/.env", "/api/v1/environments/"):
        problem(rest.get(path), 404, "route_not_found")


def test_ids_that_nobody_has(rest: httpx2.Client, unique: Names) -> None:
    name = unique("nobody")
    for path, code in (
        (f"environments/{name}", "environment_not_found"),
        (f"models/{name}", "model_not_found"),
        (f"services/{name}", "service_not_found"),
        (f"runs/{NOBODY}", "run_not_found"),
        (f"runs/{NOBODY}/log", "run_not_found"),
        (f"runs/{NOBODY}/why", "run_not_found"),
        (f"builds/{NOBODY}", "build_not_found"),
        (f"builds/{NOBODY}/log", "build_not_found"),
    ):
        problem(rest.get(f"/api/v1/{path}"), 404, code, names=path.split("/")[1] if "services" not in path else "")


@pytest.mark.parametrize("token", ["abc", "WyJhIl0", "W10", "%20", "A" * 3000, "bnVsbA", "WzEsMl0"])
def test_a_page_token_of_ones_own_making(rest: httpx2.Client, token: str) -> None:
    answer = rest.get(f"/api/v1/runs?page_token={token}")
    assert answer.status_code == 422
    assert answer.json()["code"] in {"invalid_page_token", "invalid_field"}


@pytest.mark.parametrize("size", ["0", "-1", "1001", "1e9", "x", "9999999999999999999999"])
def test_a_page_has_a_size(rest: httpx2.Client, size: str) -> None:
    answer = rest.get(f"/api/v1/runs?page_size={size}")
    assert answer.status_code == 422
    assert answer.json()["errors"][0]["pointer"] == "#query/page_size"


@pytest.mark.parametrize("key", ["", "a b", "x" * 256, "caf\u00e9".encode("latin-1").decode("latin-1")])
def test_an_idempotency_key_is_visible_ascii(rest: httpx2.Client, unique: Names, key: str) -> None:
    body = {"name": unique("env"), "definition": {}}
    answer = rest.post(ENVIRONMENTS, json=body, headers={b"idempotency-key": key.encode("latin-1")})
    problem(answer, 422, "invalid_idempotency_key")
    assert rest.get(f"{ENVIRONMENTS}/{body['name']}").status_code == 404


def test_an_idempotency_key_belongs_to_one_request(rest: httpx2.Client, unique: Names) -> None:
    key, first, second = unique("key"), unique("env"), unique("env")
    headers = {"idempotency-key": key}
    assert rest.post(ENVIRONMENTS, json={"name": first, "definition": {}}, headers=headers).status_code == 201
    told = rest.post(ENVIRONMENTS, json={"name": second, "definition": {}}, headers=headers)
    problem(told, 422, "idempotency_key_reused")
    assert rest.get(f"{ENVIRONMENTS}/{second}").status_code == 404


def test_a_change_is_made_only_to_the_state_that_was_read(rest: httpx2.Client, unique: Names) -> None:
    path = f"{ENVIRONMENTS}/{unique('env')}"
    assert rest.post(ENVIRONMENTS, json={"name": path.rpartition("/")[2], "definition": {}}).status_code == 201
    problem(rest.delete(path, headers={"if-match": "no tag"}), 422, "invalid_header", names="If-Match")
    told = problem(rest.delete(path, headers={"if-match": '"99"'}), 412, "etag_mismatch")
    assert rest.get(path).headers["etag"] == told["etag"]


def test_deleting_twice_finds_nothing_the_second_time(rest: httpx2.Client, unique: Names) -> None:
    name = unique("env")
    rest.post(ENVIRONMENTS, json={"name": name, "definition": {}})
    assert rest.delete(f"{ENVIRONMENTS}/{name}").is_success
    problem(rest.delete(f"{ENVIRONMENTS}/{name}"), 404, "environment_deleted", names=name)
    answer = rest.post(ENVIRONMENTS, json={"name": name, "definition": {}})
    problem(answer, 409, "environment_deleted", names=name)


def test_a_foreign_host_name_is_not_answered(topology: Topology) -> None:
    port = urlsplit(topology.url).port
    hosts = (
        "evil.example",
        f"evil.example:{port}",
        "127.0.0.1.nip.io",
        "localhost.evil.example",
        "[::2]",
        "169.254.1.1",
    )
    for path in ("/api/v1/runs", "/livez", "/openapi.json", "/api/v1/services/x/score"):
        for host in hosts:
            with topology.rest(host=host) as rest:
                problem(rest.get(path), 421, "bad_host", names="http.hosts")


def test_a_page_of_another_origin_changes_nothing(topology: Topology, unique: Names) -> None:
    own = topology.url
    for origin in ("https://evil.example", "null", "file://", f"{own}.evil.example", "http://127.0.0.1", ""):
        with topology.rest(origin=origin) as rest:
            answer = rest.post(ENVIRONMENTS, json={"name": unique("env"), "definition": {}})
        if origin:
            problem(answer, 403, "bad_origin")
    with topology.rest(origin=own) as rest:
        assert rest.post(ENVIRONMENTS, json={"name": unique("env"), "definition": {}}).status_code == 201
    with topology.rest(origin="https://evil.example") as rest:
        answer = rest.get("/api/v1/runs")
        assert "access-control-allow-origin" not in answer.headers


def test_a_token_in_the_query_opens_nothing(topology: Topology) -> None:
    with topology.rest(authorization="") as rest:
        for query in (f"?token={topology.token}", f"?access_token={topology.token}", f"?api_key={topology.token}"):
            answer = rest.get(f"/api/v1/runs{query}")
            problem(answer, 401, "unauthenticated", names="Authorization")
            assert answer.headers["www-authenticate"].startswith("Bearer")
            assert topology.token not in answer.text


@pytest.mark.direct
def test_a_request_that_is_no_http_closes_its_own_connection_only(topology: Topology) -> None:
    place = urlsplit(topology.url)
    assert place.hostname is not None
    for raw in (
        b"GARBAGE\r\n\r\n",
        b"GET / HTTP/9.9\r\n\r\n",
        b"POST / HTTP/1.1\r\nHost: localhost\r\nContent-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\nGET",
        b"GET /livez HTTP/1.1\r\nHost: localhost\r\nX: a\r\n b\r\n\r\n",
        b"GET /livez HTTP/1.1\r\n\r\n",
        b"GET /livez HTTP/1.1\r\nHost: localhost\r\nContent-Length: -1\r\n\r\n",
        b"GET /" + b"a" * 200_000 + b" HTTP/1.1\r\nHost: localhost\r\n\r\n",
    ):
        with socket.create_connection((place.hostname, place.port or 80), timeout=10) as line:
            line.sendall(raw)
            line.shutdown(socket.SHUT_WR)
            answer = b""
            while piece := line.recv(65536):
                answer += piece
        assert not answer.startswith(b"HTTP/1.1 5") or answer.startswith(b"HTTP/1.1 505"), answer
        assert b"Traceback" not in answer
    with topology.rest() as rest:
        assert rest.get("/livez").status_code == 200


@pytest.mark.slow
@pytest.mark.direct
def test_a_body_that_stops_coming_is_given_up(topology: Topology) -> None:
    place = urlsplit(topology.url)
    head = (
        f"POST {ENVIRONMENTS} HTTP/1.1\r\nHost: {place.netloc}\r\nAuthorization: Bearer {topology.token}\r\n"
        "Content-Type: application/json\r\nContent-Length: 100\r\n\r\n{"
    )
    began = time.monotonic()
    with socket.create_connection((place.hostname or "", place.port or 80), timeout=50) as line:
        line.sendall(head.encode())
        answer = b""
        while piece := line.recv(65536):
            answer += piece
    assert b" 408 " in answer.splitlines()[0]
    assert b"slow_body" in answer
    assert 25 < time.monotonic() - began < 45
