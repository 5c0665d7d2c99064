"""What one connection may cost: slow heads, endless heads, too many connections, texts that are no HTTP."""

import asyncio
import json
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress

import pytest

from cloche_shared.adapters.http_server import Server, serve
from cloche_shared.settings import HttpSettings
from tests.integration.test_http_server import small_app

Line = tuple[asyncio.StreamReader, asyncio.StreamWriter]
GOOD = b"GET /livez HTTP/1.1\r\nHost: localhost\r\n\r\n"


@asynccontextmanager
async def serving(**changes: object) -> AsyncIterator[Server]:
    settings = HttpSettings.model_validate({"port": 0, "drain_s": 1, "head_s": 1, **changes})
    async with serve(small_app(settings), settings) as server:
        yield server


@asynccontextmanager
async def line_to(server: Server) -> AsyncIterator[Line]:
    reader, writer = await asyncio.open_connection("127.0.0.1", server.port)
    try:
        yield reader, writer
    finally:
        writer.transport.abort()


async def code_of(reader: asyncio.StreamReader) -> tuple[str, str]:
    """Return the status line and the problem's code of an answer that ends its connection."""
    async with asyncio.timeout(10):
        head, _, body = (await reader.read()).partition(b"\r\n\r\n")
    assert b"application/problem+json" in head
    assert b"connection: close" in head
    return head.splitlines()[0].decode(), json.loads(body)["code"]


async def answer_of(line: Line) -> bytes:
    reader, writer = line
    writer.write(GOOD)
    head = await reader.readuntil(b"\r\n\r\n")
    length = int(head.lower().partition(b"content-length: ")[2].partition(b"\r")[0])
    await reader.readexactly(length)
    return head


@pytest.mark.parametrize("first", [b"", b"GET /livez HT", b"GET /livez HTTP/1.1\r\nHost: localhost\r\nX: "])
async def test_a_head_that_does_not_come_whole_is_given_up(first: bytes) -> None:
    async with serving() as server, line_to(server) as (reader, writer):
        writer.write(first)
        assert await code_of(reader) == ("HTTP/1.1 408 Request Timeout", "slow_head")


@pytest.mark.parametrize("piece", [b"X-More: 1\r\n", b"\r\n"])
async def test_a_connection_that_drips_is_given_up(piece: bytes) -> None:
    async with serving() as server, line_to(server) as line:
        await answer_of(line)
        line[1].write(b"" if piece == b"\r\n" else b"GET /livez HTTP/1.1\r\nHost: localhost\r\n")
        dripping = asyncio.create_task(drip(line[1], piece))
        async with asyncio.timeout(10):
            with suppress(ConnectionError):
                assert b" 200 " not in await line[0].read()
        dripping.cancel()


async def drip(writer: asyncio.StreamWriter, piece: bytes) -> None:
    while not writer.is_closing():
        writer.write(piece)
        await asyncio.sleep(0.1)


async def test_a_connection_that_rests_between_requests_is_kept() -> None:
    async with serving() as server, line_to(server) as line:
        await answer_of(line)
        await asyncio.sleep(3.2)
        assert b" 200 " in await answer_of(line)


@pytest.mark.parametrize(
    "start",
    [
        b"GET /livez HTTP/1.1\r\nHost: localhost\r\nX: ",
        b"GET /",
        b"POST /livez HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n\r\n5;x=",
        b"POST /livez HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n\r\n0\r\nX: ",
    ],
    ids=["header", "path", "chunk extension", "trailer"],
)
async def test_a_head_without_an_end_is_cut_off(start: bytes) -> None:
    async with serving(head_s=600) as server, line_to(server) as (_, writer):
        writer.write(start)
        sent = await flood(writer)
    assert sent < 16 << 20
    async with serving() as server, line_to(server) as line:
        assert b" 200 " in await answer_of(line)


async def flood(writer: asyncio.StreamWriter) -> int:
    """Send until the other end has enough, at most 64 MiB; return how many bytes that took."""
    sent = 0
    with suppress(ConnectionError):
        while sent < 64 << 20 and not writer.is_closing():
            writer.write(b"a" * 65536)
            sent += 65536
            async with asyncio.timeout(5):
                await writer.drain()
            await asyncio.sleep(0)
    return sent


async def test_a_large_head_is_told_so() -> None:
    async with serving(head_s=600) as server, line_to(server) as (reader, writer):
        writer.write(b"GET /livez HTTP/1.1\r\nHost: localhost\r\n")
        for _ in range(66):
            await asyncio.sleep(0.002)
            writer.write(b"X: " + b"a" * 990 + b"\r\n")
        assert await code_of(reader) == ("HTTP/1.1 431 Request Header Fields Too Large", "large_head")


async def test_an_address_has_so_many_connections_and_gets_them_back() -> None:
    async with serving(connections_per_address=2) as server:
        async with line_to(server) as one, line_to(server) as two:
            for line in (one, two):
                assert b" 200 " in await answer_of(line)
            async with line_to(server) as (reader, _):
                assert await code_of(reader) == ("HTTP/1.1 429 Too Many Requests", "too_many_connections")
            with socket.create_connection(("127.0.0.1", server.port), source_address=("127.9.9.9", 0)) as other:
                other.setblocking(False)
                await asyncio.get_running_loop().sock_sendall(other, GOOD)
                assert b" 200 " in await asyncio.get_running_loop().sock_recv(other, 65536)
        await asyncio.sleep(0.05)
        async with line_to(server) as line:
            assert b" 200 " in await answer_of(line)


@pytest.mark.parametrize("text", [b"GARBAGE\r\n\r\n", b"GET / HTTP/9.9\r\n\r\n", b"\x16\x03\x01\x02\x00\x01\x00"])
async def test_what_is_no_http_is_a_problem_too(text: bytes) -> None:
    async with serving() as server, line_to(server) as (reader, writer):
        writer.write(text)
        assert await code_of(reader) == ("HTTP/1.1 400 Bad Request", "bad_request")
