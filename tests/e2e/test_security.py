"""Security: who gets in, from where, and what nobody gets to see."""

import json
import re
from collections.abc import Callable

import httpx2
import pytest

from cloche import Client
from tests.e2e.steps import Names
from tests.e2e.topology import Embedded, Topology, eventually, own_address

OPEN = {"/livez", "/readyz", "/healthz", "/version", "/openapi.json", "/docs"}
METHODS = ("get", "put", "post", "delete", "patch")


def routes_of(topology: Topology) -> list[tuple[str, str]]:
    """Return every method and path of the served document, with something put for its parameters."""
    with topology.rest() as rest:
        paths = rest.get("/openapi.json").json()["paths"]
    return [
        (method.upper(), re.sub(r"\{[^}]*\}", "x", path))
        for path, item in paths.items()
        for method in METHODS
        if method in item
    ]


@pytest.mark.parametrize(
    "authorization", ["", "Bearer cloche_0000000000000000_nobodyknowsthistokenatall0000000", "Basic eDp5"]
)
def test_no_route_but_health_and_documentation_opens_without_a_token(topology: Topology, authorization: str) -> None:
    found = routes_of(topology)
    assert len(found) > 40
    for number, (method, path) in enumerate(found):
        if path in OPEN or path.endswith("/health"):
            continue
        address = f"127.77.{len(authorization)}.{1 + number}"
        with topology.rest(authorization=authorization, address=address) as rest:
            answer = rest.request(method, path, headers={"content-type": "application/json"})
        assert answer.status_code == 401, (method, path)
        assert answer.json()["code"] in {"unauthenticated", "invalid_key"}, (method, path)
        assert "www-authenticate" in answer.headers


@pytest.mark.parametrize("path", sorted(OPEN))
def test_health_and_documentation_need_no_token(topology: Topology, path: str) -> None:
    with topology.rest(authorization="") as rest:
        assert rest.get(path).status_code == 200


def test_an_unknown_path_needs_a_token_too(topology: Topology) -> None:
    with topology.rest(authorization="", address=own_address()) as rest:
        for path in ("/admin", "/api/v1", "/api/v1/nowhere", "/docs/../api/v1/runs", "/.git/config"):
            assert rest.get(path).status_code == 401


@pytest.mark.parametrize("host", ["evil.example", "127.0.0.1.evil.example", "[::2]", "localhost.evil:8571"])
def test_a_foreign_host_name_is_refused(topology: Topology, host: str) -> None:
    with topology.rest(host=host) as rest:
        answer = rest.get("/livez")
    assert (answer.status_code, answer.json()["code"]) == (421, "bad_host")


def test_a_page_of_another_origin_may_not_change_anything(topology: Topology, unique: Names) -> None:
    body = {"name": unique("env"), "definition": {}}
    with topology.rest(origin="https://evil.example") as rest:
        answer = rest.post("/api/v1/environments", json=body)
    assert (answer.status_code, answer.json()["code"]) == (403, "bad_origin")
    with topology.rest(origin=topology.url) as rest:
        assert rest.post("/api/v1/environments", json=body).status_code == 201


def test_a_foreign_project_looks_like_one_that_is_not_there(topology: Topology) -> None:
    with topology.rest(**{"cloche-project": "others"}) as rest:
        answer = rest.get("/api/v1/runs")
    if answer.status_code == 200:
        assert answer.json()["items"] == []
    else:
        assert (answer.status_code, answer.json()["code"]) == (404, "project_not_found")


def test_failed_authentication_is_slowed_down_and_valid_tokens_are_not(topology: Topology) -> None:
    address = own_address()
    with topology.rest(authorization="Bearer wrong", address=address) as rest:
        statuses = [rest.get("/api/v1/runs").status_code for _ in range(100)]  # each replica counts for itself
        last = rest.get("/api/v1/runs")
    assert statuses[0] == 401
    assert 429 in statuses
    if last.status_code == 429:
        assert int(last.headers["retry-after"]) >= 1
    with topology.rest(address=address) as rest:
        assert rest.get("/api/v1/runs").status_code == 200


def test_refused_changes_are_on_record_for_administrators(topology: Topology, client: Client) -> None:
    address = own_address()

    def refused() -> None:
        with topology.rest(authorization="Bearer nobody", address=address) as rest:
            assert rest.post("/api/v1/environments", json={}).status_code in {401, 429}
            assert rest.get("/api/v1/runs").status_code in {401, 429}
        with topology.rest(address=address, origin="https://evil.example") as rest:
            assert rest.delete("/api/v1/environments/x").status_code == 403

    def recorded() -> set[tuple[object, ...]]:
        events = client.events(follow=False, from_start=True, types=["AttemptsDenied"])
        own = [event.data for event in events if event.data["address"] == address]
        return {(one["method"], one["path"], one["code"]) for one in own if one["count"] > 0}

    def found() -> bool:
        refused()  # again and again: while others are refused from many addresses, all are counted together
        return recorded() >= {
            ("POST", "/api/v1/environments", "unauthenticated"),
            ("DELETE", "/api/v1/environments", "bad_origin"),
        }

    eventually(found, "the record of refusals")
    assert all(method != "GET" for method, *_ in recorded())


@pytest.mark.parametrize(
    ("method", "path", "content"),
    [
        ("GET", "/api/v1/environments/..%2f..%2fetc%2fpasswd", None),
        ("GET", "/api/v1/files/runs/..%2f..%2fetc%2fpasswd", None),
        ("GET", "/api/v1/runs/x/outputs/..%2f..%2fetc%2fpasswd", None),
        ("GET", "/api/v1/runs/%00", None),
        ("GET", "/api/v1/environments?page_size=abc", None),
        ("GET", "/api/v1/environments?page_token=%ff%fe", None),
        ("POST", "/api/v1/environments", b"[" * 50_000),
        ("POST", "/api/v1/environments", b'{"name": "\\ud800"}'),
        ("POST", "/api/v1/environments", b'{"name": {"$gt": ""}, "definition": {}}'),
        ("POST", "/api/v1/runs", b'{"script": "/etc/passwd", "snapshot": "sha256:' + b"0" * 64 + b'"}'),
        ("POST", "/api/v1/services", b'{"name": "../x", "entry_script": "s", "snapshot": "x"}'),
        ("PUT", "/api/v1/files/runs/sha256:" + "0" * 64, b"something else"),
        ("POST", "/api/v1/files/runs/missing", b'{"digests": ["../../x"]}'),
        ("POST", "/api/v1/builds", b'{"environment": {"name": "none"}, "extra": 1}'),
    ],
)
def test_errors_show_no_trace_no_path_and_no_secret(
    topology: Topology, method: str, path: str, content: bytes | None
) -> None:
    with topology.rest(**{"content-type": "application/json"}) as rest:
        answer = rest.request(method, path, content=content)
    assert 400 <= answer.status_code < 500
    assert not re.search(r"Traceback|File \"|site-packages|/home/|/tmp/|\.py\b|0x[0-9a-f]{6}", answer.text), answer.text
    assert topology.token not in answer.text


def test_a_body_over_the_limit_is_refused_while_it_arrives(topology: Topology) -> None:
    def endless() -> "object":
        for _ in range(4096):
            yield b" " * 1024

    with topology.rest(**{"content-type": "application/json"}) as rest:
        try:
            answer = rest.post("/api/v1/environments", content=endless())  # type: ignore[arg-type]
        except httpx2.TransportError:
            return
    assert (answer.status_code, answer.json()["code"]) == (413, "too_large")


def test_answers_tell_browsers_to_keep_their_hands_off(topology: Topology) -> None:
    with topology.rest() as rest:
        headers = rest.get("/api/v1/runs").headers
    assert headers["x-content-type-options"] == "nosniff"
    assert headers["cache-control"] == "no-store"
    assert "default-src 'none'" in headers["content-security-policy"]
    assert headers.get("server") in {None, "nginx"}  # a gateway's bare name, and no version


@pytest.mark.embedded_only
def test_token_and_data_belong_to_the_user_alone(own_topology: Callable[..., Embedded]) -> None:
    server = own_topology()
    assert (server.home / "token").stat().st_mode & 0o777 == 0o600
    assert server.home.stat().st_mode & 0o777 == 0o700
    for path in server.home.iterdir():
        assert path.stat().st_mode & 0o077 == 0, path
    assert server.token.startswith("cloche_")
    assert server.token not in server.log_file.read_text()


@pytest.mark.embedded_only
def test_two_installations_have_different_tokens_that_open_only_their_own(
    own_topology: Callable[..., Embedded], topology: Topology
) -> None:
    other = own_topology()
    assert other.token != topology.token
    with other.rest(authorization=f"Bearer {topology.token}") as rest:
        assert rest.get("/api/v1/runs").status_code == 401


@pytest.mark.embedded_only
@pytest.mark.parametrize("pepper", ["", "00", "30" * 19])
def test_an_empty_or_short_secret_refuses_to_start(own_topology: Callable[..., Embedded], pepper: str) -> None:
    server = own_topology()
    server.stop()
    identity = server.home / "identity.json"
    kept = identity.read_text()
    identity.write_text(json.dumps({**json.loads(kept), "pepper": pepper}))
    said = server.start()
    assert said["error"]["code"] == "pepper_missing"
    eventually(lambda: not server.processes(), "it did not start")
    identity.write_text(kept)
    server.start()


@pytest.mark.embedded_only
def test_it_does_not_listen_beyond_loopback_without_tls(own_topology: Callable[..., Embedded]) -> None:
    server = own_topology()
    server.stop()
    server.settings = {"CLOCHE_HTTP__HOST": "0.0.0.0"}  # noqa: S104 - that it is refused is the point
    said = server.start()
    assert "error" in said
    assert "insecure" in said["error"]["todo"] + said["error"]["why"] + said["error"]["what"]
    eventually(lambda: not server.processes(), "it did not start")
    server.settings = {}
