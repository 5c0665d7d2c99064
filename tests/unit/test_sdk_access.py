"""Tokens as SDK and command line ask for them: lost answers, and until when a token holds."""

from datetime import UTC, date, datetime, timedelta

import orjson
import pytest

from cloche._calls import Answer, Call
from cloche._errors import Conflict, Invalid
from cloche._operations import create_token
from cloche._views import Token
from cloche.cli.access import parse_expiry

TOKEN = {"id": "b", "role": "viewer", "token": "cloche_b_secret"}


def test_a_token_whose_answer_was_lost_is_revoked_and_another_one_created() -> None:
    operation = create_token("viewer", projects=(), expires=None, description="")
    sent = [next(operation), operation.throw(Conflict("token_shown", "Shown.", extra={"id": "a"}))]
    sent.append(operation.send(Answer(200, {}, b'{"id":"a","role":"viewer"}')))
    with pytest.raises(StopIteration) as end:
        operation.send(Answer(201, {}, orjson.dumps(TOKEN)))
    calls = [(call.method, call.path) for call in sent if isinstance(call, Call)]
    assert calls == [("POST", "/api/v1/tokens"), ("DELETE", "/api/v1/tokens/a"), ("POST", "/api/v1/tokens")]
    made = end.value.value
    assert isinstance(made, Token)
    assert made.token == "cloche_b_secret"
    assert "secret" not in repr(made)


def test_another_conflict_is_handed_on() -> None:
    operation = create_token("viewer", projects=(), expires=None, description="")
    next(operation)
    with pytest.raises(Conflict):
        operation.throw(Conflict("something", "Else."))


@pytest.mark.parametrize("expires", [timedelta(days=2), datetime.now(UTC) + timedelta(days=2)])
def test_an_end_is_sent_as_a_time_with_its_offset(expires: datetime | timedelta) -> None:
    [call] = [next(create_token("viewer", projects=["red"], expires=expires, description="x"))]
    assert isinstance(call, Call)
    assert isinstance(call.json, dict)
    left = datetime.fromisoformat(call.json["expires"]) - datetime.now(UTC)
    assert timedelta(days=1, hours=23) < left <= timedelta(days=2)
    assert call.json["projects"] == ["red"]


def test_until_when_a_token_holds_is_a_duration_a_day_or_a_time() -> None:
    assert parse_expiry("") is None
    assert parse_expiry("90d") == timedelta(days=90)
    assert parse_expiry("1h30m") == timedelta(minutes=90)
    assert parse_expiry("2027-01-31T18:00:00Z") == datetime(2027, 1, 31, 18, tzinfo=UTC)
    day = parse_expiry("2027-01-31")
    assert isinstance(day, datetime)
    assert day.tzinfo is not None
    assert (day.date(), day.hour) == (date(2027, 2, 1), 0)


@pytest.mark.parametrize("text", ["soon", "-1d", "2027-13-01", "9999-12-31", "9" * 30 + "d", "1e9"])
def test_what_is_no_time_is_refused(text: str) -> None:
    with pytest.raises(Invalid) as refused:
        parse_expiry(text)
    assert refused.value.code == "invalid_expiry"
