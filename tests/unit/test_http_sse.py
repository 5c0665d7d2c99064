"""Event streams: resuming, heartbeats, and how they end."""

import asyncio
from collections.abc import AsyncIterator

import pytest
from starlette.types import Message

from cloche_shared.errors import NotFound
from cloche_shared.http.exchange import KEY, Exchange
from cloche_shared.http.sse import EventStream, ServerEvent


class Peer:
    """A client of one stream; `leave` ends it from outside."""

    def __init__(self) -> None:
        self.text = ""
        self.ended = False
        self.leave = asyncio.Event()
        self.drain = asyncio.Event()

    async def receive(self) -> Message:
        await self.leave.wait()
        return {"type": "http.disconnect"}

    async def send(self, message: Message) -> None:
        self.text += message.get("body", b"").decode()
        self.ended = message["type"] == "http.response.body" and not message.get("more_body")

    async def read(self, stream: EventStream) -> None:
        exchange = Exchange("r1", "00-" + "a" * 32 + "-" + "b" * 16 + "-00", "", "GET", "/log", drain=self.drain)
        await stream({"type": "http", KEY: exchange}, self.receive, self.send)


async def numbers(count: int, closed: list[str]) -> AsyncIterator[ServerEvent]:
    try:
        for n in range(count):
            yield ServerEvent(f"line {n}\nmore", id=str(n))
    finally:
        closed.append("closed")


async def silence(closed: list[str]) -> AsyncIterator[ServerEvent]:
    try:
        await asyncio.Event().wait()
        yield ServerEvent("never")
    finally:
        closed.append("closed")


async def test_events_carry_ids_and_every_line() -> None:
    peer, closed = Peer(), list[str]()
    await peer.read(EventStream(numbers(2, closed)))
    assert peer.text.startswith("retry: ")
    assert "id: 1\ndata: line 1\ndata: more\n\n" in peer.text
    assert peer.ended
    assert closed == ["closed"]


@pytest.mark.looptime
async def test_a_silent_stream_sends_heartbeats_and_ends_when_the_client_leaves() -> None:
    peer, closed = Peer(), list[str]()
    reading = asyncio.create_task(peer.read(EventStream(silence(closed))))
    await asyncio.sleep(46)
    assert peer.text.count(":\n\n") == 3
    peer.leave.set()
    await reading
    assert closed == ["closed"]
    assert not peer.ended


async def test_a_stream_ends_cleanly_when_the_server_drains() -> None:
    peer, closed = Peer(), list[str]()
    reading = asyncio.create_task(peer.read(EventStream(silence(closed))))
    await asyncio.sleep(0)
    peer.drain.set()
    await reading
    assert peer.ended
    assert closed == ["closed"]


async def test_an_error_in_the_middle_is_the_last_event() -> None:
    async def breaks() -> AsyncIterator[ServerEvent]:
        yield ServerEvent("first")
        raise NotFound("log_gone", "The log is gone.")

    peer = Peer()
    await peer.read(EventStream(breaks()))
    assert "event: error\ndata: {" in peer.text
    assert '"code":"log_gone"' in peer.text
    assert peer.ended


def test_no_value_can_forge_a_field() -> None:
    event = ServerEvent("a\r\nid: 9\rb", id="1\nretry: 0", event="x\r\ny")
    assert event.encode() == b"id: 1retry: 0\nevent: xy\ndata: a\ndata: id: 9\ndata: b\n\n"
