"""The port Http: what a download must be able to rely on."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager

import pytest

from cloche_shared.adapters.http_client import HttpClient
from cloche_shared.errors import Failed, Unavailable

Reply = Callable[[asyncio.StreamWriter, str], Awaitable[None]]


@pytest.fixture
async def client() -> AsyncIterator[HttpClient]:
    client = HttpClient()
    yield client
    await client.close()


@asynccontextmanager
async def server(reply: Reply) -> AsyncIterator[str]:
    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head = await reader.readuntil(b"\r\n\r\n")
        try:
            await reply(writer, head.decode())
            await writer.drain()
        finally:
            writer.close()

    listener = await asyncio.start_server(serve, "127.0.0.1", 0)
    async with listener:
        yield f"http://127.0.0.1:{listener.sockets[0].getsockname()[1]}"


async def plain(writer: asyncio.StreamWriter, head: str) -> None:
    body = head.encode()
    writer.write(b"HTTP/1.1 200 OK\r\nx-kind: plain\r\ncontent-length: %d\r\n\r\n" % len(body) + body)


async def test_an_answer_has_status_headers_and_its_bytes(client: HttpClient) -> None:
    async with server(plain) as url, client.get(f"{url}/file", headers={"x-ask": "yes"}, beside=[url]) as answer:
        body = b"".join([chunk async for chunk in answer.body])
        assert (answer.status, answer.headers["x-kind"]) == (200, "plain")
    assert b"GET /file" in body
    assert b"x-ask: yes" in body.lower()


async def test_refusals_are_answers_and_not_errors(client: HttpClient) -> None:
    async def refuse(writer: asyncio.StreamWriter, _head: str) -> None:
        writer.write(b"HTTP/1.1 401 Unauthorized\r\ncontent-length: 0\r\n\r\n")

    async with server(refuse) as url, client.get(url, beside=[url]) as answer:
        assert answer.status == 401


async def test_redirects_are_followed(client: HttpClient) -> None:
    async with server(plain) as target:

        async def redirect(writer: asyncio.StreamWriter, _head: str) -> None:
            writer.write(b"HTTP/1.1 302 Found\r\nlocation: %s/there\r\ncontent-length: 0\r\n\r\n" % target.encode())

        async with server(redirect) as url, client.get(url, beside=[url]) as answer:
            assert b"GET /there" in b"".join([chunk async for chunk in answer.body])


async def test_bytes_arrive_as_they_are_sent(client: HttpClient) -> None:
    more = asyncio.Event()

    async def slowly(writer: asyncio.StreamWriter, _head: str) -> None:
        writer.write(b"HTTP/1.1 200 OK\r\ncontent-length: 6\r\n\r\none")
        await writer.drain()
        await more.wait()
        writer.write(b"two")

    async with server(slowly) as url, client.get(url, beside=[url]) as answer:
        chunks = aiter(answer.body)
        first = await anext(chunks)
        more.set()
        assert first + b"".join([chunk async for chunk in chunks]) == b"onetwo"


async def test_nobody_there_is_unreachable(client: HttpClient) -> None:
    async with server(plain) as url:
        pass
    with pytest.raises(Unavailable) as refused:
        async with client.get(url, beside=[url]):
            pass
    assert refused.value.code == "unreachable"


async def test_silence_is_unreachable_after_its_time(client: HttpClient) -> None:
    hold = asyncio.Event()

    async def say_nothing(_writer: asyncio.StreamWriter, _head: str) -> None:
        await hold.wait()

    async with server(say_nothing) as url:
        with pytest.raises(Unavailable) as refused:
            async with client.get(url, timeout=0.1, beside=[url]):
                pass
        hold.set()
    assert refused.value.code == "unreachable"


async def test_a_body_that_is_cut_is_unreachable(client: HttpClient) -> None:
    async def cut(writer: asyncio.StreamWriter, _head: str) -> None:
        writer.write(b"HTTP/1.1 200 OK\r\ncontent-length: 100\r\n\r\nonly this")

    async def download(url: str) -> bytes:
        async with client.get(url, beside=[url]) as answer:
            return b"".join([chunk async for chunk in answer.body])

    async with server(cut) as url:
        with pytest.raises(Unavailable) as refused:
            await download(url)
    assert refused.value.code == "unreachable"


# --- where it connects to


async def refused(client: HttpClient, url: str, *beside: str) -> str:
    with pytest.raises(Failed) as caught:
        async with client.get(url, beside=beside):
            pass
    return caught.value.code


@pytest.mark.parametrize(
    "host",
    ["127.0.0.1", "localhost", "2130706433", "0x7f.1", "017700000001", "[::ffff:127.0.0.1]", "127.1", "0.0.0.0"],  # noqa: S104 - refused
)
async def test_a_host_of_the_own_network_is_not_asked(client: HttpClient, host: str) -> None:
    async with server(plain) as url:
        assert await refused(client, url.replace("127.0.0.1", host)) == "url_not_allowed"
        assert await refused(client, url, "https://203.0.113.7.invalid/simple") == "url_not_allowed"


@pytest.mark.parametrize("host", ["169.254.169.254", "[fe80::1]", "[64:ff9b::a9fe:a9fe]", "0.0.0.0", "[fd00:ec2::254]"])  # noqa: S104 - refused
async def test_where_machines_find_credentials_nobody_is_sent(client: HttpClient, host: str) -> None:
    async with server(plain) as url:
        assert await refused(client, f"http://{host}/latest", url) == "url_not_allowed"
        assert await refused(client, url, f"http://{host}/simple") == "url_not_allowed"

        async def redirect(writer: asyncio.StreamWriter, _head: str) -> None:
            writer.write(b"HTTP/1.1 302 Found\r\nlocation: http://%s/x\r\ncontent-length: 0\r\n\r\n" % host.encode())

        async with server(redirect) as other:
            assert await refused(client, other, other) == "url_not_allowed"


async def test_a_redirect_leads_no_stranger_into_the_own_network(client: HttpClient) -> None:
    async with server(plain) as url, client.get(url, beside=[url]) as answer:
        assert answer.status == 200
        # a connection that one caller opened there is none for another
        assert await refused(client, url) == "url_not_allowed"


async def test_a_name_without_an_address_is_unreachable(client: HttpClient) -> None:
    with pytest.raises(Unavailable):
        async with client.get("https://nobody.invalid/"):
            pass
