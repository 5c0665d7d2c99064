"""Any replica answers: what is forwarded, with which fields, and when a replica answers itself."""

import asyncio

import pytest
from starlette.requests import Request
from starlette.types import Message, Receive, Scope, Send

from cloche_shared.adapters.memory_leases import MemoryLeases
from cloche_shared.adapters.memory_peers import MemoryPeers
from cloche_shared.adapters.system_clock import MemoryClock
from cloche_shared.errors import Unavailable
from cloche_shared.http.elsewhere import Elsewhere
from cloche_shared.http.exchange import KEY, Exchange
from cloche_shared.ports.journal import Lease

THERE = "http://runner-2:8571"


class Holder:
    """The replica that has it: remembers what it was asked."""

    def __init__(self, status: int = 200) -> None:
        self.scopes: list[Scope] = []
        self.status = status

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        await receive()
        self.scopes.append(scope)
        fields = [(b"content-type", b"text/plain"), (b"x-content-type-options", b"nosniff"), (b"x-request-id", b"r")]
        await send({"type": "http.response.start", "status": self.status, "headers": fields})
        await send({"type": "http.response.body", "body": b"from there"})


@pytest.fixture
def holder() -> Holder:
    return Holder()


@pytest.fixture
async def elsewhere(holder: Holder) -> Elsewhere:
    peers, leases = MemoryPeers(), MemoryLeases()
    peers.apps[THERE] = holder
    await leases.put(Lease("node-2", 1, 30.0, THERE))
    await leases.put(Lease("node-1", 1, 30.0, "http://runner-1:8571"))
    await leases.put(Lease("node-3", 1, 30.0, "http://runner-3:8571"))
    return Elsewhere(peers, leases, MemoryClock(), "runner-1", "http://runner-1:8571")


def request(*fields: tuple[bytes, bytes]) -> Request:
    exchange = Exchange("req-1", f"00-{'a' * 32}-{'b' * 16}-01", "192.0.2.1", "GET", "/api/v1/runs/r/log")
    scope: Scope = {
        "type": "http",
        "method": "GET",
        "path": "/api/v1/runs/r/log",
        "raw_path": b"/api/v1/runs/r/log",
        "query_string": b"follow=true",
        "headers": [(b"host", b"gateway"), (b"authorization", b"Bearer t"), (b"connection", b"close"), *fields],
        KEY: exchange,
    }
    return Request(scope)


async def answered(elsewhere: Elsewhere, asked: Request, holder: str = "node-2") -> list[Message]:
    response = await elsewhere.answer(asked, holder)
    assert response is not None
    sent: list[Message] = []

    async def receive() -> Message:
        await asyncio.sleep(3600)
        return {"type": "http.disconnect"}

    async def send(message: Message) -> None:
        sent.append(message)

    await response(asked.scope, receive, send)
    return sent


async def test_the_holder_answers_with_the_callers_credential(elsewhere: Elsewhere, holder: Holder) -> None:
    sent = await answered(elsewhere, request())
    assert b"".join(message.get("body", b"") for message in sent) == b"from there"
    asked = dict(holder.scopes[0]["headers"])
    assert asked[b"authorization"] == b"Bearer t"
    assert asked[b"cloche-forwarded"] == b"runner-1"
    assert asked[b"x-request-id"] == b"req-1"
    assert asked[b"host"] == b"runner-2:8571"
    assert b"connection" not in asked
    assert (holder.scopes[0]["path"], holder.scopes[0]["query_string"]) == ("/api/v1/runs/r/log", b"follow=true")


async def test_the_holder_hears_the_callers_address_and_not_what_the_caller_says_of_it(
    elsewhere: Elsewhere, holder: Holder
) -> None:
    asked = request((b"x-forwarded-for", b"127.0.0.1"))
    asked.scope["client"] = ("192.0.2.1", 4711)
    await answered(elsewhere, asked)
    [chunk async for chunk in elsewhere.chunks(asked.scope, "node-2", "/api/v1/runs/r/log")]
    for scope in holder.scopes:
        assert [value for name, value in scope["headers"] if name == b"x-forwarded-for"] == [b"192.0.2.1"]


async def test_fields_that_the_front_adds_are_not_sent_twice(elsewhere: Elsewhere) -> None:
    sent = await answered(elsewhere, request())
    assert sent[0]["headers"] == [(b"content-type", b"text/plain")]


async def test_a_forwarded_request_goes_no_further(elsewhere: Elsewhere) -> None:
    assert await elsewhere.answer(request((b"cloche-forwarded", b"runner-3")), "node-2") is None


@pytest.mark.parametrize("holder_name", ["node-1", "node-9", ""])
async def test_what_is_here_or_nowhere_is_answered_here(elsewhere: Elsewhere, holder_name: str) -> None:
    assert await elsewhere.answer(request(), holder_name) is None


async def test_a_holder_that_is_down_is_said_to_be_unreachable(elsewhere: Elsewhere) -> None:
    with pytest.raises(Unavailable, match="does not answer"):
        await answered(elsewhere, request(), "node-3")


async def test_bytes_of_another_route_are_asked_as_the_caller(elsewhere: Elsewhere, holder: Holder) -> None:
    asked = request((b"cloche-project", b"team"), (b"x-other", b"1"))
    chunks = [chunk async for chunk in elsewhere.chunks(asked.scope, "node-2", "/api/v1/runs/r/log?offset=5")]
    assert chunks == [b"from there"]
    fields = dict(holder.scopes[0]["headers"])
    assert (fields[b"cloche-project"], fields[b"accept"]) == (b"team", b"application/octet-stream")
    assert b"x-other" not in fields
    asked_for = elsewhere.chunks(asked.scope, "node-2", "/api/v1/services", accept=b"application/json")
    assert [chunk async for chunk in asked_for] == [b"from there"]
    assert dict(holder.scopes[1]["headers"])[b"accept"] == b"application/json"


async def test_a_refusal_of_the_holder_is_an_error_and_no_log(elsewhere: Elsewhere, holder: Holder) -> None:
    holder.status = 404
    with pytest.raises(Unavailable) as caught:
        [chunk async for chunk in elsewhere.chunks(request().scope, "node-2", "/x")]
    assert caught.value.code == "peer_refused"
