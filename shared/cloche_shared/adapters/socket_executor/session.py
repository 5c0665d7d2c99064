"""One client of the executor: its requests, each a task of its own, and their answers."""

import asyncio
import contextlib
import errno
import logging
import re
from collections.abc import Awaitable, Callable, Mapping

from cloche_shared.adapters.local_executor import folder as folders
from cloche_shared.adapters.socket_executor.frames import (
    GREETING_S,
    PIECE_BYTES,
    REQUEST_BYTES,
    VERSION,
    Document,
    FrameError,
    packed,
    packed_piece,
    read_frame,
)
from cloche_shared.adapters.socket_executor.messages import ID, PAGE, SECONDS, Members, error_members, spec_from
from cloche_shared.adapters.socket_executor.room import Group, Room
from cloche_shared.errors import ClocheError, Failed, Internal, Invalid, Throttled

MOST_REQUESTS = 20_000
"""Requests in flight of one client; each process that is waited for is one, each log that is followed another."""
FAREWELL_S = 1.0

_OWNER = re.compile(r"[a-z][a-z0-9-]{0,31}")
_log = logging.getLogger(__name__)


def is_owner(text: str) -> bool:
    """Tell whether a text can name an owner, and so the folder of its groups."""
    return _OWNER.fullmatch(text) is not None


class Session:
    """A connection whose peer was let in."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader = reader
        self._writer = writer
        self._sending = asyncio.Lock()
        self._requests: dict[int, asyncio.Task[None]] = {}

    async def greeted(self) -> tuple[int, str] | None:
        """Return the greeting's number and the owner that it names; None for one that makes no sense."""
        try:
            async with asyncio.timeout(GREETING_S):
                first = await read_frame(self._reader, REQUEST_BYTES)
            if not isinstance(first, Document) or first.text("do", ID) != "hello":
                return None
            number, version, owner = first.whole("n"), first.whole("version"), first.text("owner", ID)
        except (FrameError, TimeoutError) as error:
            await self.turn_away(_malformed(error))
            return None
        if version != VERSION or not is_owner(owner):
            await self.turn_away(_malformed(f"version {version} for owner {owner!r}"))
            return None
        return number, owner

    async def welcome(self, number: int) -> None:
        """Answer the greeting."""
        await self._send(packed({"n": number, "ok": {"version": VERSION}}))

    async def turn_away(self, error: ClocheError) -> None:
        """Say why the client cannot be served, and let it read that: what it sends meanwhile is thrown away."""
        with contextlib.suppress(OSError, TimeoutError):
            async with asyncio.timeout(FAREWELL_S):
                await self._send(packed({"n": 0, "error": error_members(error)}))
                self._writer.write_eof()
                while await self._reader.read(REQUEST_BYTES):
                    pass

    async def serve(self, room: Room) -> None:
        """Answer until the client goes or sends what is no request."""
        try:
            while isinstance(request := await read_frame(self._reader, REQUEST_BYTES), Document):
                await self._take(room, request)
        except FrameError as error:
            _log.warning("client_dropped: %s", error)
            await self.turn_away(_malformed(error))
        finally:
            for task in self._requests.values():
                task.cancel()
            await asyncio.gather(*self._requests.values(), return_exceptions=True)

    async def close(self) -> None:
        """Close the connection; what cannot be sent in a moment is given up."""
        self._writer.close()
        with contextlib.suppress(OSError, TimeoutError):
            async with asyncio.timeout(FAREWELL_S):
                await self._writer.wait_closed()

    async def _take(self, room: Room, request: Document) -> None:
        number, do = request.whole("n"), request.text("do", ID)
        if do == "drop":
            task = self._requests.get(request.whole("request"))
            if task is not None:
                task.cancel()
            return
        if number in self._requests:
            raise FrameError(f"the request {number} is not finished")
        if len(self._requests) >= MOST_REQUESTS:
            await self._send(packed({"n": number, "error": error_members(_too_many())}))
            return
        task = asyncio.create_task(self._answer(room, number, do, request), name=f"request:{do}")
        self._requests[number] = task
        task.add_done_callback(lambda _: self._requests.pop(number, None))

    async def _answer(self, room: Room, number: int, do: str, request: Document) -> None:
        try:
            if do == "read":
                await self._read(room, number, request)
                return
            answer = {"n": number, "ok": await _work(do)(room, request)}
        except ClocheError as error:
            answer = {"n": number, "error": error_members(error)}
        except FrameError as error:
            answer = {"n": number, "error": error_members(_malformed(error))}
        except OSError as error:
            answer = {"n": number, "error": error_members(_disk(error))}
        except Exception:  # noqa: BLE001 - one request's defect must not end the others
            _log.exception("request_failed: %s", do)
            answer = {"n": number, "error": error_members(Internal("internal", "The executor failed at a request."))}
        with contextlib.suppress(OSError):
            await self._send(packed(answer))

    async def _read(self, room: Room, number: int, request: Document) -> None:
        """Send the next piece of a log; bytes are held in memory only while it is this answer's turn."""
        group = room.find(request.text("id", ID))
        offset, follow = request.whole("offset"), request.flag("follow")
        while not await self._send_piece(group, number, offset):
            if not follow or group.ending.done():
                await self._send_piece(group, number, offset, is_last=True)
                return
            await _grown(group, offset)

    async def _send_piece(self, group: Group, number: int, offset: int, *, is_last: bool = False) -> bool:
        async with self._sending:
            data = await asyncio.to_thread(folders.read_log, group.folder, offset, PIECE_BYTES)
            if not data and not is_last:
                return False
            frame = packed_piece(number, offset, data) if data else packed({"n": number, "ok": {}})
            await self._write(frame)
            return True

    async def _send(self, frame: bytes) -> None:
        async with self._sending:
            await self._write(frame)

    async def _write(self, frame: bytes) -> None:
        self._writer.write(frame)
        await self._writer.drain()


async def _grown(group: Group, offset: int) -> None:
    """Wait until the log is longer than `offset`, or the group has ended."""
    log = group.process.log(offset)
    try:
        await anext(log, None)
    finally:
        with contextlib.suppress(AttributeError):
            await log.aclose()  # type: ignore[attr-defined]  # an async generator, as the port does not say
    if not await asyncio.to_thread(folders.read_log, group.folder, offset, 1):
        await group.ending


# --- what requests do


async def _start(room: Room, request: Document) -> Members:
    group = await room.start(spec_from(request.inner("spec"), room.owner))
    return {"process": group.present()}


async def _attach(room: Room, request: Document) -> Members:
    return {"process": room.find(request.text("id", ID)).present()}


async def _adopt(room: Room, request: Document) -> Members:
    groups, more = room.after(request.text("after", ID), PAGE)
    return {"processes": [group.present() for group in groups], "more": more}


async def _watch(room: Room, request: Document) -> Members:
    began = request.optional("began", request.flag)
    return {"process": await room.find(request.text("id", ID)).news(began)}


async def _cancel(room: Room, request: Document) -> Members:
    grace = request.optional("grace", lambda name: request.number(name, SECONDS))
    await room.find(request.text("id", ID)).process.cancel(grace=grace)
    return {}


async def _grant(room: Room, request: Document) -> Members:
    await room.find(request.text("id", ID)).process.grant(request.number("seconds", SECONDS))
    return {}


async def _forget(room: Room, request: Document) -> Members:
    return {"process": await room.forget(request.text("id", ID))}


async def _ping(_room: Room, _request: Document) -> Members:
    return {}


_WORK: Mapping[str, Callable[[Room, Document], Awaitable[Members]]] = {
    "start": _start,
    "attach": _attach,
    "adopt": _adopt,
    "watch": _watch,
    "cancel": _cancel,
    "grant": _grant,
    "forget": _forget,
    "ping": _ping,
}


def _work(do: str) -> Callable[[Room, Document], Awaitable[Members]]:
    if do not in _WORK:
        raise FrameError(f"{do!r} is no request")
    return _WORK[do]


def _malformed(why: object) -> Invalid:
    return Invalid("malformed_request", "The executor does not understand the request.", why=f"{why}.")


def _too_many() -> Throttled:
    return Throttled("too_many_requests", "Too many requests are open at the executor.")


def _disk(error: OSError) -> Failed:
    """Return what keeps this node from it, as nodes say it: elsewhere it may go well."""
    code = "disk_full" if error.errno in (errno.ENOSPC, errno.EDQUOT) else "storage_failed"
    return Failed(code, "The executor's disk failed at a request.", why=f"{error.strerror or error}.")
