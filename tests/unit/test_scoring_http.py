"""Header rules, swagger documents, routes and counters of the scoring front."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cloche_deployer.scoring import http, swagger
from cloche_deployer.scoring.metrics import BUCKETS, Metrics
from cloche_deployer.scoring.target import RoutingTable, ServiceTarget, TargetSettings, digest


@pytest.mark.parametrize(
    ("sent", "expected"),
    [
        ({}, (b"new", b"new", b"")),
        ({b"x-request-id": b"r"}, (b"r", b"r", b"")),
        ({b"x-ms-client-request-id": b"c"}, (b"new", b"c", b"c")),
        ({b"x-ms-request-id": b"l"}, (b"new", b"l", b"l")),
        ({b"x-ms-request-id": b"l", b"x-ms-client-request-id": b"c"}, (b"new", b"l", b"c")),
        ({b"x-request-id": b"x" * 100}, (b"x" * 100, b"x" * 100, b"")),
    ],
)
def test_request_ids_follow_the_rules(sent: dict[bytes, bytes], expected: tuple[bytes, bytes, bytes]) -> None:
    ids = http.request_ids(sent, b"new")
    assert (ids.request, ids.legacy, ids.client) == expected


@pytest.mark.parametrize("name", [b"x-request-id", b"x-ms-request-id", b"x-ms-client-request-id"])
def test_request_ids_over_the_limit_are_refused(name: bytes) -> None:
    with pytest.raises(http.IdTooLong):
        http.request_ids({name: b"x" * 101}, b"new")


@given(st.lists(st.tuples(st.text(), st.text()), max_size=6))
def test_no_header_of_a_script_can_break_a_response(pairs: list[tuple[str, str]]) -> None:
    clean = [(n, v) for n, v in pairs if not any(0xD800 <= ord(c) <= 0xDFFF for c in n + v)]
    for name, value in http.script_headers(json.dumps(clean).encode()):
        assert name
        assert not set(name) & set(b"\r\n\0 :")
        assert not set(value) & set(b"\r\n\0")


def test_fields_of_the_connection_stay_ours() -> None:
    sent = [["Content-Length", "1"], ["Transfer-Encoding", "chunked"], ["Connection", "x"], ["X-Request-Id", "x"]]
    sent += [["Cloche-Moved", "1"], ["cloche-position", "x"]]
    assert http.script_headers(json.dumps([*sent, ["X-Fine", "é"]]).encode()) == [(b"x-fine", "é".encode())]


@pytest.mark.parametrize(
    ("field", "token"),
    [(b"Bearer a", "a"), (b"bearer  a ", "a"), (b"Basic a", ""), (b"Bearer", ""), (b"", "")],
)
def test_only_bearer_tokens_count(field: bytes, token: str) -> None:
    assert http.bearer({b"authorization": field}) == token


@pytest.mark.parametrize(
    ("origin", "allowed", "expected"),
    [
        (b"https://a", ("https://a",), b"https://a"),
        (b"https://a", ("*",), b"*"),
        (b"https://b", ("https://a",), None),
        (b"", ("*",), None),
        (b"https://a", (), None),
    ],
)
def test_origins_are_matched_whole(origin: bytes, allowed: tuple[str, ...], expected: bytes | None) -> None:
    assert dict(http.allowed_origin(origin, allowed)).get(b"access-control-allow-origin") == expected


def test_swagger_prefers_the_users_file_and_knows_what_a_script_supports() -> None:
    described = {"files": {"2": {"mine": True}}, "schemas": {"input": {}, "output": {}, "versions": ["3.0"]}}
    assert swagger.document("2", "svc", "1", described) == {"mine": True}
    assert swagger.document("3.1", "svc", "1", described) is None
    generated = swagger.document("3.1", "svc", "1", {"files": {}, "schemas": None})
    assert generated is not None
    assert generated["openapi"] == "3.1.0"


def test_services_of_one_name_are_told_apart_by_project_and_key() -> None:
    table = RoutingTable()
    for project in ("p", "q"):
        table.put(ServiceTarget(project, "svc", [digest(project)], None, TargetSettings()))
    assert [t.project for t in table.lookup(None, "svc") if t.opens(digest("q"))] == ["q"]
    assert [t.project for t in table.lookup("p", "svc")] == ["p"]
    removed = table.remove("p", "svc")
    assert removed is not None
    assert [t.project for t in table.lookup(None, "svc")] == ["q"]
    assert table.lookup("p", "svc") == ()


@given(st.lists(st.floats(0, 100), max_size=50))
def test_buckets_are_cumulative(seconds: list[float]) -> None:
    metrics = Metrics()
    for one in seconds:
        metrics.observe(one, error=one > 50)
    read = metrics.read()
    assert read.requests == len(seconds)
    assert dict(read.buckets)[BUCKETS[0]] == sum(one <= BUCKETS[0] for one in seconds)
    assert read.errors == sum(one > 50 for one in seconds)
