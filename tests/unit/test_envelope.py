"""Envelopes: what is written reads back, in both modes; what a stranger writes is not believed."""

from dataclasses import replace

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from cloche_shared.contracts.envelope import STRUCTURED, Event, commanded_project, from_message
from cloche_shared.errors import Invalid

texts = st.text(st.characters(exclude_categories=("Cs", "Cc")), max_size=40)
words = texts.filter(bool)
values = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**53), 2**53) | st.floats(allow_nan=False, allow_infinity=False) | texts,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(texts, inner, max_size=3),
    max_leaves=10,
)
events = st.builds(
    Event,
    id=words,
    type=words,
    source=words,
    subject=texts,
    sequence=st.integers(0, 10**12),
    project=texts,
    time=texts,
    correlation=words,
    data=st.dictionaries(texts, values, max_size=4),
    topic=st.just("cloche.runs"),
    key=texts,
    causation=texts,
    traceparent=texts,
    actor=texts,
)


@given(events)
def test_binary_mode_reads_back(event: Event) -> None:
    assert from_message(event.topic, event.key.encode(), dict(event.headers()), event.value()) == event


@given(events)
def test_structured_mode_reads_back(event: Event) -> None:
    headers = {"content-type": f"{STRUCTURED}; charset=utf-8".encode()}
    assert from_message(event.topic, event.key.encode(), headers, orjson.dumps(event.structured())) == event


def test_an_attribute_without_a_value_is_missing_and_named() -> None:
    sent = {"ce_specversion": b"1.0", "ce_id": None, "ce_source": b"/s", "ce_type": b"cloche.CancelRun.v1"}
    with pytest.raises(Invalid) as refused:
        from_message("cloche.commands.default", b"k", sent, b"{}")
    assert (refused.value.code, refused.value.why) == ("malformed_event", "Missing: id.")


@given(st.binary(max_size=200), st.dictionaries(words, st.none() | st.binary(max_size=20), max_size=4), st.booleans())
def test_any_bytes_are_read_or_refused_with_a_reason(
    value: bytes, headers: dict[str, bytes | None], structured: bool
) -> None:
    sent = {**headers, "content-type": STRUCTURED.encode()} if structured else headers
    reason = "read"
    try:
        from_message("cloche.commands.default", None, sent, value)
    except Invalid as error:
        reason = error.why if error.code == "malformed_event" else ""
    assert reason


printable = st.text(st.characters(codec="utf-8", exclude_categories=("C", "Z")), min_size=1, max_size=40)


@given(events, st.lists(printable, min_size=6, max_size=6))
def test_a_commands_project_is_its_topics_and_its_actor_nobody(any_event: Event, said: list[str]) -> None:
    names = ("id", "type", "source", "subject", "time", "correlation")
    event = replace(any_event, **dict(zip(names, said, strict=True)))
    read = from_message("cloche.commands.team", b"k", dict(event.headers()), event.value())
    assert (read.project, read.actor, read.sequence, read.causation) == ("team", "", 0, "")
    assert (read.id, read.source, read.data) == (event.id, event.source, event.data)


@pytest.mark.parametrize(
    "attributes",
    [{"id": "x" * 257}, {"source": "a\nb"}, {"specversion": "0.3"}, {"datacontenttype": "text/xml"}, {"subject": {}}],
)
def test_attributes_beyond_their_limits_are_refused(attributes: dict[str, object]) -> None:
    whole = {"specversion": "1.0", "id": "1", "source": "/s", "type": "t", "data": {}, **attributes}
    with pytest.raises(Invalid):
        from_message("cloche.commands.team", b"k", {"content-type": STRUCTURED.encode()}, orjson.dumps(whole))


def test_only_topics_of_commands_name_a_project() -> None:
    assert commanded_project("cloche.commands.team-a") == "team-a"
    assert [commanded_project(one) for one in ("cloche.runs", "cloche.commands.", "cloche.commands./x")] == [None] * 3
