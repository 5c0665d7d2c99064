"""What may come over the executor's socket, whoever sends it: it is understood, or refused as a frame."""

import asyncio
import json
from dataclasses import asdict
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cloche_shared.adapters.socket_executor.frames import (
    ANSWER_BYTES,
    PIECE_BYTES,
    Document,
    FrameError,
    Piece,
    packed,
    packed_piece,
    read_frame,
)
from cloche_shared.adapters.socket_executor.messages import (
    DETAIL,
    PAGE,
    Present,
    error_from,
    error_members,
    present_members,
    spec_from,
    spec_members,
)
from cloche_shared.errors import Conflict, Precondition
from cloche_shared.ports.executor import Exit, Limits, ProcessSpec

SPEC = ProcessSpec(
    id="run-1",
    owner="runner",
    argv=["/bin/true", "ä"],
    cwd=Path("/work"),
    env={"A": "b=c\n"},
    limits=Limits(memory=1, deadline=2.5),
    redact=["secret"],
    writes=[Path("/tmp/x")],  # noqa: S108 - a path like any other
)
EXIT = Exit("exited", code=3, log_bytes=5, wall_seconds=0.5, detail="why")
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=10), inner, max_size=4),
    max_leaves=12,
)


async def read(data: bytes) -> Document | Piece | None:
    reader = asyncio.StreamReader()
    reader.feed_data(data)
    reader.feed_eof()
    return await read_frame(reader, ANSWER_BYTES)


def changed(members: dict[str, object]) -> st.SearchStrategy[dict[str, object]]:
    """Return variants of a message in which some members are anything."""
    more = st.fixed_dictionaries({}, optional=dict.fromkeys(members, JSON))
    return more.map(lambda found: {**members, **found})


async def test_what_is_packed_is_read() -> None:
    found = await read(packed({"n": 7, "text": "ä\ud800"}))
    assert isinstance(found, Document)
    assert (found.whole("n"), found.text("text", 10)) == (7, "ä?")
    piece = await read(packed_piece(7, 2**40, b"data"))
    assert isinstance(piece, Piece)
    assert (piece.number, piece.offset, piece.data) == (7, 2**40, b"data")
    assert await read(b"") is None


@pytest.mark.parametrize("size", [0, PIECE_BYTES + 1])
async def test_a_piece_has_bytes_but_not_too_many(size: int) -> None:
    with pytest.raises(FrameError):
        await read(packed_piece(1, 0, b"x" * size))


def test_specs_processes_and_errors_travel_whole() -> None:
    assert spec_from(Document(json.loads(json.dumps(spec_members(SPEC)))), "runner") == SPEC
    present = Present(Document(present_members("run-1", 7, began=True, ended=EXIT)), 100)
    assert (present.id, present.pid, present.began, present.exit) == ("run-1", 7, True, EXIT)
    error = error_from(Document(error_members(Precondition("some_code", "What.", why="Why.", todo="Do."))))
    assert (type(error), error.code, str(error)) == (Conflict, "some_code", "What. Why. Do.")


async def test_the_largest_page_fits_into_a_frame() -> None:
    ended = Exit("lost", detail="\U0001f600" * DETAIL * 2)
    page = [present_members("x" * 128, 2**31, began=True, ended=ended) for _ in range(PAGE)]
    assert await read(packed({"n": 2**53, "ok": {"processes": page, "more": True}})) is not None


@given(st.binary(max_size=60))
@settings(max_examples=100, deadline=None)
def test_any_bytes_are_a_frame_or_refused(data: bytes) -> None:
    for one in (data, len(data).to_bytes(4, "big") + data):
        try:
            asyncio.run(read(one))
        except FrameError:
            continue


@given(changed(spec_members(SPEC)))
@settings(max_examples=100, deadline=None)
def test_any_spec_is_one_or_refused(members: dict[str, object]) -> None:
    try:
        found = spec_from(Document(members), "runner")
    except FrameError:
        return
    assert found.argv
    assert found.cwd.is_absolute()
    assert all(one.is_absolute() for one in found.writes)


@given(changed(present_members("run-1", 7, began=True, ended=EXIT)), changed(asdict(EXIT)))
@settings(max_examples=100, deadline=None)
def test_any_news_are_some_or_refused(members: dict[str, object], ended: dict[str, object]) -> None:
    for one in (members, {**members, "exit": ended}):
        try:
            found = Present(Document(one), 100)
        except FrameError:
            continue
        assert found.exit is None or found.exit.log_bytes <= 100


@given(changed(error_members(Conflict("some_code", "What."))))
@settings(max_examples=100, deadline=None)
def test_any_error_is_one_of_ours_or_refused(members: dict[str, object]) -> None:
    try:
        found = error_from(Document(members))
    except FrameError:
        return
    assert str(found).isprintable()
