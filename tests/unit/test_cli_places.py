"""Which Cloche a command is about, and which server a token is shown to."""

import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from threading import Thread

import pytest
from typer.testing import CliRunner, Result

from cloche._config import find_endpoint, same_server
from cloche._errors import Unauthenticated
from cloche.cli.main import first_word, make_app
from cloche.cli.output import Mode, Output
from cloche.cli.processes import Running
from cloche.cli.session import Session
from cloche.cli.state import token_here, token_of

CLUSTER = "https://cloche.example"


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return a data folder with a token, while the environment names a cluster."""
    (tmp_path / "token").write_text("the-folder's")
    monkeypatch.setenv("CLOCHE_HOME", str(tmp_path))
    monkeypatch.setenv("CLOCHE_URL", CLUSTER)
    monkeypatch.setenv("CLOCHE_TOKEN", "the-cluster's")
    return tmp_path


def call(*arguments: str) -> Result:
    return CliRunner().invoke(make_app(first_word(list(arguments))), list(arguments))


def session(url: str = "", home: str = "") -> Session:
    return Session(Output(Mode()), url, home=home)


def test_the_token_of_the_environment_is_for_its_server(home: Path) -> None:
    assert find_endpoint().token == "the-cluster's"
    assert find_endpoint(f"{CLUSTER}:443/").token == "the-cluster's"


@pytest.mark.parametrize("url", ["https://other.example", "http://cloche.example", "https://cloche.example:8571"])
def test_the_token_of_the_environment_is_shown_to_no_other_server(url: str, home: Path) -> None:
    with pytest.raises(Unauthenticated) as error:
        find_endpoint(url)
    assert error.value.code == "no_token"
    assert CLUSTER in error.value.why
    with pytest.raises(Unauthenticated):
        token_of(session(url), None)


def test_this_machines_server_gets_the_token_of_its_folder(home: Path) -> None:
    (home / "server.json").write_text(json.dumps({"url": "http://127.0.0.1:9999"}))
    assert find_endpoint("http://localhost:9999").token == "the-folder's"
    with pytest.raises(Unauthenticated):
        find_endpoint("http://127.0.0.1:8571")


def test_the_token_of_the_folder_is_shown_to_no_other_server(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("CLOCHE_TOKEN")
    with pytest.raises(Unauthenticated) as error:
        find_endpoint()
    assert "server of that folder" in error.value.why


def test_a_token_without_an_address_is_for_the_server_that_is_asked(
    home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("CLOCHE_URL")
    assert find_endpoint("https://other.example").token == "the-cluster's"


def test_a_token_that_is_given_goes_where_it_is_meant_for(home: Path) -> None:
    assert find_endpoint("https://other.example", "given").token == "given"


def test_what_is_no_address_is_the_same_as_itself_only() -> None:
    assert same_server("http://[", "http://[")
    assert not same_server("http://[", "http://x:y")


@contextmanager
def listening(heard: list[str]) -> Iterator[str]:
    """Serve lists of no runs on a free port, and keep what callers show."""

    class Listener(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            heard.append(self.headers["authorization"])
            self.send_response(200)
            self.end_headers()
            self.wfile.write(b'{"items": []}')

        def log_message(self, *_: object) -> None:
            """Write nothing."""

    with HTTPServer(("127.0.0.1", 0), Listener) as server:
        thread = Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_port}"
        finally:
            server.shutdown()
            thread.join()


def test_down_shows_this_machines_server_its_own_token_only(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    heard: list[str] = []
    monkeypatch.setattr("cloche.cli.processes.end", lambda *_: True)
    with listening(heard) as url, (home / "token").open():
        found = {"url": url, "pid": os.getpid(), "token_file": str(home / "token")}
        (home / "server.json").write_text(json.dumps(found))
        ended = call("down")
    assert ended.exit_code == 0
    assert set(heard) == {"Bearer the-folder's"}
    assert f"Cloche on {home} has stopped." in ended.output


def test_a_servers_own_token_is_read_beside_it(home: Path) -> None:
    assert token_here(Running("http://127.0.0.1:1", 1, str(home / "token"))) == "the-folder's"


@pytest.mark.parametrize("words", [("down",), ("config", "show")])
def test_commands_about_this_machine_say_so_beside_another_server(words: tuple[str, ...], home: Path) -> None:
    said = call(*words).output
    assert CLUSTER in said
    assert f"of this machine, on {home}" in said


def test_nothing_is_said_where_only_this_machine_is_meant(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert "warning" not in call("down", "--home", str(home)).output
    monkeypatch.delenv("CLOCHE_URL")
    assert "warning" not in call("down").output


def test_an_option_that_names_another_server_is_named(home: Path) -> None:
    assert "--url names (http://x)" in call("down", "--url", "http://x").output
