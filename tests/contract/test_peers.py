"""The port Peers: asking another replica, over real sockets and in memory."""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager

import pytest
import uvicorn
from starlette.types import ASGIApp, Receive, Scope, Send

from cloche_shared.adapters.memory_peers import MemoryPeers
from cloche_shared.adapters.peer_client import PeerClient
from cloche_shared.errors import Unavailable
from cloche_shared.ports.platform import PeerRequest, Peers

Reaching = Callable[[ASGIApp], AbstractAsyncContextManager[tuple[Peers, str]]]


async def _start(send: Send, status: int = 200, *fields: tuple[bytes, bytes]) -> None:
    await send({"type": "http.response.start", "status": status, "headers": list(fields)})


async def echo(scope: Scope, receive: Receive, send: Send) -> None:
    body, more = b"", True
    while more:
        message = await receive()
        body, more = body + message.get("body", b""), message.get("more_body", False)
    asked = dict(scope["headers"])
    await _start(send, 203, (b"x-twice", b"1"), (b"x-twice", b"2"))
    line = f"{scope['method']} {scope['path']}?{scope['query_string'].decode()} {asked[b'x-ask'].decode()} "
    await send({"type": "http.response.body", "body": line.encode() + body})


class Slow:
    """Sends one chunk and waits; notices when the caller leaves."""

    def __init__(self) -> None:
        self.go_on = asyncio.Event()
        self.left = asyncio.Event()

    async def __call__(self, _scope: Scope, receive: Receive, send: Send) -> None:
        await receive()
        await _start(send)
        await send({"type": "http.response.body", "body": b"one", "more_body": True})
        leaving = asyncio.create_task(receive())
        waiting = asyncio.create_task(self.go_on.wait())
        await asyncio.wait([leaving, waiting], return_when=asyncio.FIRST_COMPLETED)
        if leaving.done():
            self.left.set()
        waiting.cancel()
        leaving.cancel()
        await send({"type": "http.response.body", "body": b"two"})


async def redirect(_scope: Scope, receive: Receive, send: Send) -> None:
    await receive()
    await _start(send, 307, (b"location", b"/elsewhere"))
    await send({"type": "http.response.body", "body": b""})


@asynccontextmanager
async def _served(app: ASGIApp) -> AsyncIterator[str]:
    config = uvicorn.Config(app, port=0, host="127.0.0.1", log_config=None, lifespan="off", ws="none")
    server = uvicorn.Server(config)
    config.load()
    server.lifespan = config.lifespan_class(config)
    await server.startup()
    try:
        yield f"http://127.0.0.1:{server.servers[0].sockets[0].getsockname()[1]}"
    finally:
        server.force_exit = True
        await server.shutdown()


@asynccontextmanager
async def _over_sockets(app: ASGIApp) -> AsyncIterator[tuple[Peers, str]]:
    client = PeerClient()
    try:
        async with _served(app) as address:
            yield client, address
            await client.close()
    finally:
        await client.close()


@asynccontextmanager
async def _in_memory(app: ASGIApp) -> AsyncIterator[tuple[Peers, str]]:
    peers = MemoryPeers()
    peers.apps["http://replica-2:8571"] = app
    yield peers, "http://replica-2:8571"


@pytest.fixture(params=[_over_sockets, _in_memory], ids=["sockets", "memory"])
def reaching(request: pytest.FixtureRequest) -> Reaching:
    return request.param  # type: ignore[no-any-return]


async def test_a_request_arrives_whole_and_so_does_the_answer(reaching: Reaching) -> None:
    async def chunks() -> AsyncIterator[bytes]:
        yield b"a"
        yield b"b"

    async with reaching(echo) as (peers, address):
        asked = PeerRequest("POST", "/runs/x%20y?offset=3&f=1", [(b"x-ask", b"yes")], chunks())
        async with peers.ask(address, asked) as answer:
            body = b"".join([chunk async for chunk in answer.body])
            assert answer.status == 203
            assert [value for name, value in answer.fields if name == b"x-twice"] == [b"1", b"2"]
    assert body == b"POST /runs/x y?offset=3&f=1 yes ab"


async def test_bytes_arrive_as_they_are_sent_and_leaving_is_noticed(reaching: Reaching) -> None:
    slow = Slow()
    async with reaching(slow) as (peers, address):
        async with peers.ask(address, PeerRequest("GET", "/log")) as answer:
            assert await anext(aiter(answer.body)) == b"one"
        async with asyncio.timeout(5):
            await slow.left.wait()


async def test_a_stream_ends_with_the_answer(reaching: Reaching) -> None:
    slow = Slow()
    async with reaching(slow) as (peers, address), peers.ask(address, PeerRequest("GET", "/log")) as answer:
        chunks = aiter(answer.body)
        assert await anext(chunks) == b"one"
        slow.go_on.set()
        assert [chunk async for chunk in chunks] == [b"two"]


async def test_redirects_are_answers(reaching: Reaching) -> None:
    async with reaching(redirect) as (peers, address), peers.ask(address, PeerRequest("GET", "/")) as answer:
        assert answer.status == 307


async def test_a_replica_that_is_down_is_said_to_be_unreachable(reaching: Reaching) -> None:
    async with reaching(echo) as (peers, _):
        with pytest.raises(Unavailable) as caught:
            async with peers.ask("http://127.0.0.1:9", PeerRequest("GET", "/")):
                pass
    assert caught.value.code == "peer_unreachable"
