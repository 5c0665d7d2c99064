"""What the command line tells while a run, or the server, lets it wait."""

import io
from collections.abc import Iterator
from pathlib import Path

import orjson
import pytest
import typer

from cloche._calls import Answer, Call
from cloche._errors import Invalid, Unavailable
from cloche._views import Run
from cloche.cli import events, runs, state
from cloche.cli.follow import detaching, resolved
from cloche.cli.output import Mode, Output
from cloche.cli.session import Session
from cloche.client import Client
from tests.unit.core.scripted import Scripted

NEW = {"id": "r1", "status": "NotStarted"}
KNOWN = {**NEW, "status": "Queued", "environment": {"name": "a", "version": "1"}}


@pytest.fixture
def server(tmp_path: Path) -> Iterator[tuple[Client, Scripted]]:
    with Client("http://127.0.0.1:9", "t", home=tmp_path) as client:
        client._transport.close()
        found = Scripted()
        client._transport = found  # type: ignore[assignment] # the part of it that is used
        yield client, found


def output(**mode: bool) -> Output:
    return Output(Mode(**mode), stdout=io.StringIO(), stderr=io.StringIO())


def texts(out: Output) -> tuple[str, str]:
    assert isinstance(out.stdout, io.StringIO)
    assert isinstance(out.stderr, io.StringIO)
    return out.stdout.getvalue(), out.stderr.getvalue()


def interrupt(_call: Call) -> Answer:
    raise KeyboardInterrupt


def test_the_id_of_a_run_is_written_before_anything_is_waited_for(server: tuple[Client, Scripted]) -> None:
    client, scripted = server
    scripted.answers["GET /runs/r1"] = interrupt
    out = output(quiet=True)
    with pytest.raises(typer.Exit) as end, detaching(out, "r1"):
        runs._submitted(Session(out), client, Run.model_validate(NEW), follow=False, wait=False)
    assert end.value.exit_code == 130
    assert texts(out) == ("r1\n", "warning: Run r1 goes on.\n")


def test_the_id_is_written_once(server: tuple[Client, Scripted]) -> None:
    client, scripted = server
    scripted.answers["GET /runs/r1"] = KNOWN
    out = output()
    runs._submitted(Session(out), client, Run.model_validate(NEW), follow=False, wait=False)
    said, noted = texts(out)
    assert said == "r1\n"
    assert "run r1 · environment a:1" in noted


def test_json_is_one_document_with_the_environment(server: tuple[Client, Scripted]) -> None:
    client, scripted = server
    scripted.answers["GET /runs/r1"] = KNOWN
    out = output(json=True)
    runs._submitted(Session(out), client, Run.model_validate(NEW), follow=False, wait=False)
    said, _ = texts(out)
    assert said.count("\n") == 1
    assert '"environment":{' in said


def test_a_run_whose_environment_is_not_looked_up_soon_is_told_of_once(server: tuple[Client, Scripted]) -> None:
    client, scripted = server
    answers = iter([NEW, NEW, KNOWN])
    scripted.answers["GET /runs/r1"] = lambda _call: Answer(200, {}, orjson.dumps(next(answers)))
    out = output()
    assert resolved(out, client, Run.model_validate(NEW), after=0.0).status == "Queued"
    _, noted = texts(out)
    assert noted.count("run r1 is taken") == 1
    assert "lists are behind" in noted


def test_a_log_that_breaks_off_says_how_to_go_on() -> None:
    out = output()
    with pytest.raises(Unavailable), detaching(out, "r1"):
        raise Unavailable("not_running", "No Cloche answers.")
    assert "cloche run logs -f r1" in texts(out)[1]


def test_what_a_server_that_is_not_ready_does_is_unknown() -> None:
    class Answers(state.Asked):
        def get(self, path: str, *_accept: int) -> state.Document:
            return {"status": "failing", "failing": {"kafka": "away"}} if path == "/readyz" else {"version": "1"}

    found = state.look(Answers("http://127.0.0.1:9", "t"))
    assert (found["runs"], found["services"]) == (None, None)
    pairs = dict(state.fields_of({**found, "url": "u"}, None))
    assert (pairs["active runs"], pairs["services"]) == ("unknown", "unknown")
    assert pairs["status"] == "not ready: kafka away"


def test_an_unknown_service_is_refused_with_what_to_do() -> None:
    with pytest.raises(Invalid) as error:
        events.republish(Session(output()), ["nosuch"])
    assert error.value.todo
