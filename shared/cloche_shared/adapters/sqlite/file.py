"""The file that holds what an embedded Cloche knows."""

import asyncio
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path

from cloche_shared.adapters.sqlite.bus import TAIL, JournalBus
from cloche_shared.adapters.sqlite.journal import SqliteJournal
from cloche_shared.adapters.sqlite.schema import Connect, connect, open_reader, open_writer
from cloche_shared.adapters.sqlite.views import SqliteLeases, SqliteViews
from cloche_shared.adapters.sqlite.writer import Writer

SERVICES = ("registry", "builder", "runner", "deployer")


class SqliteFile:
    """One SQLite file with tables of their own for each service, one writer and one reader.

    One process opens it at a time (the data folder's lock sees to that) and uses it from one event
    loop; `open` must be called on that loop.
    """

    def __init__(self, writer: Writer, stack: ExitStack, bus: JournalBus, services: dict[str, SqliteViews]) -> None:
        self._writer = writer
        self._stack = stack
        self._bus = bus
        self._views = services

    @classmethod
    async def open(
        cls,
        path: Path,
        *,
        services: Sequence[str] = SERVICES,
        delay: float = 0.0,
        tail: int = TAIL,
        make: Connect = connect,
    ) -> "SqliteFile":
        """Open or create the file (mode 0600).

        `delay` holds back every delivery of the bus, in seconds; `tail` bounds the deliveries that
        are held in memory for one subscription.

        Raises `Conflict` (`data_too_new`), `Unavailable` (`disk_full`, `store_unavailable`).
        """
        with ExitStack() as stack:
            writing = await asyncio.to_thread(open_writer, path, services, make)
            stack.callback(writing.close)
            reader = open_reader(path, make)
            stack.callback(reader.close)
            writer = Writer(writing, services)
            bus = JournalBus(reader, writer, delay=delay, tail=tail)
            views = {name: SqliteViews(name, reader, writer) for name in services}
            return cls(writer, stack.pop_all(), bus, views)

    async def close(self) -> None:
        """Write what waits and close; calls that come later raise `Unavailable`."""
        await self._writer.close()
        self._stack.close()

    def journal(self, service: str) -> SqliteJournal:
        """Return a service's documents."""
        return SqliteJournal(service, self._bus.reader, self._writer)

    def views(self, service: str) -> SqliteViews:
        """Return a service's lists: always the same object, because waiting for rows goes through it."""
        return self._views[service]

    def leases(self, service: str) -> SqliteLeases:
        """Return a service's leases."""
        return SqliteLeases(service, self._bus.reader, self._writer)

    def bus(self) -> JournalBus:
        """Return the bus over all journals of the file."""
        return self._bus
