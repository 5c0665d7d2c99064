"""A way to a server that can lose what the server answers, hold it back, or end."""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress

CHUNK = 65_536


class TcpProxy:
    """Passes bytes on. `drop_answer` is asked for each piece of a request: true loses all answers from there on.

    The connection then stays open and silent, as one does whose way back is cut. `watches` is asked the same:
    `answered` gets each piece that it said true to, once the server has answered and before anybody hears of it.
    """

    def __init__(self, host: str) -> None:
        self._target = host.rpartition(":")[::2]
        self._tasks: set[asyncio.Task[None]] = set()
        self.drop_answer: Callable[[bytes], bool] = lambda _request: False
        self.watches: Callable[[bytes], bool] = lambda _request: False
        self.answered: Callable[[bytes], None] = lambda _request: None
        self.dropped = 0
        self.host = ""

    async def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        host, port = self._target
        try:
            there_reader, there_writer = await asyncio.open_connection(host, int(port))
        except OSError:  # nobody is there: who asks sees the connection break
            writer.close()
            return
        mute, watched = asyncio.Event(), list[bytes]()
        ways = [self._ask(reader, there_writer, mute, watched), self._answer(there_reader, writer, mute, watched)]
        try:
            await asyncio.gather(*ways)
        except (OSError, asyncio.CancelledError):
            pass
        finally:
            for end in (writer, there_writer):
                end.close()
                with suppress(OSError):
                    await end.wait_closed()

    async def _ask(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, mute: asyncio.Event, watched: list[bytes]
    ) -> None:
        while piece := await reader.read(CHUNK):
            if not mute.is_set() and self.drop_answer(piece):
                self.dropped += 1
                mute.set()
            if self.watches(piece):
                watched.append(piece)
            writer.write(piece)
            await writer.drain()
        writer.close()

    async def _answer(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, mute: asyncio.Event, watched: list[bytes]
    ) -> None:
        while piece := await reader.read(CHUNK):
            while watched:
                self.answered(watched.pop(0))
            if not mute.is_set():
                writer.write(piece)
                await writer.drain()
        if not mute.is_set():
            writer.close()

    async def _task(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        try:
            await self._accept(reader, writer)
        finally:
            self._tasks.discard(task)

    @asynccontextmanager
    async def open(self) -> AsyncIterator["TcpProxy"]:
        """Listen on a free loopback port, at `host`."""
        server = await asyncio.start_server(self._task, "127.0.0.1", 0)
        self.host = f"127.0.0.1:{server.sockets[0].getsockname()[1]}"
        try:
            yield self
        finally:
            server.close()
            for task in list(self._tasks):
                task.cancel()
            await asyncio.gather(*self._tasks, return_exceptions=True)
            await server.wait_closed()
