"""What the gateway answers by itself: problems of the services' form, whatever comes that no service is asked for."""

import json
import socket
import tempfile
import time
from collections.abc import Iterator, Mapping
from contextlib import suppress
from pathlib import Path

import pytest

from tests.environments import build, engine
from tests.environments.box import LABEL, OWNER
from tests.environments.catalogue import ROLES
from tests.environments.owners import this_owner
from tests.environments.places import NotPossible

CONFIG = Path(__file__).parents[2] / "compose" / "gateway.conf"
SERVICES = ("registry", "builder", "runner", "deployer")
PATIENCE_S = 40


def config() -> str:
    """The gateway's own file, where nothing listens behind it; it has no network, so no port can be taken."""
    text = CONFIG.read_text().replace("listen 8571;", "listen unix:/gateway/socket;")
    for service in SERVICES:
        text = text.replace(f"{service}:8571;", "127.0.0.1:9;")
    return text


@pytest.fixture(scope="module")
def gateway() -> Iterator[Path]:
    """The socket of a gateway."""
    try:
        client = engine.client()
        image = build.image(client, ROLES["gateway"])
    except NotPossible as error:
        pytest.skip(f"gateway: {error}")
    with tempfile.TemporaryDirectory(prefix="gw-") as folder:
        file = Path(folder) / "default.conf"
        file.write_text(config())
        container = client.containers.run(
            image,
            detach=True,
            network_mode="none",
            labels={LABEL: "gateway", OWNER: this_owner()},
            volumes={
                folder: {"bind": "/gateway", "mode": "rw"},
                str(file): {"bind": "/etc/nginx/conf.d/default.conf", "mode": "ro"},
            },
        )
        try:
            yield listening(Path(folder) / "socket")
        finally:
            container.remove(force=True)


def connected(path: Path) -> socket.socket:
    connection = socket.socket(socket.AF_UNIX)
    connection.settimeout(PATIENCE_S)
    try:
        connection.connect(str(path))
    except OSError:
        connection.close()
        raise
    return connection


def listening(path: Path) -> Path:
    until = time.monotonic() + PATIENCE_S
    while True:
        try:
            connected(path).close()
        except OSError:
            if time.monotonic() > until:
                raise
            time.sleep(0.05)
        else:
            return path


def ask(gateway: Path, request: bytes) -> tuple[int, Mapping[str, str], dict[str, object]]:
    """Send bytes as they are, of which it may not take all; return the answer's status, fields and problem."""
    with connected(gateway) as connection:
        with suppress(ConnectionError):
            connection.sendall(request)
        with connection.makefile("rb") as answer:
            status = int(answer.readline().split()[1])
            lines = iter(lambda: answer.readline().strip().decode("latin-1"), "")
            fields = {name.lower(): value for name, _, value in (line.partition(": ") for line in lines)}
            body = answer.read(int(fields["content-length"]))
    assert fields["content-type"] == "application/problem+json", body
    return status, fields, json.loads(body)


@pytest.mark.parametrize(
    ("request_", "status", "code"),
    [
        pytest.param(b"GET /a HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: nope\r\n\r\n", 400, "bad_request", id="coding"),
        pytest.param(b"GET /a HTTP/1.1\r\n\r\n", 400, "bad_request", id="no-host"),
        pytest.param(b"GET /a HTTP/9.9\r\nHost: x\r\n\r\n", 400, "bad_request", id="version"),
        pytest.param(b"TRACE /a HTTP/1.1\r\nHost: x\r\n\r\n", 405, "method_not_allowed", id="trace"),
        pytest.param(
            b"GET /a HTTP/1.1\r\nHost: x\r\nX-A: " + b"a" * 20_000 + b"\r\n\r\n", 431, "large_head", id="field"
        ),
        pytest.param(b"GET /" + b"a" * 20_000 + b" HTTP/1.1\r\nHost: x\r\n\r\n", 431, "large_head", id="line"),
        pytest.param(b"GET /a HTTP/1.1\r\nHost: x\r\n\r\n", 503, "service_unreachable", id="away"),
    ],
)
def test_what_the_gateway_refuses_is_a_problem_with_one_status_and_a_request_id(
    gateway: Path, request_: bytes, status: int, code: str
) -> None:
    answered, fields, problem = ask(gateway, request_)
    assert (answered, problem["status"], problem["code"]) == (status, status, code)
    assert problem["request_id"]
    assert problem["request_id"] == fields["x-request-id"]


def test_the_gateway_says_which_path_was_asked_and_keeps_the_callers_id(gateway: Path) -> None:
    _, _, problem = ask(gateway, b"GET /api/v1/runs/a%22b?x=1 HTTP/1.1\r\nHost: x\r\nX-Request-Id: mine-1\r\n\r\n")
    assert (problem["instance"], problem["request_id"]) == ("/api/v1/runs/a%22b", "mine-1")


def test_nothing_of_a_request_gets_out_of_its_place_in_an_answer(gateway: Path) -> None:
    _, _, problem = ask(gateway, b'GET /a","code":"x HTTP/1.1\r\nHost: x\r\nX-Request-Id: a","b":"c\r\n\r\n')
    assert (problem["instance"], problem["code"]) == ("", "service_unreachable")
    assert '"' not in str(problem["request_id"])


def test_a_method_that_no_path_knows_is_told_with_those_that_some_do(gateway: Path) -> None:
    _, fields, _ = ask(gateway, b"TRACE /a HTTP/1.1\r\nHost: x\r\n\r\n")
    assert "GET" in fields["allow"].split(", ")
