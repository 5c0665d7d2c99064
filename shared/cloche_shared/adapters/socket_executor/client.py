"""`SocketExecutor`: the port Executor, fulfilled by an executor in another process."""

import asyncio
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import TypeVar

from cloche_shared.adapters.socket_executor.frames import Document, FrameError
from cloche_shared.adapters.socket_executor.link import Link, LinkLostError, unavailable
from cloche_shared.adapters.socket_executor.messages import PAGE, Present, spec_members
from cloche_shared.adapters.socket_executor.process import SocketProcess
from cloche_shared.errors import Invalid, Unavailable
from cloche_shared.ports.executor import Process, ProcessSpec

PATIENCE_S = 30.0
LONGEST_LOG = 64 * 1024**3
ANSWER_S = 40.0
"""Seconds in which a start is answered; the executor's own bound on it is half of that."""
MOST_PAGES = 400
_TRIES = 2
_CALM_S = 0.05
_OFTEN_S = 0.1

T = TypeVar("T")


class SocketExecutor:
    """Groups of one owner, held by the executor that listens at `path`.

    A start and an adoption wait for it for `patience` seconds, so that its restart costs no attempt.
    After as many seconds without it (and no earlier than the last grant of a group ran out) its groups
    count as lost: with its container all of them have ended, and without a grant's renewal their
    supervisors end them. What comes back later is ended as soon as it can be told. Bytes of a log
    beyond `longest_log` are not believed.
    """

    def __init__(self, path: Path, owner: str, *, patience: float = PATIENCE_S, longest_log: int = LONGEST_LOG) -> None:
        self.longest_log = longest_log
        self.patience = patience
        self._path = path
        self._owner = owner
        self._known: dict[str, SocketProcess] = {}
        self._link: Link | None = None
        self._connecting = asyncio.Lock()
        self._refused: tuple[float, Unavailable] | None = None
        self._is_closed = False

    async def probe(self) -> str:
        """Return who answers. Raises `Unavailable`."""
        await self._asked(lambda link: link.ask("ping"))
        return f"an executor at {self._path}"

    async def check(self) -> str | None:
        """Return what is wrong with the executor, None when it answers."""
        try:
            await (await self.link()).ask("ping")
        except (Unavailable, LinkLostError) as error:
            return str(error)
        return None

    async def start(self, spec: ProcessSpec) -> Process:
        if spec.owner != self._owner:
            raise Invalid("foreign_owner", f"This connection starts no processes of {spec.owner}.")
        await self._awaited()
        answer = await self._asked(lambda link: link.ask("start", spec=spec_members(spec)))
        present = _present(lambda: Present(answer.inner("process"), self.longest_log))
        if present.id != spec.id:
            raise unavailable("It answers about another process than was asked for.")
        return self._process(present)

    async def adopt(self, owner: str) -> list[Process]:
        if owner != self._owner:
            return []  # others' groups cannot be seen from here
        await self._awaited()
        found: list[Present] = []
        after = ""
        for _ in range(MOST_PAGES):
            page, more = await self._page(after)
            found.extend(page)
            if not more:
                return [self._process(present) for present in found]
            after = page[-1].id
        raise unavailable("It names processes without end.")

    async def _page(self, after: str) -> tuple[list[Present], bool]:
        answer = await self._asked(lambda link: link.ask("adopt", after=after))

        def read() -> tuple[list[Present], bool]:
            page = [Present(one, self.longest_log) for one in answer.objects("processes", PAGE)]
            if [one.id for one in page] != sorted({one.id for one in page if one.id > after}):
                raise FrameError("a page of processes is out of order")
            return page, answer.flag("more") and bool(page)

        return _present(read)

    async def forget(self, process_id: str) -> None:
        process = self._known.get(process_id)
        if process is not None and process.is_out_of_reach:
            await self._asked(lambda _: process.buried())
        answer = await self._asked(lambda link: link.ask("forget", id=process_id))
        self._known.pop(process_id, None)
        if process is not None:
            process.hear_last(_present(lambda: answer.optional("process", lambda name: self._read(answer, name))))
            await process.leave()

    def _read(self, answer: Document, name: str) -> Present:
        return Present(answer.inner(name), self.longest_log)

    async def close(self) -> None:
        """Let go of everything; the groups live on for the next owner."""
        self._is_closed = True
        processes, self._known = list(self._known.values()), {}
        await asyncio.gather(*(process.leave() for process in processes))
        async with self._connecting:
            if self._link is not None:
                await self._link.close()

    def _process(self, present: Present) -> SocketProcess:
        process = self._known.get(present.id)
        if process is None or process.is_out_of_reach:
            process = self._known[present.id] = SocketProcess(self, present)
        else:
            process.hear(present)
        return process

    async def _awaited(self) -> None:
        """Wait until the executor can be reached. Raises `Unavailable` when it comes too late."""
        until = time.monotonic() + self.patience
        while True:
            try:
                await self.link()
            except Unavailable:
                if self._is_closed or time.monotonic() >= until:
                    raise
                await asyncio.sleep(_OFTEN_S)
            else:
                return

    async def _asked(self, question: Callable[[Link], Awaitable[T]]) -> T:
        """Return an answer; a connection that breaks meanwhile is opened again once. Raises `Unavailable`."""
        why = ""
        for _ in range(_TRIES):
            try:
                async with asyncio.timeout(ANSWER_S):
                    return await question(await self.link())
            except (LinkLostError, TimeoutError) as error:
                why = f"The connection to it was lost ({str(error) or 'no answer in time'})."
            except FrameError as error:
                why = f"Its answer cannot be understood ({error})."
                break
        raise unavailable(why)

    # --- the connection

    async def link(self) -> Link:
        """Return the connection, opening it where needed. Raises `Unavailable`."""
        async with self._connecting:
            if self._is_closed:
                raise unavailable("The connection was closed by this process.")
            if self._link is not None and not self._link.is_lost:
                return self._link
            if self._link is not None:
                link, self._link = self._link, None
                await link.close()
            return await self._open()

    async def _open(self) -> Link:
        """Connect, unless that failed a moment ago: many may ask at once."""
        if self._refused is not None and time.monotonic() < self._refused[0]:
            raise self._refused[1]
        try:
            self._link = await Link.open(self._path, self._owner)
        except Unavailable as error:
            self._refused = (time.monotonic() + _CALM_S, error)
            raise
        self._refused = None
        return self._link


def _present(read: Callable[[], T]) -> T:
    """Return what an answer holds. Raises `Unavailable` when that is not what it must be."""
    try:
        return read()
    except FrameError as error:
        raise unavailable(f"Its answer cannot be understood ({error}).") from error
