"""The process and its data folder in trouble: taken ports, second servers, newer data, full disks, hostile callers."""

import hashlib
import json
import os
import shutil
import signal
import socket
import sqlite3
import subprocess
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from pathlib import Path
from urllib.parse import urlsplit

import pytest

from cloche import ClocheError
from tests.e2e.problems import problem, refused, said
from tests.e2e.steps import Scripts, completed, done, reaches, submit
from tests.e2e.topology import PATIENCE, Embedded, Ended, call, eventually, program

pytestmark = pytest.mark.embedded_only
MIB = 1024 * 1024
LARGE = b"x" * MIB
BYTES = {"content-type": "application/octet-stream"}
CHATTY = """
import time
for number in range(40):
    print("x" * 100_000, flush=True)
    time.sleep(0.1)
"""
Servers = Callable[..., Embedded]


def up(home: Path, *arguments: str, **settings: str) -> Ended:
    """Start a server by the command line, which is expected to refuse."""
    environ = {"PATH": "/usr/bin:/bin", "HOME": str(home.parent), "CLOCHE_HOME": str(home), "NO_COLOR": "1", **settings}
    told = subprocess.run(
        program("up", *arguments), env=environ, capture_output=True, text=True, timeout=PATIENCE, check=False
    )
    return Ended(told.returncode, told.stdout, told.stderr)


@pytest.fixture
def taken() -> Iterator[int]:
    """A port that something else listens at."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        yield server.getsockname()[1]


def test_a_port_that_is_in_use(tmp_path: Path, taken: int) -> None:
    for arguments in (["-d"], []):
        ended = up(tmp_path / "home", "--port", str(taken), *arguments)
        assert ended.code == 4
        said(ended, "port_in_use", names=f"127.0.0.1:{taken}")


def test_an_address_that_everybody_could_reach(tmp_path: Path) -> None:
    ended = up(tmp_path / "home", "--host", "0.0.0.0", "--port", "0")  # noqa: S104 - it is refused
    assert ended.code == 2
    said(ended, "insecure_bind", names="tls_certificate")


def test_settings_that_are_none(tmp_path: Path) -> None:
    home = tmp_path / "home"
    home.mkdir()
    said(up(home, CLOCHE_RUNNER__PATIENSE="3"), "unknown_setting", names="CLOCHE_RUNNER__PATIENCE")
    said(up(home, CLOCHE_HTTP__PORT="many"), "invalid_setting", names="http.port")
    (home / "config.toml").write_text("[http\nport = 1")
    said(up(home), "malformed_config", names="config.toml")


def test_of_two_that_start_it_at_once_both_are_told_where_it_is(tmp_path: Path) -> None:
    home = tmp_path / "home"
    with ThreadPoolExecutor() as pool:
        both = list(pool.map(lambda _: up(home, "-d", "--port", "0", "--json"), range(2)))
    try:
        assert [ended.code for ended in both] == [0, 0], both
        assert both[0].document["pid"] == both[1].document["pid"]
    finally:
        environ = {"PATH": "/usr/bin:/bin", "HOME": str(tmp_path), "CLOCHE_HOME": str(home)}
        subprocess.run(program("down"), env=environ, capture_output=True, timeout=PATIENCE, check=True)


def test_a_server_that_hangs_is_not_said_to_be_absent(own_topology: Servers) -> None:
    server = own_topology()
    environ = {"PATH": "/usr/bin:/bin", "HOME": str(server.home.parent), "CLOCHE_HOME": str(server.home)}
    os.kill(server.pid, signal.SIGSTOP)
    try:
        began = time.monotonic()
        told = subprocess.run(
            program("down", "--timeout", "2s"), env=environ, capture_output=True, text=True, timeout=30, check=False
        )
        assert time.monotonic() - began < 6
        assert told.returncode == 124
        assert f"kill -9 {server.pid}" in told.stderr
        status = subprocess.run(program("status"), env=environ, capture_output=True, text=True, timeout=60, check=False)
        assert "not_answering" in status.stderr
    finally:
        os.kill(server.pid, signal.SIGCONT)


def test_a_second_server_on_the_same_folder(own_topology: Servers) -> None:
    server = own_topology()
    ended = up(server.home, "--port", "0")
    assert ended.code == 4
    said(ended, "already_running", names=str(server.home))
    (server.home / "server.json").unlink()
    ended = up(server.home, "--port", "0")
    assert ended.code == 4
    said(ended, "already_running", names=f"Process {server.pid}")
    with server.rest() as rest:
        assert rest.get("/readyz").status_code == 200


def test_data_of_a_newer_version_is_left_alone(own_topology: Servers) -> None:
    server = own_topology()
    server.stop()
    with closing(sqlite3.connect(server.home / "cloche.db")) as file:
        known = file.execute("PRAGMA user_version").fetchone()[0]
        file.execute(f"PRAGMA user_version={known + 1}")
    ended = up(server.home, "--port", "0")
    assert ended.code == 4
    said(ended, "data_too_new", names=f"version {known + 1}")
    with closing(sqlite3.connect(server.home / "cloche.db")) as file:
        assert file.execute("PRAGMA user_version").fetchone()[0] == known + 1
        file.execute(f"PRAGMA user_version={known}")
    server.restart()


@pytest.mark.parametrize("how", [("-d",), ()])
@pytest.mark.parametrize("place", ["file", "file/below", "/proc/cloche"])
def test_a_data_folder_that_cannot_be_one(tmp_path: Path, place: str, how: tuple[str, ...]) -> None:
    (tmp_path / "file").write_text("no folder")
    home = tmp_path / place
    ended = up(home, "--port", "0", *how)
    assert ended.code == 2
    said(ended, "home_unusable", names=str(home))


def test_doctor_looks_at_a_folder_that_cannot_be_written_to(tmp_path: Path) -> None:
    environ = {"PATH": "/usr/bin:/bin", "HOME": str(tmp_path), "CLOCHE_HOME": "/proc/cloche", "NO_COLOR": "1"}
    told = call(("doctor", "--json"), environ, code=None)
    checks = {check["name"]: check for check in told.document["checks"]}
    for name in ("hard links", "clock"):
        assert checks[name]["state"] == "warning", checks[name]
        assert "cannot be written to" in checks[name]["detail"]


def test_an_identity_that_is_damaged_is_named_and_left_alone(tmp_path: Path) -> None:
    home = tmp_path / "home"
    home.mkdir(mode=0o700)
    (home / "identity.json").write_text('{"installation": "x"')
    ended = up(home, "--port", "0", "-d")
    assert ended.code == 2
    said(ended, "identity_damaged", names=str(home / "identity.json"))
    assert (home / "identity.json").read_text() == '{"installation": "x"'


@pytest.mark.parametrize("how", [("-d",), ()])
def test_a_port_that_is_none(tmp_path: Path, how: tuple[str, ...]) -> None:
    ended = up(tmp_path / "home", "--port", "99999", *how)
    assert ended.code == 2
    assert "Traceback" not in ended.err, ended.err
    assert "65535" in ended.err


def test_secrets_are_the_users_alone(own_topology: Servers) -> None:
    server = own_topology()
    assert server.home.stat().st_mode & 0o077 == 0
    for name in ("token", "identity.json", "cloche.db", "server.json"):
        assert (server.home / name).stat().st_mode & 0o077 == 0, name
    loose = [str(path) for path in server.home.rglob("*") if path.stat().st_mode & 0o022]
    assert not loose, loose
    listening = [line.split()[1] for line in Path(f"/proc/{server.pid}/net/tcp").read_text().splitlines()[1:]]
    port = urlsplit(server.url).port
    assert f"0100007F:{port:04X}" in listening
    assert f"00000000:{port:04X}" not in listening


# --- a full disk


def test_a_full_disk_is_said_and_forgotten_when_there_is_room_again(
    own_topology: Servers, script: Scripts, tmp_path: Path
) -> None:
    server = own_topology(disk=32 * MIB)
    with server.client() as client, server.rest() as rest:
        completed(client, script("print('before')"))
        client.environments.register("kept")
        server.fill_disk()
        problem(rest.post("/api/v1/environments", json={"name": "none", "definition": {}}), 507, "disk_full")
        blob = f"/api/v1/files/runs/sha256:{hashlib.sha256(LARGE).hexdigest()}"
        problem(rest.put(blob, content=LARGE, headers=BYTES), 507, "disk_full")
        problem(rest.get(blob), 404, "blob_not_found")
        assert rest.get("/api/v1/environments/kept").status_code == 200
        assert rest.get("/livez").status_code == 200
        server.free_disk()
        assert rest.put(blob, content=LARGE, headers=BYTES).status_code == 201
        eventually(
            lambda: rest.post("/api/v1/environments", json={"name": "room", "definition": {}}).is_success,
            "there is room again",
        )
        assert rest.get("/api/v1/environments/none").status_code == 404, "what was refused was not done"
        completed(client, script("print('after')"))
        for name in ("cloche.db", "cloche.db-wal"):
            shutil.copyfile(server.folder / name, tmp_path / name)
        with closing(sqlite3.connect(tmp_path / "cloche.db")) as file:
            assert file.execute("PRAGMA integrity_check").fetchall() == [("ok",)]
        partial = [path for path in (server.folder / "blobs").rglob("*") if path.is_file() and ".tmp" in path.name]
        assert not partial


def test_a_server_whose_log_has_no_room_lives_on_and_tells_what_it_could_not_write(own_topology: Servers) -> None:
    server = own_topology(disk=32 * MIB)
    with server.rest() as rest:
        server.fill_disk()
        for number in range(60):
            refused_now = rest.post("/api/v1/environments", json={"name": f"n{number}", "definition": {}})
            assert refused_now.status_code == 507, refused_now.text
            time.sleep(0.25)
        assert rest.get("/livez").status_code == 200
        server.free_disk()
        eventually(
            lambda: rest.post("/api/v1/environments", json={"name": "room", "definition": {}}).is_success,
            "there is room again",
        )
        log = server.folder / "cloche.log"
        eventually(lambda: "log_lines_lost" in log.read_text(), "the log tells what is missing")


def test_a_run_on_a_full_disk_ends_and_says_so_or_goes_on_when_there_is_room(
    own_topology: Servers, script: Scripts
) -> None:
    server = own_topology(disk=32 * MIB)
    with server.client() as client:
        completed(client, script("print('before')"))
        run = submit(client, script(CHATTY))
        reaches(client, run, "Running")
        server.fill_disk()
        time.sleep(1.0)
        server.free_disk()
        ended = done(client, run)
        assert ended.ended
        completed(client, script("print('after')"))


# --- hostile callers


def test_guessing_tokens_is_slowed_down_and_does_not_lock_the_owner_out(own_topology: Servers) -> None:
    server = own_topology()
    with server.rest() as owner, server.rest(authorization="Bearer cloche_0000000000000000_wrong") as guesser:
        assert owner.get("/api/v1/runs").status_code == 200
        statuses = [guesser.get("/api/v1/runs").status_code for _ in range(25)]
        assert statuses[0] == 401
        assert statuses[-1] == 429
        told = problem(guesser.get("/api/v1/runs"), 429, "too_many_failures")
        answer = guesser.get("/api/v1/runs")
        assert 1 <= int(answer.headers["retry-after"]) <= 10
        assert told["retry_after"] >= 1
        assert owner.get("/api/v1/runs").status_code == 200


def test_what_callers_send_forges_no_line_of_the_log(own_topology: Servers, script: Scripts) -> None:
    server = own_topology()
    forged = '\r\n{"level":"info","action":"forged"}\x1b[2J'
    with server.rest() as rest, server.client() as client:
        rest.get("/api/v1/environments/" + "a%0d%0a%7B%22action%22%3A%22forged%22%7D%1b%5b2J")
        rest.get("/api/v1/runs", headers={"x-request-id": 'a"b{}', "user-agent": "x\x1b[2J"})
        rest.post("/api/v1/environments", json={"name": forged})
        completed(client, script(f"print({forged!r})"), display_name=forged, tags={"a": forged})
    server.stop()
    log = server.log_file.read_text()
    assert "\x1b" not in log
    for line in log.splitlines():
        assert json.loads(line)["action"] != "forged", line
    assert server.token not in log
    server.restart()


def test_nothing_of_a_request_that_fails_leaks_what_lies_inside(own_topology: Servers) -> None:
    server = own_topology()
    with server.rest() as rest:
        for path in (
            "/api/v1/runs/x",
            "/api/v1/nothing",
            "/api/v1/environments?page_token=x",
            "/api/v1/models/x/files/y",
        ):
            text = rest.get(path).text
            assert str(server.home) not in text
            assert socket.gethostname() not in text
            assert "uvicorn" not in text.lower() + str(rest.get(path).headers).lower()


def test_a_client_without_a_server_says_what_to_do(own_topology: Servers) -> None:
    server = own_topology()
    server.stop()
    with server.client() as client, pytest.raises(ClocheError) as caught:
        client.runs.list()
    refused(caught.value, "not_running", names="cloche up")
    assert server.cli("run", "list", code=1).err.count("cloche up") == 1
    server.restart()
