"""Republish and replay as the SDK asks for them: page by page, the registry first, patient once it has begun."""

from typing import Any, TypeVar

import orjson
import pytest

from cloche._again import STILL, TRIES, replay, republish, silent
from cloche._calls import Answer, Call, Operation, Pause
from cloche._errors import Unauthenticated, Unavailable, from_problem

T = TypeVar("T")
UNKNOWN = from_problem(401, {"code": "unauthenticated"}, "")
AWAY = from_problem(503, {"code": "store_unavailable"}, "")


def driven(operation: Operation[T], *answers: object) -> tuple[T, list[Call]]:
    """Answer one call after the other: a document, or an error; return the result and what was asked."""
    asked: list[Call] = []
    left = list(answers)
    step: Any = next(operation)
    try:
        while True:
            if isinstance(step, Pause):
                step = operation.send(None)
                continue
            asked.append(step)
            said = left.pop(0)
            if isinstance(said, Exception):
                step = operation.throw(said)
            else:
                step = operation.send(Answer(200, {}, orjson.dumps(said)))
    except StopIteration as end:
        return end.value, asked


def page(events: int, following: str = "") -> dict[str, object]:
    return {"documents": events, "events": events, "sent": events, "next": following}


def again(*services: str, stream: str | None = None) -> Operation[dict[str, int]]:
    return republish(
        services, stream=stream, first=1, last=None, since=None, until=None, dry_run=False, told=silent
    )  # fmt: skip


def test_all_services_republish_and_the_registry_is_first_page_by_page() -> None:
    counts, asked = driven(again(), page(3, "environment/default/a/1"), page(2), page(1), page(0), page(4))
    assert counts == {"registry": 5, "builder": 1, "runner": 0, "deployer": 4}
    assert [call.path.split("/")[4] for call in asked] == ["registry", "registry", "builder", "runner", "deployer"]
    places = [call.json["place"] for call in asked if isinstance(call.json, dict)]
    assert places == ["", "environment/default/a/1", "", "", ""]


@pytest.mark.parametrize(
    ("stream", "owner"),
    [("run/default/a", "runner"), ("service/default/a", "deployer"), ("build/public/a", "builder")],
)
def test_one_aggregate_is_republished_by_its_owner(stream: str, owner: str) -> None:
    counts, _ = driven(again(stream=stream), page(2))
    assert counts == {owner: 2}


def test_a_service_that_does_not_know_the_token_yet_or_is_away_is_asked_again() -> None:
    counts, asked = driven(again("registry", "runner"), page(1), UNKNOWN, AWAY, page(2))
    assert counts == {"registry": 1, "runner": 2}
    assert len(asked) == 4


def test_a_wrong_token_is_told_at_once() -> None:
    with pytest.raises(Unauthenticated):
        driven(again(), UNKNOWN)


def test_patience_ends() -> None:
    with pytest.raises(Unavailable):
        driven(again("registry", "runner"), page(1), *[AWAY] * (TRIES + 1))


def test_a_replay_goes_on_with_what_is_left() -> None:
    left = {"cloche.runs/0": [5, 9]}
    count, asked = driven(
        replay("runner", since=None, dry_run=False, told=silent),
        {"messages": 5, "left": left},
        AWAY,
        {"messages": 4, "left": {}},
    )
    assert count == 9
    assert [call.json.get("left") for call in asked if isinstance(call.json, dict)] == [None, left, left]


def test_a_replay_that_does_not_get_on_ends_with_an_error() -> None:
    same = {"messages": 0, "left": {"cloche.runs/0": [5, 9]}}
    with pytest.raises(Unavailable, match="does not get on") as error:
        driven(replay("runner", since=None, dry_run=False, told=silent), *[same] * (STILL + 1))
    assert error.value.code == "bus_unavailable"


def test_a_replay_that_gets_on_slowly_is_not_given_up() -> None:
    pages = [{"messages": 0, "left": {"cloche.runs/0": [at, 9]}} for at in (5, 5, 6, 6, 7, 7, 8, 8)]
    count, _ = driven(replay("runner", since=None, dry_run=False, told=silent), *pages, {"messages": 1, "left": {}})
    assert count == 1
