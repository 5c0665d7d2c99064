"""What holds for every route of the served document: media types, sizes, pages, and nothing that leaks."""

import json
import platform
import re
import socket
from collections.abc import Iterator
from functools import cache
from importlib import resources
from importlib.metadata import version
from typing import Any

import httpx2
import pytest

from tests.e2e.problems import problem
from tests.e2e.topology import Topology

METHODS = ("get", "put", "post", "delete", "patch")
SYSTEM = {"/livez", "/readyz", "/healthz", "/version", "/metrics"}
NOBODY = "00000000-0000-0000-0000-000000000000"
VALUES = {"digest": "sha256:" + "0" * 64, "run_id": NOBODY, "build_id": NOBODY, "which": "primary"}
FORM = b'--b\r\nContent-Disposition: form-data; name="name"\r\n\r\na\r\n--b--\r\n'


@cache
def document() -> dict[str, Any]:
    """Return the document that the package brings; another test compares it with the served one."""
    found: dict[str, Any] = json.loads(resources.files("cloche").joinpath("openapi.json").read_bytes())
    return found


def operations() -> Iterator[tuple[str, str, dict[str, Any]]]:
    """Yield method, path with values put in, and description of every operation of the API."""
    for template, item in document()["paths"].items():
        if template not in SYSTEM and "/score" not in template and not template.endswith(("/swagger.json", "/health")):
            path = re.sub(r"\{(\w+)\}", lambda found: VALUES.get(found[1], "nothing"), template)
            yield from ((method.upper(), path, item[method]) for method in METHODS if method in item)


CHANGES = [
    (method, path)
    for method, path, _ in operations()
    if method != "GET" and not ("/files/" in path and path.endswith("0" * 64))
]
LISTS = [
    path for _, path, told in operations() if any(one["name"] == "page_size" for one in told.get("parameters", ()))
]


@pytest.fixture
def rest(topology: Topology) -> Iterator[httpx2.Client]:
    with topology.rest() as found:
        yield found


def test_the_walk_meets_the_whole_api() -> None:
    assert len(list(operations())) > 40
    assert len(CHANGES) > 15
    assert len(LISTS) > 7


def test_no_route_gives_a_media_type_that_it_does_not_have(rest: httpx2.Client) -> None:
    for method, path, _ in operations():
        if (method, path) == ("DELETE", "/api/v1/services/nothing"):  # its good answer is empty
            continue
        answer = rest.request(method, path, headers={"accept": "application/xml, image/*"})
        problem(answer, 406, "not_acceptable", names="gives")


@pytest.mark.direct
@pytest.mark.parametrize("kind", ["text/plain", "application/xml", "multipart/form-data; boundary=b", "text/json"])
def test_no_route_takes_a_body_of_another_media_type(rest: httpx2.Client, kind: str) -> None:
    for method, path in CHANGES:
        answer = rest.request(method, path, content=FORM, headers={"content-type": kind})
        problem(answer, 415, "unsupported_media_type")


@pytest.mark.direct
def test_no_route_takes_a_body_over_its_limit_whatever_it_announces(rest: httpx2.Client) -> None:
    for method, path in CHANGES:
        for announced in (True, False):
            pieces = [b" " * (1 << 18)] * 5
            content: Any = b"".join(pieces) if announced else iter(pieces)
            if not announced and not _reads_its_body(method, path):
                continue
            answer = rest.request(method, path, content=content, headers={"content-type": "application/json"})
            assert problem(answer, 413, "too_large")["limit"] == 1 << 20, (method, path)


def _reads_its_body(method: str, path: str) -> bool:
    """Whether the operation has a body; what is sent to others is never read, so it has no size."""
    return any((method, path) == (one, there) and "requestBody" in told for one, there, told in operations())


@pytest.mark.parametrize("path", LISTS)
def test_every_list_has_pages_of_bounded_size(rest: httpx2.Client, path: str) -> None:
    for size in ("0", "-1", "1001", "1e3", "x", "9" * 30):
        answer = rest.get(f"{path}?page_size={size}")
        assert (answer.status_code, answer.json()["errors"][0]["pointer"]) == (422, "#query/page_size")
    for token in ("abc", "W10", "A" * 3000, "%00", ".*", "WzEsMl0"):
        answer = rest.get(f"{path}?page_token={token}")
        assert answer.status_code in {404, 422}, (path, token)
    for query in ("sort=name", "order_by=name", "filter=name~.*", "name[$regex]=(a%2B)%2B$", "limit=5", "offset=5"):
        pointer = "#query/" + query.partition("=")[0]
        problem(rest.get(f"{path}?{query}"), 422, "unknown_field", pointer=pointer)


# --- nothing leaks

BODIES = [
    *(b"", b"null", b"0", b'""', b"[]", b"{}", b"[{}]", b"{", b"\x00", b"\xff", b"[" * 2000, b'{"a":' * 100, b"NaN"),
    *(
        b'{"__proto__":{"a":1}}',
        b'{"constructor":1}',
        b'{"$where":"1"}',
        b'{"name":null}',
        b'{"name":[]}',
        b'{"name":{}}',
    ),
    *(b'{"name":"%s"}' % bad for bad in (b"../x", b"a\\u0000", b"{0.__class__}", b"%s%n", b"${jndi:ldap://x}", b"'--")),
    b'{"name":"a","definition":{"python":{"pip":["-r /etc/passwd"]}}}',
    b'{"name":"a","definition":{"python":{"pip":["x @ file:///etc/passwd"]}}}',
    b'{"name":"a","definition":{"python":{"pip_options":{"index_url":"http://0xa9fea9fe/"}}}}',
    b'{"name":"a","definition":{"variables":{"LD_PRELOAD":"/x.so"}}}',
    b'{"name":"a","manifest":"sha256:' + b"0" * 64 + b'","entry_script":"s.py","snapshot":"sha256:' + b"0" * 64 + b'"}',
    b'{"script":"a.py","snapshot":"sha256:' + b"f" * 64 + b'","resources":{"cpus":-1}}',
    b'{"digests":["../../etc/passwd"]}',
    b'{"environment_version":1e308}',
    b'{"environment_version":9007199254740993}',
]
HEADERS: list[dict[str, bytes]] = [
    {"if-match": b'"x'},
    {"if-match": b"*"},
    {"idempotency-key": b"\xe4"},
    {"idempotency-key": b"a" * 300},
    {"cloche-project": b"../x"},
    {"cloche-project": b"\xff"},
    {"cloche-position": b"x:y@z," * 600},
    {"prefer": b"wait=-1, wait=99999999999999999999"},
    {"traceparent": b"00-zz-zz-00"},
    {"x-request-id": b"a" * 2000},
    {"last-event-id": b"\x80|\x80"},
    {"range": b"bytes=0-,1-,2-,5-1"},
    {"content-encoding": b"gzip"},
    {"accept": b"\xff/\xff;q=x"},
    {"x-forwarded-for": b"10.0.0.1", "x-forwarded-host": b"evil.example"},
]
PLACES = ["..%2f..%2fetc%2fpasswd", "%00", "%ff%fe", "a" * 5000, "%0d%0ax:y", "{0.__class__}", "%2e%2e", "~", "$(id)"]


@cache
def leaks() -> re.Pattern[str]:
    """Return what no refusal may hold: where our code lies, on what machine, and in which versions."""
    fixed = (
        r"Traceback|File \"|site-packages|/home/|/homes/|/tmp/|/root/|\.py\", line|0x[0-9a-f]{6,}|root:|line \d+, in "
    )
    texts = {
        socket.gethostname(),
        platform.python_version(),
        *(version(name) for name in ("fastapi", "pydantic", "uvicorn")),
    }
    return re.compile("|".join([fixed, *(re.escape(text) for text in texts if len(text) > 3)]))


def unharmed(topology: Topology, answer: httpx2.Response, sent: object) -> None:
    """Check an answer to nonsense: no failure of ours, and a refusal is a problem that tells nothing about us."""
    assert answer.status_code < 500, (sent, answer.text)
    if answer.status_code >= 400:
        assert answer.headers["content-type"] == "application/problem+json", sent
        told = {name: text for name, text in answer.json().items() if name not in {"instance", "request_id"}}
        assert not leaks().search(json.dumps(told)), (sent, told)
    assert topology.token not in answer.text
    assert "evil.example" not in str(answer.headers)


def test_no_body_makes_any_route_fail_or_tell_about_itself(topology: Topology, rest: httpx2.Client) -> None:
    for method, path in CHANGES:
        for body in BODIES:
            answer = rest.request(method, path, content=body, headers={"content-type": "application/json"})
            unharmed(topology, answer, (method, path, body[:60]))


def test_no_header_makes_any_route_fail_or_tell_about_itself(topology: Topology, rest: httpx2.Client) -> None:
    for method, path, _ in operations():
        for headers in HEADERS:
            if path == "/api/v1/events":
                continue
            given = [(name.encode(), text) for name, text in headers.items()]
            # all facts of all tests are not sent again and again
            body = b'{"dry_run": true}' if path.endswith(("/republish", "/replay")) else b"{}"
            content = body if (method, path) in CHANGES else None
            json_type = [(b"content-type", b"application/json")] if content else []
            answer = rest.request(method, path, content=content, headers=[*given, *json_type])
            unharmed(topology, answer, (method, path, headers))


def test_no_path_makes_any_route_fail_or_tell_about_itself(topology: Topology, rest: httpx2.Client) -> None:
    for template, item in document()["paths"].items():
        if "{" not in template or "/score" in template:
            continue
        head, *between = re.split(r"\{\w+\}", template)
        for place in PLACES:
            path = place.join([head, *between])
            for method in METHODS:
                if method in item:
                    content = b"{}" if method != "get" else None
                    answer = rest.request(
                        method.upper(), path, content=content, headers={"content-type": "application/json"}
                    )
                    unharmed(topology, answer, (method, path[:100]))
