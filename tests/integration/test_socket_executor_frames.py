"""Nonsense on the executor's socket, from either side: it ends a connection, never a process, and nothing hangs."""

import asyncio
import json
import os
import struct
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from cloche_shared.adapters.socket_executor import SocketExecutor
from cloche_shared.adapters.socket_executor.reach import connected
from cloche_shared.adapters.socket_executor.server import Rules, Server
from cloche_shared.errors import ClocheError, Failed, Invalid, NotFound, Unavailable
from cloche_shared.ports.executor import Limits, ProcessSpec
from tests.integration.executor_processes import sh

Members = dict[str, Any]
EXIT: Members = {
    "ending": "exited",
    "code": 0,
    "signal": None,
    "started": True,
    "log_bytes": 5,
    "log_dropped": 0,
    "wall_seconds": 0.1,
    "cpu_seconds": 0.1,
    "peak_memory": 1,
    "detail": "",
}
SPEC: Members = {
    "id": "one",
    "argv": ["/bin/true"],
    "cwd": "/",
    "env": {},
    "limits": {"memory": None, "deadline": None, "grace": 1.0, "log": 100, "orphan_after": 60.0},
    "redact": [],
    "writes": [],
}


def framed(body: bytes) -> bytes:
    return struct.pack("!I", len(body)) + body


def message(**members: object) -> bytes:
    return framed(json.dumps(members).encode())


def piece(number: int, offset: int, data: bytes) -> bytes:
    return framed(struct.pack("!BQQ", 0, number, offset) + data)


# --- hostile clients


@pytest.fixture
async def server(tmp_path: Path) -> AsyncIterator[Server]:
    server = Server(Rules(tmp_path / "executor.sock", tmp_path / "processes"))
    await server.start()
    yield server
    await server.stop(5.0)


class Raw:
    """A client that sends what it likes."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader = reader
        self.writer = writer

    async def said(self) -> Members | None:
        """Return the next answer, None at the end."""
        try:
            (length,) = struct.unpack("!I", await self.reader.readexactly(4))
        except (asyncio.IncompleteReadError, ConnectionError):
            return None
        found: Members = json.loads(await self.reader.readexactly(length))
        return found


@asynccontextmanager
async def raw(tmp_path: Path, *, greet: bool = True) -> AsyncIterator[Raw]:
    found = Raw(*await asyncio.open_unix_connection(sock=connected(tmp_path / "executor.sock")))
    if greet:
        found.writer.write(message(n=1, do="hello", version=1, owner="runner"))
        assert await found.said() == {"n": 1, "ok": {"version": 1}}
    yield found
    found.writer.close()
    await asyncio.gather(found.writer.wait_closed(), return_exceptions=True)


@pytest.mark.parametrize(
    "first",
    [
        b"\xff\xff\xff\xff",
        b"\0\0\0\0",
        b"GET / HTTP/1.1\r\n\r\n",
        framed(b"[]"),
        framed(b"nonsense"),
        framed(b"[" * 100_000),
        framed(b"\xff\xfe{}"),
        framed(b"\0" * 40),
        message(n=1, do="hello", version=2, owner="runner"),
        message(n=1, do="hello", version=1, owner="../etc"),
        message(n=1, do="hello", version=1, owner=""),
        message(n=1, do="hello", version=1),
        message(n=1, do="start", spec=SPEC),
        message(n="1", do="hello", version=1, owner="runner"),
        message(n=True, do="hello", version=1, owner="runner"),
    ],
)
async def test_who_does_not_greet_is_turned_away(server: Server, tmp_path: Path, first: bytes) -> None:
    async with raw(tmp_path, greet=False) as client, asyncio.timeout(5):
        client.writer.write(first)
        if client.writer.can_write_eof():
            client.writer.write_eof()
        answer = await client.said()
        assert answer is None or answer["error"]["code"] == "malformed_request"
        assert await client.said() is None


@pytest.mark.parametrize(
    "changes",
    [
        {"id": "../../etc"},
        {"id": "A"},
        {"id": ""},
        {"id": "x" * 129},
        {"id": 7},
        {"argv": []},
        {"argv": [""]},
        {"argv": "rm -rf /"},
        {"argv": ["/bin/true", 1]},
        {"argv": ["/bin/true", "nul\0"]},
        {"argv": ["x"] * 10_000},
        {"cwd": "relative"},
        {"cwd": "/a/../b"},
        {"cwd": None},
        {"env": {"A=B": "c"}},
        {"env": {"": "c"}},
        {"env": {"A": 1}},
        {"env": ["A=B"]},
        {"limits": {}},
        {"limits": {**SPEC["limits"], "grace": -1}},
        {"limits": {**SPEC["limits"], "memory": 1.5}},
        {"limits": {**SPEC["limits"], "log": 2**60}},
        {"limits": {**SPEC["limits"], "orphan_after": "60"}},
        {"limits": {**SPEC["limits"], "deadline": True}},
        {"redact": [None]},
        {"writes": ["outputs"]},
        {"writes": ["/x"] * 65},
    ],
)
async def test_a_spec_that_is_none_is_refused_and_leaves_nothing(
    server: Server, tmp_path: Path, changes: Members
) -> None:
    async with raw(tmp_path) as client:
        client.writer.write(message(n=2, do="start", spec={**SPEC, **changes}))
        answer = await client.said()
        assert answer is not None
        assert answer["error"]["kind"] == "Invalid"
        client.writer.write(message(n=3, do="adopt", after=""))
        assert await client.said() == {"n": 3, "ok": {"processes": [], "more": False}}


@pytest.mark.parametrize(
    "request_",
    [
        {"do": "explode"},
        {"do": "watch", "id": "one", "began": "yes"},
        {"do": "read", "id": "one", "offset": -1, "follow": False},
        {"do": "read", "id": "one", "offset": 0},
        {"do": "grant", "id": "one", "seconds": None},
        {"do": "cancel", "id": "one", "grace": 10**300},
        {"do": "forget", "id": "../other"},
        {"do": "forget"},
    ],
)
async def test_a_request_that_is_none_is_refused_alone(server: Server, tmp_path: Path, request_: Members) -> None:
    async with raw(tmp_path) as client:
        client.writer.write(message(n=2, do="start", spec={**SPEC, "argv": ["/bin/sleep", "60"]}))
        assert await client.said() is not None
        client.writer.write(message(n=3, **request_))
        answer = await client.said()
        assert answer is not None
        assert (answer["n"], answer["error"]["kind"]) == (3, "Invalid")
        client.writer.write(message(n=4, do="ping"))
        assert await client.said() == {"n": 4, "ok": {}}


async def test_nonsense_of_one_client_hurts_no_other(server: Server, tmp_path: Path) -> None:
    runner = SocketExecutor(tmp_path / "executor.sock", "runner")
    process = await runner.start(sh("sleep 0.5; exit 3"))
    for nonsense in (b"\xff" * 100, framed(b"{}"), message(n=5, do="watch", id="group", began=None) * 2):
        async with raw(tmp_path) as client, asyncio.timeout(5):
            client.writer.write(nonsense)
            while await client.said() is not None:
                pass
    assert (await process.wait()).code == 3
    await runner.close()


async def test_a_client_that_reads_nothing_costs_little_and_blocks_nobody(server: Server, tmp_path: Path) -> None:
    runner = SocketExecutor(tmp_path / "executor.sock", "runner")
    loud = await runner.start(sh("head -c 5000000 /dev/zero", process_id="loud"))
    await loud.wait()
    async with raw(tmp_path) as client:
        for number in range(2, 3000):
            client.writer.write(message(n=number, do="read", id="loud", offset=0, follow=False))
        assert (await (await runner.start(sh("exit 4", process_id="other"))).wait()).code == 4
    await runner.close()


async def test_requests_beyond_the_bound_are_refused(
    server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("cloche_shared.adapters.socket_executor.session.MOST_REQUESTS", 10)
    async with raw(tmp_path) as client:
        client.writer.write(message(n=2, do="start", spec={**SPEC, "argv": ["/bin/sleep", "60"]}))
        await client.said()
        for number in range(3, 16):
            client.writer.write(message(n=number, do="watch", id="one", began=True))
        answer = await client.said()
        assert answer is not None
        assert (answer["n"], answer["error"]["code"]) == (13, "too_many_requests")
        client.writer.write(message(n=99, do="drop", request=3) + message(n=100, do="ping"))
        while answer is not None and answer["n"] != 100:
            answer = await client.said()


async def test_a_user_that_is_not_named_is_told_so(tmp_path: Path) -> None:
    server = Server(Rules(tmp_path / "executor.sock", tmp_path / "p", {"runner": frozenset({os.geteuid()})}))
    await server.start()
    deployer = SocketExecutor(tmp_path / "executor.sock", "deployer")
    try:
        with pytest.raises(Unavailable, match="refuses this process"):
            await deployer.adopt("deployer")
    finally:
        await deployer.close()
        await server.stop(5.0)


# --- a hostile executor

Answers = Callable[[Members], bytes | None]


@asynccontextmanager
async def impostor(path: Path, answers: Answers) -> AsyncIterator[SocketExecutor]:
    """Give a client of something that answers requests after the greeting as it likes."""

    meetings: list[asyncio.Task[None] | None] = []

    async def meet(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        meetings.append(asyncio.current_task())
        try:
            while True:
                (length,) = struct.unpack("!I", await reader.readexactly(4))
                request = json.loads(await reader.readexactly(length))
                hello = message(n=request["n"], ok={"version": 1}) if request["do"] == "hello" else None
                writer.write(hello or answers(request) or b"")
                await writer.drain()
        except (asyncio.IncompleteReadError, ConnectionError):
            writer.close()
            await asyncio.gather(writer.wait_closed(), return_exceptions=True)

    listening = await asyncio.start_unix_server(meet, path)
    executor = SocketExecutor(path, "runner", patience=0.3, longest_log=1000)
    try:
        yield executor
    finally:
        await executor.close()
        listening.close()
        await asyncio.gather(*filter(None, meetings))


def present(**changes: object) -> Members:
    return {"id": "group", "pid": 7, "began": True, "exit": None, **changes}


def answering(replies: Mapping[str, object]) -> Answers:
    """Answer each kind of request with these members, and no other at all."""

    def answer(request: Members) -> bytes | None:
        found = replies.get(request["do"])
        if isinstance(found, bytes):
            return found
        return None if found is None else message(n=request["n"], ok=found)

    return answer


@pytest.mark.parametrize(
    "reply",
    [
        b"\xff\xff\xff\xff",
        framed(b"x" * 100),
        framed(b"[]"),
        b"HTTP/1.1 400 Bad Request\r\n\r\n",
        {},
        {"process": None},
        {"process": present(id="other")},
        {"process": present(id="../etc")},
        {"process": present(pid=-1)},
        {"process": present(pid="7")},
        {"process": present(began="yes")},
        {"process": present(exit={})},
        {"process": present(exit={**EXIT, "ending": "won"})},
        {"process": present(exit={**EXIT, "code": 70_000})},
        {"process": present(exit={**EXIT, "log_bytes": 10**12})},
        {"process": present(exit={**EXIT, "wall_seconds": "NaN"})},
        {"process": present(exit={**EXIT, "detail": "x" * 5000})},
    ],
)
async def test_a_start_that_is_answered_with_nonsense_is_no_start(tmp_path: Path, reply: object) -> None:
    async with impostor(tmp_path / "s", answering({"start": reply})) as executor, asyncio.timeout(10):
        with pytest.raises(Unavailable) as caught:
            await executor.start(sh("exit"))
        assert caught.value.code == "executor_unavailable"


@pytest.mark.parametrize(
    "news",
    [
        b"\xff\xff\xff\xff",
        {"process": present(id="other")},
        {"process": present(exit={**EXIT, "signal": 0})},
        {"process": None},
        {},
    ],
)
async def test_nonsense_about_a_process_makes_it_lost(tmp_path: Path, news: object) -> None:
    replies = {"start": {"process": present()}, "attach": news, "watch": news}
    async with impostor(tmp_path / "s", answering(replies)) as executor, asyncio.timeout(10):
        process = await executor.start(sh("exit"))
        assert (await process.wait()).ending == "lost"


async def test_news_without_news_are_not_asked_for_in_a_busy_loop(tmp_path: Path) -> None:
    asked = []

    def answer(request: Members) -> bytes:
        asked.append(request["do"])
        return message(n=request["n"], ok={"process": present()})

    async with impostor(tmp_path / "s", answer) as executor:
        await executor.start(sh("exit"))
        await asyncio.sleep(0.5)
    assert len(asked) < 20


async def test_a_detail_forges_no_lines(tmp_path: Path) -> None:
    ended = present(exit={**EXIT, "detail": "a\nINFO b\x1b[31m\u2028"})
    async with impostor(tmp_path / "s", answering({"start": {"process": ended}})) as executor:
        process = await executor.start(sh("exit"))
        assert (await process.wait()).detail == "a INFO b [31m "


@pytest.mark.parametrize(
    ("kind", "code", "expected"),
    [
        ("NotFound", "some_code", NotFound),
        ("Failed", "some_code", Failed),
        ("SystemExit", "some_code", Unavailable),
        ("Failed", "x\ny", Unavailable),
        ("Failed", "", Unavailable),
    ],
)
async def test_only_errors_of_ours_are_raised(
    tmp_path: Path, kind: str, code: str, expected: type[ClocheError]
) -> None:
    error = {"kind": kind, "code": code, "what": "w\x1b[1m", "why": "", "todo": ""}

    def answer(request: Members) -> bytes:
        return message(n=request["n"], error=error)

    async with impostor(tmp_path / "s", answer) as executor:
        with pytest.raises(expected) as caught:
            await executor.forget("group")
        assert "\x1b" not in str(caught.value)


@pytest.mark.parametrize("offset", [1, 2**63])
async def test_a_log_with_bytes_of_another_place_ends(tmp_path: Path, offset: int) -> None:
    replies = {"start": {"process": present(exit=EXIT)}}

    def answer(request: Members) -> bytes | None:
        return piece(request["n"], offset, b"xxxxx") if request["do"] == "read" else answering(replies)(request)

    async with impostor(tmp_path / "s", answer) as executor, asyncio.timeout(10):
        process = await executor.start(sh("exit"))
        with pytest.raises(Unavailable):
            assert [chunk async for chunk in process.log()] == []


@pytest.mark.parametrize(("ended", "most"), [(EXIT, 5), (None, 1000)])
async def test_a_log_is_believed_up_to_its_length_only(tmp_path: Path, ended: Members | None, most: int) -> None:
    replies = {"start": {"process": present(exit=ended)}, "attach": {"process": present(exit=ended)}}

    def answer(request: Members) -> bytes | None:
        if request["do"] == "read":
            return piece(request["n"], request["offset"], b"x" * 200)
        return answering(replies)(request)

    async with impostor(tmp_path / "s", answer) as executor, asyncio.timeout(10):
        process = await executor.start(sh("exit"))
        assert sum([len(chunk.data) async for chunk in process.log()]) == most


async def test_processes_without_end_are_not_adopted(tmp_path: Path) -> None:
    count = iter(range(10**9))

    def answer(request: Members) -> bytes | None:
        page = [present(id=f"p-{next(count):09}", exit=EXIT) for _ in range(50)]
        return message(n=request["n"], ok={"processes": page, "more": True}) if request["do"] == "adopt" else None

    async with impostor(tmp_path / "s", answer) as executor, asyncio.timeout(20):
        with pytest.raises(Unavailable, match="without end"):
            await executor.adopt("runner")


@pytest.mark.parametrize("page", [["b", "a"], ["a", "a"], ["../a"], ["a"] * 51])
async def test_a_page_out_of_order_is_refused(tmp_path: Path, page: list[str]) -> None:
    reply = {"processes": [present(id=one) for one in page], "more": False}
    async with impostor(tmp_path / "s", answering({"adopt": reply})) as executor:
        with pytest.raises(Unavailable):
            await executor.adopt("runner")


async def test_commands_never_fail_for_what_the_executor_says(tmp_path: Path) -> None:
    replies = {"start": {"process": present()}, "attach": {"process": present()}, "grant": framed(b"{"), "cancel": b""}
    async with impostor(tmp_path / "s", answering(replies)) as executor, asyncio.timeout(20):
        process = await executor.start(sh("exit"))
        await process.grant(0.1)
        await process.cancel(grace=0)


async def test_a_spec_over_the_bound_is_refused_before_it_is_sent(server: Server, tmp_path: Path) -> None:
    runner = SocketExecutor(tmp_path / "executor.sock", "runner")
    spec = ProcessSpec("big", "runner", ["/bin/true"], Path("/"), {f"V{n}": "x" * 100_000 for n in range(50)}, Limits())
    with pytest.raises(Invalid) as caught:
        await runner.start(spec)
    assert caught.value.code == "spec_too_large"
    await runner.close()
