"""The kit's pure parts: JSON, conditions, positions, page tokens, problems, policy."""

import asyncio

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cloche_shared.adapters.http_server import check_exposure, front_policy, is_loopback
from cloche_shared.errors import (
    ClocheError,
    Conflict,
    Failed,
    Forbidden,
    Internal,
    Invalid,
    NotFound,
    Precondition,
    Throttled,
    TooLarge,
    Unauthenticated,
    Unavailable,
)
from cloche_shared.http.conditions import RequestKey, fingerprint_of, parse_if_match, parse_prefer
from cloche_shared.http.paging import decode_token, encode_token
from cloche_shared.http.policy import accept_error, host_name
from cloche_shared.http.positions import catch_up, format_position, parse_position
from cloche_shared.http.problems import problem_of, retry_after, status_of
from cloche_shared.http.strict_json import MAX_STRING, parse
from cloche_shared.journal.commit import StreamId
from cloche_shared.settings import HttpSettings


@pytest.mark.parametrize(
    "text",
    [
        b"{}",
        b"[]",
        b'"a:b"',
        b'{"a": ":::", "b": {"a": 1}}',
        b'{"a\\":": 1, "c": [true, null, -1.5e300]}',
        b"9007199254740992",
        '{"\u00e1": "\u00e1"}'.encode(),
        b'"' + b"a" * MAX_STRING + b'"',
    ],
)
def test_good_json_is_read(text: bytes) -> None:
    assert parse(text) is not None


@pytest.mark.parametrize(
    "text",
    [
        b'{"a": 1, "a": 1}',
        b'{"a": {"b": ":", "b": 1}}',
        b'{"a": 1, "\\u0061": 2}',
        b"NaN",
        b"[Infinity]",
        b"1e999",
        b'"\\ud800"',
        b'"\xff"',
        b"[1] 2",
        b"9007199254740993",
        b"99999999999999999999999",
        b"-9007199254740993",
        b"[" * 33 + b"]" * 33,
        b"[" + b"1," * 10_000 + b"1]",
        '"a\u0301"'.encode(),
        b'"a\\u0301"',
        '{"a\u0301": 1}'.encode(),
        '[{"a": ["\u212b"]}]'.encode(),
        b'"' + b"a" * (MAX_STRING + 1) + b'"',
    ],
    ids=lambda text: repr(text[:20]),
)
def test_what_parsers_disagree_about_is_refused(text: bytes) -> None:
    with pytest.raises(Invalid) as caught:
        parse(text)
    assert caught.value.code in {"malformed_json", "invalid_field"}


@given(st.binary(max_size=200))
def test_no_bytes_crash_the_parser(raw: bytes) -> None:
    try:
        parse(raw)
    except Invalid as error:
        assert error.code in {"malformed_json", "invalid_field"}  # noqa: PT017 - either outcome is fine


@pytest.mark.parametrize(
    ("kind", "status"),
    [
        (Invalid, 422),
        (TooLarge, 413),
        (Unauthenticated, 401),
        (Forbidden, 403),
        (NotFound, 404),
        (Conflict, 409),
        (Precondition, 412),
        (Throttled, 429),
        (Unavailable, 503),
        (Failed, 422),
        (Internal, 500),
    ],
)
def test_each_kind_has_one_status(kind: type[ClocheError], status: int) -> None:
    assert status_of(kind("some_code", "What.")) == status


def test_foreign_exceptions_and_our_defects_say_nothing_about_themselves() -> None:
    for error in (RuntimeError("/etc/passwd"), Internal("pepper_missing", "The pepper is missing.")):
        problem = problem_of(error, request_id="r1")
        assert (problem["code"], problem["request_id"]) == ("internal", "r1")
        assert "pepper" not in str(problem)
        assert "passwd" not in str(problem)


def test_extra_members_never_replace_those_of_the_problem() -> None:
    problem = problem_of(Conflict("name_taken", "Taken.", extra={"status": 200, "existing": "/x"}))
    assert (problem["status"], problem["existing"]) == (409, "/x")


def test_only_errors_that_pass_ask_for_a_retry() -> None:
    assert retry_after(Throttled("slow_down", "Slow.", extra={"retry_after": 7})) == 7
    assert retry_after(Unavailable("away", "Away.")) == 1
    assert retry_after(NotFound("gone", "Gone.")) is None


@pytest.mark.parametrize("value", ['"1"', '"0", "1"', "*", None])
def test_if_match_lets_the_seen_state_pass(value: str | None) -> None:
    parse_if_match(value).check(1)


@pytest.mark.parametrize("value", ['"2"', 'W/"1"', '"01"'])
def test_if_match_refuses_another_state_and_weak_tags(value: str) -> None:
    with pytest.raises(Precondition):
        parse_if_match(value).check(1)


def test_a_single_tag_gives_the_expected_number() -> None:
    assert parse_if_match('"12"').seq == 12
    assert parse_if_match('"1", "2"').seq is None
    assert parse_if_match(None).seq is None


@pytest.mark.parametrize(
    ("value", "wait"),
    [
        (None, None),
        ("wait=5", 5),
        ("respond-async", 0),
        ("respond-async, wait=10", 10),
        ("wait=100000", 60),
        ("return=minimal; x=1, WAIT=3", 3),
        ("wait=soon", None),
    ],
)
def test_preferences_are_read_leniently(value: str | None, wait: int | None) -> None:
    assert parse_prefer(value).wait_s == wait


def test_a_request_key_is_of_one_project_and_one_content() -> None:
    key = RequestKey("k", fingerprint_of("POST", "/a", b"", b"{}"))
    assert key.request_id("red") != key.request_id("blue")
    assert "/" not in RequestKey("a/b").request_id("red")
    assert RequestKey().request_id("red") == ""
    key.same(fingerprint_of("POST", "/a", b"", b"{}"))
    with pytest.raises(Invalid, match="Idempotency-Key"):
        key.same(fingerprint_of("POST", "/a", b"", b"{ }"))


def test_positions_are_read_leniently_and_only_our_own() -> None:
    text = format_position("home", [(StreamId("run", "default", f"r{n}"), n) for n in range(20)])
    assert [seq for _, seq in parse_position(text, "home")] == list(range(4, 20))
    assert parse_position(text, "other") == []
    assert parse_position("home:nonsense,run/default/a@2,run/default/b@x", "home") == [
        (StreamId("run", "default", "a"), 2)
    ]


@pytest.mark.looptime
async def test_waiting_for_a_position_ends_after_five_seconds() -> None:
    async def never(_: StreamId, __: int) -> None:
        await asyncio.Event().wait()

    places = [(StreamId("model", "default", "m"), 3)]
    await catch_up(places, {"run"}, never)
    with pytest.raises(Unavailable) as caught:
        await catch_up(places, {"model"}, never)
    assert caught.value.code == "not_caught_up"
    assert asyncio.get_running_loop().time() == pytest.approx(5, abs=0.1)


@given(st.text(max_size=50), st.text(max_size=50))
def test_page_tokens_read_back(sort: str, key: str) -> None:
    try:
        token = encode_token("/things", sort, key)
    except TypeError:  # a lone surrogate is no text
        return
    assert decode_token("/things", token) == (sort, key)
    with pytest.raises(Invalid):
        decode_token("/others", token)


@given(st.text(max_size=60))
def test_no_text_crashes_the_page_token(text: str) -> None:
    try:
        decode_token("/things", text)
    except Invalid as error:
        assert error.code == "invalid_page_token"  # noqa: PT017 - either outcome is fine


@pytest.mark.parametrize(
    ("value", "name"),
    [("LocalHost:8571", "localhost"), ("127.0.0.1", "127.0.0.1"), ("[::1]:80", "[::1]"), ("[::1]", "[::1]")],
)
def test_a_host_header_is_read_without_its_port(value: str, name: str) -> None:
    assert host_name(value) == name


def test_listening_beyond_loopback_needs_tls_or_a_decision() -> None:
    for settings in (HttpSettings(), HttpSettings(host="::1"), HttpSettings(host="0.0.0.0", insecure=True)):  # noqa: S104 - asked for
        check_exposure(settings)
    check_exposure(HttpSettings(host="10.0.0.1", tls_certificate="a", tls_key="b"))
    for settings, code in (
        (HttpSettings(host="0.0.0.0"), "insecure_bind"),  # noqa: S104 - that is what is refused
        (HttpSettings(tls_key="b"), "tls_incomplete"),
    ):
        with pytest.raises(Invalid) as caught:
            check_exposure(settings)
        assert caught.value.code == code
    assert not is_loopback("example.org")


def test_the_policy_takes_hosts_and_origins_from_the_settings() -> None:
    policy = front_policy(HttpSettings(host="::1", hosts=("Cloche.Test",), origins=("https://UI.test",)))
    assert {"localhost", "127.0.0.1", "[::1]", "cloche.test"} <= policy.hosts
    assert policy.origins == {"https://ui.test"}


def test_keys_are_held_to_a_rate_beyond_loopback_or_where_it_was_set() -> None:
    outside = "10.0.0.1"
    assert front_policy(HttpSettings()).requests_per_s == 0
    assert front_policy(HttpSettings(host=outside)).requests_per_s == 50
    assert front_policy(HttpSettings(host=outside, requests_per_s=0)).requests_per_s == 0
    assert front_policy(HttpSettings(requests_per_s=3)).requests_per_s == 3


@pytest.mark.parametrize(
    "accept", [b"", b"*/*", b"text/*;q=0.5", b"a/b, TEXT/PLAIN ;q=0.1", b"image/png,*/*;q=0.1", b","]
)
def test_a_route_gives_what_is_asked_for(accept: bytes) -> None:
    assert accept_error(accept, frozenset({"text/plain", "text/event-stream"})) is None
    assert accept_error(accept, frozenset()) is None


@pytest.mark.parametrize("accept", [b"application/json", b"text", b"text/html, image/*", b"\xff", b"plain/text"])
def test_what_a_route_does_not_give_is_not_acceptable(accept: bytes) -> None:
    refused = accept_error(accept, frozenset({"text/plain"}))
    assert refused is not None
    assert status_of(refused) == 406
