"""Operations of the SDK, driven by hand: what they ask, and what they make of the answers."""

import socket
from typing import Any

import httpx2
import orjson
import pytest

import cloche
from cloche._calls import Answer, Call, Operation
from cloche._errors import Conflict, Invalid, NotFound, Unavailable, from_problem, unreachable
from cloche._operations import find_run, run_body
from cloche._views import Run
from cloche.cli.state import Asked

IDS = ["a1b2c3d4", "a1b2ffff", "b7777777"]


def found(text: str) -> Run:
    """Find a run among `IDS`."""
    return driven(find_run(text))


def driven(operation: Operation[Run]) -> Run:
    step: Any = next(operation)
    try:
        while True:
            assert isinstance(step, Call)
            name = step.path.rpartition("/")[2]
            if name == "runs":
                items = [{"id": one, "status": "Completed"} for one in IDS]
                step = operation.send(Answer(200, {}, orjson.dumps({"items": items, "next_page_token": None})))
            else:
                step = operation.throw(from_problem(404, {"code": "run_not_found", "what": f"No {name}."}, ""))
    except StopIteration as end:
        run: Run = end.value
        return run


def test_a_run_is_found_by_a_beginning_that_fits_only_one() -> None:
    assert found("b777").id == "b7777777"


@pytest.mark.parametrize("text", ["a", "a1b2", "b7"])
def test_a_beginning_that_may_mean_another_run_names_those_that_it_fits(text: str) -> None:
    with pytest.raises(Conflict) as caught:
        found(text)
    assert caught.value.code == "ambiguous_run"
    assert all(one in caught.value.what for one in IDS if one.startswith(text))


def test_a_beginning_that_fits_none_is_not_found() -> None:
    with pytest.raises(NotFound):
        found("c")


@pytest.mark.parametrize("text", ["@nope", "a/b", "", "x" * 65])
def test_what_cannot_name_a_run_is_said_to_in_words(text: str) -> None:
    with pytest.raises(Invalid) as caught:
        found(text)
    assert caught.value.code == "invalid_reference"
    assert "[" not in str(caught.value.what)
    assert "@last" in caught.value.todo


def test_what_is_asked_for_is_sent_even_when_it_is_nothing() -> None:
    def sent(**asked: object) -> object:
        body = run_body(script="a.py", arguments=(), environment=None, models=(), resources=asked, options={})
        return body.get("resources")

    assert sent(cpus=0, memory=0, gpus=0, gpu_kind="") == {"cpus": 0, "memory": 0}
    assert sent(cpus=None, memory=None, gpus=2, gpu_kind="H200") == {"gpus": 2, "gpu_kind": "H200"}
    assert sent(cpus=None, memory=None, gpus=0, gpu_kind="") is None


def test_a_server_that_is_silent_is_not_said_to_be_absent() -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        asked = Asked(f"http://127.0.0.1:{silent.getsockname()[1]}", "t", seconds=0.02)
        with pytest.raises(Unavailable) as caught:
            asked.get("/readyz")
        asked.close()
    assert caught.value.code == "not_answering"
    assert unreachable("u", httpx2.ReadTimeout("")).code == "not_answering"
    assert unreachable("u", httpx2.ConnectError("refused")).code == "not_running"


def test_the_package_lists_what_it_offers() -> None:
    assert {"Client", "AsyncClient", "ClocheError", "Run", "__version__"} <= set(dir(cloche))
