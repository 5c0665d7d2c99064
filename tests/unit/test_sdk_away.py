"""A stream whose server a gateway does not reach for a while."""

import pytest

from cloche._errors import Unavailable
from cloche._streams import BROKEN_AT_MOST, StreamReader

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
