"""Frames survive any chopping of the stream, and what is not a frame is refused."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cloche_runtime import scoring_frames as frames

FRAMES = st.lists(st.tuples(st.integers(0, 255), st.integers(0, 2**32 - 1), st.binary(max_size=200)), max_size=8)


@given(FRAMES, st.lists(st.integers(1, 40), min_size=1, max_size=60))
def test_frames_come_out_as_they_went_in_however_the_stream_is_cut(
    sent: list[tuple[int, int, bytes]], cuts: list[int]
) -> None:
    stream = b"".join(frames.pack(*frame) for frame in sent)
    reader, got, offset, turn = frames.FrameReader(), [], 0, 0
    while offset < len(stream):
        size = cuts[turn % len(cuts)]
        got += reader.feed(stream[offset : offset + size])
        offset, turn = offset + size, turn + 1
    assert got == sent


@given(st.floats(0, 1e9), st.binary(max_size=100), st.binary(max_size=300), st.binary(max_size=300))
def test_requests_round_trip(deadline: float, request_id: bytes, meta: bytes, body: bytes) -> None:
    ((kind, number, payload),) = frames.FrameReader().feed(frames.pack_request(7, deadline, request_id, meta, body))
    assert (kind, number) == (frames.REQUEST, 7)
    assert frames.unpack_request(payload) == (deadline, request_id, meta, body)


@given(st.integers(100, 599), st.integers(0, 15), st.floats(0, 1e9), st.binary(max_size=300), st.binary(max_size=300))
def test_responses_round_trip(status: int, flags: int, ms: float, headers: bytes, body: bytes) -> None:
    ((kind, number, payload),) = frames.FrameReader().feed(frames.pack_response(9, status, flags, ms, headers, body))
    assert (kind, number) == (frames.RESPONSE, 9)
    assert frames.unpack_response(payload) == (status, flags, ms, headers, body)


@given(st.binary(max_size=30))
def test_arbitrary_payloads_never_raise_anything_but_a_frame_error(payload: bytes) -> None:
    for unpack in (frames.unpack_request, frames.unpack_response):
        try:
            unpack(payload)
        except frames.FrameError:
            continue


def test_a_frame_over_the_limit_is_refused_before_it_is_read() -> None:
    with pytest.raises(frames.FrameError):
        frames.FrameReader(limit=10).feed(frames.pack(1, 1, b"x" * 11)[: frames.HEAD_BYTES])
