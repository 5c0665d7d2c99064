"""A way to a broker that a test can cut: between a client and a plain listener, frame by frame.

The broker's own address is replaced in its answers, so that clients come back through here.
"""

import asyncio
import struct
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress

from tests.environments.servers import KafkaServer

PRODUCE = 0


class KafkaLink:
    """Connections to one broker. `silent`: nothing passes any more, as when a cable is cut.

    `lose_answers`: of so many messages the broker's answer never arrives, though it took them.
    `produced` gets what was sent once the broker has answered, and before anybody hears of it.
    """

    def __init__(self, server: KafkaServer) -> None:
        host, _, port = server.bootstrap.rpartition(":")
        self._broker = (host, int(port))
        self.address = ""
        self.silent = False
        self.lose_answers = 0
        self.lost = 0
        self.produced: Callable[[bytes], None] = lambda _request: None
        self._names = (b"", b"")
        self._tasks: set[asyncio.Task[None]] = set()

    def listens_at(self, port: int) -> None:
        host, broker_port = self._broker
        self.address = f"{host}:{port}"
        name = struct.pack(">h", len(host)) + host.encode()
        self._names = (name + struct.pack(">i", broker_port), name + struct.pack(">i", port))

    async def connect(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        if task is not None:
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)
        try:
            to_reader, to_writer = await asyncio.open_connection(*self._broker)
        except OSError:  # nobody is there: who asks sees the connection break
            writer.close()
            return
        asked: dict[int, bytes] = {}
        try:
            async with asyncio.TaskGroup() as group:
                group.create_task(self._questions(reader, to_writer, asked))
                group.create_task(self._answers(to_reader, writer, asked))
        except* (OSError, asyncio.IncompleteReadError):
            pass
        finally:
            for one in (writer, to_writer):
                one.close()
                with suppress(OSError):
                    await one.wait_closed()

    async def _questions(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, asked: dict[int, bytes]
    ) -> None:
        while True:
            frame = await _frame(reader)
            if self.silent:
                continue
            kind, _, number = struct.unpack(">hhi", frame[:8])
            if kind == PRODUCE:
                asked[number] = frame
            writer.write(struct.pack(">i", len(frame)) + frame)
            await writer.drain()

    async def _answers(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, asked: dict[int, bytes]
    ) -> None:
        while True:
            frame = await _frame(reader)
            (number,) = struct.unpack(">i", frame[:4])
            request = asked.pop(number, None)
            if request is not None:
                self.produced(request)
            if request is not None and self.lose_answers:
                self.lose_answers -= 1
                self.lost += 1
                raise ConnectionResetError
            if self.silent:
                continue
            frame = frame.replace(*self._names)
            writer.write(struct.pack(">i", len(frame)) + frame)
            await writer.drain()

    async def close(self) -> None:
        tasks = list(self._tasks)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


async def _frame(reader: asyncio.StreamReader) -> bytes:
    (size,) = struct.unpack(">i", await reader.readexactly(4))
    return await reader.readexactly(size)


@asynccontextmanager
async def kafka_link(server: KafkaServer) -> AsyncIterator[KafkaLink]:
    """Yield a way to the broker's plain listener."""
    link = KafkaLink(server)
    listener = await asyncio.start_server(link.connect, "127.0.0.1", 0)
    link.listens_at(listener.sockets[0].getsockname()[1])
    try:
        yield link
    finally:
        listener.close()
        await link.close()
        await listener.wait_closed()
