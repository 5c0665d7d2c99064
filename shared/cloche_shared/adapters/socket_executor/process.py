"""A group behind the socket, seen from the service."""

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import suppress
from typing import Protocol

from cloche_shared.adapters.socket_executor.frames import FrameError, Piece
from cloche_shared.adapters.socket_executor.link import Link, LinkLostError, unavailable
from cloche_shared.adapters.socket_executor.messages import Present
from cloche_shared.errors import ClocheError, NotFound
from cloche_shared.ports.executor import Exit, LogChunk

AGAIN_S = 0.05
SELDOM_S = 1.0
"""Seconds before the executor is tried again, at first and at most."""
LOG_TRIES = 5
WORD_S = 5.0
"""Seconds that a command may take before it is left to the next connection."""
GRANT_MARGIN_S = 1.0
"""Seconds that a supervisor may take to end a group whose grant ran out."""

TROUBLES = (ClocheError, LinkLostError, FrameError)


class Host(Protocol):
    """What a process needs of the executor that it belongs to.

    After `patience` seconds without a sensible word from it a process counts as lost.
    """

    longest_log: int
    patience: float

    async def link(self) -> Link:
        """Return the connection, opening it where needed. Raises `Unavailable`."""


class SocketProcess:
    """One group. It asks for news until the end is known, through restarts of the executor."""

    def __init__(self, host: Host, present: Present) -> None:
        self._host = host
        self._id = present.id
        self._pid = 0
        self._began: bool | None = None
        self._exit: Exit | None = None
        self.is_out_of_reach = False
        """Its end was decided without the executor: something of it may still live."""
        self._changed = asyncio.Event()
        self._granted_until = 0.0
        self._unsent: dict[str, tuple[float | None]] = {}
        self._trouble_since: float | None = None
        self.hear(present)
        self._task = asyncio.create_task(self._watch(), name=f"executor:{self._id}")

    @property
    def id(self) -> str:
        return self._id

    @property
    def pid(self) -> int:
        return self._pid

    async def started(self) -> bool:
        while self._began is None and self._exit is None:
            await self._changed.wait()
        return bool(self._began) if self._exit is None else self._exit.started

    async def wait(self) -> Exit:
        while self._exit is None:
            await self._changed.wait()
        return self._exit

    async def cancel(self, *, grace: float | None = None) -> None:
        if self._exit is None:
            await self._say("cancel", grace)

    async def grant(self, seconds: float) -> None:
        if self._exit is None:
            self._granted_until = time.monotonic() + seconds
            await self._say("grant", seconds)

    async def log(self, offset: int = 0, *, follow: bool = True) -> AsyncIterator[LogChunk]:
        tries = 0
        while offset < self._believed():
            try:
                piece = await self._piece(offset, follow=follow)
            except TROUBLES as error:
                tries += 1
                if self.is_out_of_reach:
                    return  # what there was stays on the executor's volume
                if tries >= LOG_TRIES and (self._exit is not None or not follow):
                    raise unavailable(f"The log cannot be read: {error}") from error
                await asyncio.sleep(_pause(tries))
                continue
            if piece is None:
                return
            tries = 0
            data = piece.data[: self._believed() - offset]
            yield LogChunk(offset, data)
            offset += len(data)

    def _believed(self) -> int:
        """Return how many bytes of the log there can be."""
        return self._host.longest_log if self._exit is None else self._exit.log_bytes

    async def _piece(self, offset: int, *, follow: bool) -> Piece | None:
        link = await self._host.link()
        try:
            piece = await link.piece(id=self._id, offset=offset, follow=follow)
        except NotFound:
            return None
        if piece is not None and piece.offset != offset:
            raise FrameError("bytes of another place of the log came")
        return piece

    async def _say(self, do: str, value: float | None) -> None:
        """Send a command now, or as soon as the executor can be reached again; the dead need none."""
        self._unsent[do] = (value,)
        with suppress(TimeoutError, *TROUBLES):
            async with asyncio.timeout(WORD_S):
                await self._deliver(await self._host.link())

    async def _deliver(self, link: Link) -> None:
        while self._unsent:
            do, word = next(iter(self._unsent.items()))
            if do == "grant":
                left = max(0.0, self._granted_until - time.monotonic())
                await link.ask(do, id=self._id, seconds=left)
            else:
                await link.ask(do, id=self._id, grace=word[0])
            if self._unsent.get(do) is word:
                del self._unsent[do]

    # --- news

    async def _watch(self) -> None:
        """Ask for news until the end is known, or can no longer be hoped for."""
        tries = 0
        while self._exit is None:
            try:
                link = await self._host.link()
                self.hear(await self._asked(link, "attach"))
                await self._deliver(link)
                self._trouble_since = None
                while self._exit is None:
                    before = self._began
                    self.hear(await self._asked(link, "watch", began=before))
                    tries = 0 if self._began != before else tries + 1
                    await asyncio.sleep(_pause(tries) if tries else 0)
            except TROUBLES as error:
                tries += 1
                self._despair(error)
                await asyncio.sleep(_pause(tries))
        if self.is_out_of_reach:
            await self.buried()

    async def _asked(self, link: Link, do: str, **members: object) -> Present:
        answer = await link.ask(do, id=self._id, **members)
        return Present(answer.inner("process"), self._host.longest_log)

    def _despair(self, error: Exception) -> None:
        """Decide the end when the executor knows of none, or is gone for so long that a grant must have run out."""
        now = time.monotonic()
        if self._trouble_since is None:
            self._trouble_since = now
        if isinstance(error, NotFound):
            self._decide(Exit("lost", started=bool(self._began), detail="the executor knows nothing of it any more"))
        elif now - self._trouble_since >= self._host.patience and now >= self._granted_until + GRANT_MARGIN_S:
            self.is_out_of_reach = True
            self._decide(Exit("lost", started=bool(self._began), detail=f"the executor cannot be reached: {error}"))

    async def buried(self) -> None:
        """End what came back after it was given up; return when it has really ended."""
        tries = 0
        while True:
            try:
                link = await self._host.link()
                await link.ask("cancel", id=self._id, grace=0.0)
                if (await self._asked(link, "watch", began=self._began)).exit is not None:
                    return
            except NotFound:
                return
            except TROUBLES:
                tries += 1
            await asyncio.sleep(_pause(tries))

    def hear(self, present: Present) -> None:
        """Take what the executor says. Raises `FrameError` when it speaks of another process."""
        if present.id != self._id:
            raise FrameError("an answer is about another process")
        self._pid = present.pid
        self._began = present.began if present.began is not None else self._began
        if present.exit is not None:
            self._decide(present.exit)
        self._tell()

    def hear_last(self, present: Present | None) -> None:
        """Take the end of a process that is forgotten, as far as it is known."""
        if present is not None and present.id == self._id:
            self.hear(present)
        self._decide(Exit("lost", started=bool(self._began), detail="it was forgotten"))

    def _decide(self, ended: Exit) -> None:
        if self._exit is None:
            self._exit = ended
        self._tell()

    def _tell(self) -> None:
        """Wake everybody who waits for news."""
        self._changed.set()
        self._changed = asyncio.Event()

    async def leave(self) -> None:
        """Stop asking; the group lives on."""
        self._task.cancel()
        await asyncio.gather(self._task, return_exceptions=True)


def _pause(tries: int) -> float:
    """Return how long to wait after so many failures in a row."""
    return min(SELDOM_S, AGAIN_S * 2.0 ** min(tries, 10))
