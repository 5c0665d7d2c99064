"""The service's side of one connection: numbered questions, and answers that are checked."""

import asyncio
import contextlib
import itertools
import logging
import time
from pathlib import Path

from cloche_shared.adapters.socket_executor.frames import (
    ANSWER_BYTES,
    GREETING_S,
    REQUEST_BYTES,
    VERSION,
    Document,
    FrameError,
    Piece,
    packed,
    read_frame,
)
from cloche_shared.adapters.socket_executor.messages import error_from
from cloche_shared.adapters.socket_executor.reach import connected
from cloche_shared.errors import ClocheError, TooLarge, Unavailable

HEARTBEAT_S = 5.0
"""Seconds between two pings, and those that the answer to one may take."""

_log = logging.getLogger(__name__)


async def answers(path: Path) -> bool:
    """Tell whether an executor speaks at the socket, if only to turn us away."""
    try:
        reader, writer = await asyncio.open_unix_connection(sock=connected(path))
    except OSError:
        return False
    try:
        writer.write(b"\0\0\0\x02{}")
        async with asyncio.timeout(GREETING_S):
            return isinstance(await read_frame(reader, ANSWER_BYTES), Document)
    except (OSError, FrameError, TimeoutError):
        return False
    finally:
        writer.close()


class LinkLostError(ConnectionError):
    """The connection ended before the answer came."""


class Link:
    """An open connection. `deadline` bounds questions whose answers do not wait for anything."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader = reader
        self._writer = writer
        self._numbers = itertools.count(1)
        self._open: dict[int, asyncio.Future[Document | Piece]] = {}
        self._sending = asyncio.Lock()
        self._refusal: Unavailable | None = None
        self.is_lost = False
        self._tasks = [
            asyncio.create_task(self._listen(), name="executor-link"),
            asyncio.create_task(self._beat(), name="executor-heartbeat"),
        ]

    @classmethod
    async def open(cls, path: Path, owner: str) -> "Link":
        """Connect for an owner. Raises `Unavailable`."""
        try:
            reader, writer = await asyncio.open_unix_connection(sock=connected(path), limit=ANSWER_BYTES)
        except OSError as error:
            raise unavailable(f"Nobody answers at {path} ({error.strerror or error}).") from error
        link = cls(reader, writer)
        try:
            async with asyncio.timeout(GREETING_S):
                (await link.ask("hello", version=VERSION, owner=owner)).whole("version", VERSION, VERSION)
        except (TimeoutError, LinkLostError, FrameError, ClocheError) as error:
            await link.close()
            if isinstance(error, Unavailable):
                raise
            raise unavailable(f"What listens at {path} does not speak as it should ({_said(error)}).") from error
        except BaseException:
            await link.close()
            raise
        return link

    async def ask(self, do: str, **members: object) -> Document:
        """Return the answer to a request. Raises what the executor refuses with, `LinkLostError`, `FrameError`."""
        answer = await self._exchange(do, members)
        if isinstance(answer, Piece):
            raise FrameError("bytes came where an answer was expected")
        return answer

    async def piece(self, **members: object) -> Piece | None:
        """Return a piece of a log, None at its end. Raises as `ask`."""
        answer = await self._exchange("read", members)
        return answer if isinstance(answer, Piece) else None

    async def _exchange(self, do: str, members: dict[str, object]) -> Document | Piece:
        if self.is_lost:
            raise LinkLostError("the connection was closed")
        number = next(self._numbers)
        frame = packed({"n": number, "do": do, **members})
        if len(frame) > REQUEST_BYTES:
            raise TooLarge("spec_too_large", "The process cannot be started.", why="Its variables take over 4 MiB.")
        answer = self._open[number] = asyncio.get_running_loop().create_future()
        try:
            await self._send(frame)
            return _accepted(await answer)
        except asyncio.CancelledError:
            self._drop(number)
            raise
        finally:
            self._open.pop(number, None)

    async def _send(self, frame: bytes) -> None:
        try:
            async with self._sending:
                self._writer.write(frame)
                await self._writer.drain()
        except OSError as error:
            raise LinkLostError(str(error)) from error

    def _drop(self, number: int) -> None:
        """Tell the executor that nobody waits any more, if that can be told at once."""
        if not self.is_lost and not self._sending.locked():
            self._writer.write(packed({"n": 0, "do": "drop", "request": number}))

    async def _listen(self) -> None:
        why = "it ended"
        try:
            while (frame := await read_frame(self._reader, ANSWER_BYTES)) is not None:
                self._hear(frame)
        except (FrameError, OSError) as error:
            why = str(error)
            _log.warning("executor_link_lost: %s", error)
        finally:
            self._lose(why)

    def _hear(self, frame: Document | Piece) -> None:
        number = frame.number if isinstance(frame, Piece) else frame.whole("n")
        if number == 0 and isinstance(frame, Document):
            self._refusal = unavailable(f"It refuses this process: {error_from(frame.inner('error'))}")
        answer = self._open.get(number)  # what nobody waits for any more is passed over
        if answer is not None and not answer.done():
            answer.set_result(frame)

    def _lose(self, why: str) -> None:
        self.is_lost = True
        self._writer.transport.abort()
        for answer in self._open.values():
            if not answer.done():
                answer.set_exception(self._refusal or LinkLostError(why))

    async def _beat(self) -> None:
        """Close a connection behind which nobody lives."""
        with contextlib.suppress(LinkLostError):
            while True:
                await asyncio.sleep(HEARTBEAT_S)
                began = time.monotonic()
                try:
                    async with asyncio.timeout(HEARTBEAT_S):
                        await self.ask("ping")
                except Exception as error:  # noqa: BLE001 - whatever it answers: it does not live
                    _log.warning("executor_silent: %.1f s: %r", time.monotonic() - began, error)
                    self._lose("it did not answer")
                    return

    async def close(self) -> None:
        """Close the connection."""
        self._lose("it was closed")
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        with contextlib.suppress(OSError):
            await self._writer.wait_closed()


def _accepted(answer: Document | Piece) -> Document | Piece:
    """Return what an answer holds, or raise the error that it is."""
    if isinstance(answer, Piece):
        return answer
    if answer.has("error"):
        raise error_from(answer.inner("error"))
    return answer.inner("ok")


def _said(error: Exception) -> str:
    return str(error) or "no answer in time"


def unavailable(why: str) -> Unavailable:
    """Return the error of an executor that is not there."""
    return Unavailable(
        "executor_unavailable",
        "The executor does not answer, so no process can be started or reached on this node.",
        why=why,
        todo="See that the executor's container runs and shares the folder of its socket with this one.",
    )
