"""Commands on SQLite: what callers gave as messages waits in a table, as on a broker's topic."""

import sqlite3
from collections.abc import Sequence
from dataclasses import asdict

import orjson

from cloche_shared.adapters.sqlite.writer import Writer
from cloche_shared.bus.topics import names
from cloche_shared.contracts.envelope import Event

INBOX = "inbox"
"""The source under which commands come: a log of its own."""


class Inbox:
    """The table `inbox`."""

    def __init__(self, reader: sqlite3.Connection, writer: Writer) -> None:
        self._reader = reader
        self._writer = writer

    async def put(self, events: Sequence[Event]) -> None:
        """Store commands durably, in order."""
        rows = [(event.topic, orjson.dumps(asdict(event))) for event in events]
        await self._writer.write("INSERT INTO inbox(topic,body) VALUES (?,?)", rows, durable=True)

    def page(self, topics: Sequence[str], start: int, limit: int) -> list[tuple[int, Event | None]]:
        """Return what lies at position `start` and behind; what is not of these topics is None."""
        sql = "SELECT pos,topic,body FROM inbox WHERE pos>=? ORDER BY pos LIMIT ?"
        rows = self._reader.execute(sql, (start, limit)).fetchall()
        return [
            (pos, Event(**orjson.loads(body)) if any(names(name, topic) for name in topics) else None)
            for pos, topic, body in rows
        ]

    def waiting(self, start: int) -> int:
        """Return how many commands lie at position `start` and behind."""
        return int(self._reader.execute("SELECT count(*) FROM inbox WHERE pos>=?", (start,)).fetchone()[0])

    def forget(self, before: int) -> None:
        """Remove what every group has handled."""
        self._writer.write_lazily((INBOX,), "DELETE FROM inbox WHERE pos<?", (before,))
