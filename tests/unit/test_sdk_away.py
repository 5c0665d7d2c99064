"""A server that cannot answer for a while: streams, and calls that are sent again."""

import pytest

from cloche._calls import Answer
from cloche._config import Endpoint, Positions
from cloche._errors import Unavailable
from cloche._streams import BROKEN_AT_MOST, StreamReader
from cloche._transport import Exchange

AWAY = Unavailable("service_unreachable", "The service behind this address does not answer.")


def test_a_followed_stream_is_asked_for_again_until_that_is_too_often() -> None:
    reader = StreamReader("/api/v1/runs/1/log", follow=True, query={})
    for _ in range(BROKEN_AT_MOST):
        reader.away(AWAY)
    assert reader.more
    with pytest.raises(Unavailable):
        reader.away(AWAY)


def test_what_comes_in_between_lets_the_count_begin_anew() -> None:
    reader = StreamReader("/api/v1/runs/1/log", follow=True, query={})
    for _ in range(3 * BROKEN_AT_MOST):
        reader.away(AWAY)
        assert [event.data for event in reader.feed(b"id: 1\ndata: line\n\n")] == ["line"]


def test_a_stream_that_is_not_followed_says_so_at_once() -> None:
    with pytest.raises(Unavailable):
        StreamReader("/api/v1/runs/1/log", follow=False, query={}).away(AWAY)


def test_a_call_that_is_sent_again_is_told_of_once() -> None:
    exchange, told = Exchange(Endpoint("http://c", "t"), Positions(None)), list[str]()
    exchange.told = told.append
    answer = Answer(503, {"retry-after": "2"}, b'{"code": "store_unavailable", "detail": "No."}')
    assert [exchange.again(tries, answer) for tries in (1, 2)] == [2.0, 2.0]
    assert told == ["Cloche at http://c answers 503 (store_unavailable); asking again, 5 times in all …"]


def test_a_call_is_sent_again_in_silence_where_nobody_listens() -> None:
    assert 0 < Exchange(Endpoint("http://c", "t"), Positions(None)).again(1, None) <= 0.2
