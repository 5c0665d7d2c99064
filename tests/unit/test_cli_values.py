"""Values as they are typed on the command line."""

import pytest

from cloche._errors import Invalid
from cloche.cli.events import full_types
from cloche.cli.launch import plain_form
from cloche.cli.parsing import Gpus, parse_duration, parse_gpus, parse_pairs, parse_reference, parse_size

MIB = 1024 * 1024


@pytest.mark.parametrize(
    ("text", "expected"),
    [("0", 0), ("1024", 1024), ("512M", 512 * MIB), ("512mb", 512 * MIB), ("2GiB", 2048 * MIB), ("1.5g", 1536 * MIB)],
)
def test_a_size_is_bytes_or_a_number_with_a_unit(text: str, expected: float) -> None:
    assert parse_size(text) == expected


@pytest.mark.parametrize("text", ["", "GiB", "-1", "2 apples", "1e9"])
def test_what_is_not_a_size_is_refused(text: str) -> None:
    with pytest.raises(Invalid) as caught:
        parse_size(text)
    assert caught.value.code == "invalid_size"


@pytest.mark.parametrize(
    ("text", "expected"),
    [("90", 90.0), ("90s", 90.0), ("15m", 900.0), ("2h", 7200.0), ("1h30m", 5400.0), ("500ms", 0.5), ("1.5h", 5400.0)],
)
def test_a_duration_is_seconds_or_numbers_with_units(text: str, expected: float) -> None:
    assert parse_duration(text) == expected


@pytest.mark.parametrize("text", ["", "soon", "1x", "5m later", "-3s"])
def test_what_is_not_a_duration_is_refused(text: str) -> None:
    with pytest.raises(Invalid) as caught:
        parse_duration(text)
    assert caught.value.code == "invalid_duration"


def test_the_last_of_two_pairs_with_one_key_wins_and_values_keep_their_equals_signs() -> None:
    assert parse_pairs(["A=1", "B=x=y", "A=2", "C="], "--tag") == {"A": "2", "B": "x=y", "C": ""}


@pytest.mark.parametrize("text", ["A", "=1", ""])
def test_what_is_not_a_pair_is_refused(text: str) -> None:
    with pytest.raises(Invalid) as caught:
        parse_pairs([text], "--tag")
    assert caught.value.code == "invalid_pair"


def test_a_variable_must_have_a_name_that_the_environment_takes() -> None:
    assert parse_pairs(["a.b=1"], "--tag") == {"a.b": "1"}
    with pytest.raises(Invalid):
        parse_pairs(["a.b=1"], "--var", variables=True)


def test_gpus_are_a_number_and_perhaps_a_kind() -> None:
    assert parse_gpus("") == Gpus(0)
    assert parse_gpus("2") == Gpus(2)
    assert parse_gpus("1:H200") == Gpus(1, "H200")


@pytest.mark.parametrize("text", ["many", "1:", ":H200", "-1"])
def test_what_is_not_a_number_of_gpus_is_refused(text: str) -> None:
    with pytest.raises(Invalid) as caught:
        parse_gpus(text)
    assert caught.value.code == "invalid_gpus"


@pytest.mark.parametrize("text", ["iris", "iris:3", "iris@prod", "a.b-c_d:12"])
def test_a_reference_reads_back_as_it_was_written(text: str) -> None:
    assert str(parse_reference(text)) == text


def test_latest_is_what_a_bare_name_means() -> None:
    assert parse_reference("iris:latest") == parse_reference("iris@latest") == parse_reference("iris")


@pytest.mark.parametrize("text", ["", ":1", "iris:", "iris:new", "iris@", "../x", "a b", "-x"])
def test_what_names_nothing_is_refused(text: str) -> None:
    with pytest.raises(Invalid) as caught:
        parse_reference(text)
    assert caught.value.code == "invalid_reference"


def test_event_types_may_be_given_by_their_short_names() -> None:
    assert full_types(["RunCompleted", "cloche.RunFailed.v2"]) == ["cloche.RunCompleted.v1", "cloche.RunFailed.v2"]


def test_a_plain_up_is_understood_without_the_parser() -> None:
    wanted = plain_form("up", ["-d", "--home", "there", "--port", "0", "--json"])
    assert wanted is not None
    assert wanted.values == {"home": "there", "port": "0"}
    assert wanted.flags == {"detach", "json"}


@pytest.mark.parametrize(
    ("command", "arguments"),
    [
        ("up", []),
        ("up", ["-d", "--help"]),
        ("up", ["-d", "--port", "many"]),
        ("up", ["-d", "--port"]),
        ("up", ["-d", "extra"]),
        ("up", ["-d", "--home=x"]),
        ("status", ["-d"]),
        ("status", ["--port", "1"]),
        ("status", ["--url", "http://x"]),
    ],
)
def test_everything_else_is_left_to_the_parser(command: str, arguments: list[str]) -> None:
    assert plain_form(command, arguments) is None
