"""Refusals while a body is on its way: it is taken in before the answer, and the connection lives."""

import asyncio

import pytest

from tests.integration.test_http_limits import Line, answer_of, line_to, serving

REFUSED = b"POST /api/v1/runs HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
"""Nobody says who asks."""


async def head_of(line: Line, seconds: float = 10) -> bytes:
    async with asyncio.timeout(seconds):
        return await line[0].readuntil(b"\r\n\r\n")


async def test_an_answer_does_not_overtake_a_small_body() -> None:
    async with serving() as server, line_to(server) as line:
        line[1].write(REFUSED + b"Content-Length: 4\r\n\r\n")
        early = asyncio.create_task(head_of(line))
        await asyncio.sleep(0.2)
        assert not early.done()
        line[1].write(b"nu")
        await asyncio.sleep(0.1)
        assert not early.done()
        line[1].write(b"ll")
        await refused_and_alive(line, await early)


async def refused_and_alive(line: Line, head: bytes) -> None:
    assert head.startswith(b"HTTP/1.1 401 ")
    length = int(head.lower().partition(b"content-length: ")[2].partition(b"\r")[0])
    await line[0].readexactly(length)
    assert (await answer_of(line)).startswith(b"HTTP/1.1 200 ")


async def test_an_answer_overtakes_neither_a_long_body_nor_one_without_a_length() -> None:
    piece = b" " * (1 << 19)
    async with serving() as server, line_to(server) as line:
        line[1].write(REFUSED + b"Content-Length: %d\r\n\r\n" % (4 * len(piece)))
        for _ in range(4):
            line[1].write(piece)
            await line[1].drain()
        await refused_and_alive(line, await head_of(line))
        line[1].write(REFUSED + b"Transfer-Encoding: chunked\r\n\r\n")
        for _ in range(4):
            line[1].write(b"%x\r\n%b\r\n" % (len(piece), piece))
            await line[1].drain()
        line[1].write(b"0\r\n\r\n")
        await refused_and_alive(line, await head_of(line))


@pytest.mark.parametrize("field", [b"Content-Length: 8388609", b"Content-Length: 4\r\nExpect: 100-continue"])
async def test_nobody_waits_for_a_large_body_or_for_a_client_that_waits(field: bytes) -> None:
    async with serving() as server, line_to(server) as line:
        line[1].write(REFUSED + field + b"\r\n\r\n")
        assert (await head_of(line)).startswith(b"HTTP/1.1 401 ")


async def test_a_small_body_that_does_not_come_is_not_waited_for_long() -> None:
    async with serving(head_s=30) as server, line_to(server) as line:
        line[1].write(REFUSED + b"Content-Length: 4\r\n\r\nn")
        assert (await head_of(line)).startswith(b"HTTP/1.1 401 ")
