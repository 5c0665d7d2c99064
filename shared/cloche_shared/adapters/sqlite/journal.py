"""Journal on SQLite."""

import sqlite3
from collections.abc import Sequence

from cloche_shared.adapters.sqlite.writer import Writer
from cloche_shared.ports.journal import Document, Verdict

_COLUMNS = "key,body,topic,partition_key"


class SqliteJournal:
    """One service's documents in the file.

    Reads run on the loop's own thread: a `get` takes some 10 µs, a `read` of 1,000 small documents
    about 2 ms, and no writer makes a reader wait in WAL mode. Ask for long ranges in pages.
    """

    def __init__(self, service: str, reader: sqlite3.Connection, writer: Writer) -> None:
        self._service = service
        self._reader = reader
        self._writer = writer
        table = f"{service}_journal"
        # The names are ours (identifiers, checked when the file is opened), never a user's.
        self._get = f"SELECT {_COLUMNS} FROM {table} WHERE key=?"  # noqa: S608
        self._read = f"SELECT {_COLUMNS} FROM {table} WHERE key>? AND key>=? AND key<? ORDER BY key LIMIT ?"  # noqa: S608
        self._unsent = (
            f"SELECT {_COLUMNS} FROM {table} AS j"  # noqa: S608
            " WHERE pos>coalesce((SELECT pos FROM floors WHERE service=?),0) AND topic<>''"
            f" AND NOT EXISTS (SELECT 1 FROM {service}_marks AS m WHERE m.pos=j.pos) ORDER BY pos LIMIT ?"
        )
        self._mark = f"INSERT OR IGNORE INTO {service}_marks SELECT pos FROM {table} WHERE key=?"  # noqa: S608
        self._raise_floor = (
            f"INSERT INTO floors SELECT ?, coalesce((SELECT min(pos)-1 FROM {table} AS j"  # noqa: S608
            " WHERE pos>coalesce((SELECT pos FROM floors WHERE service=?),0) AND topic<>''"
            f" AND NOT EXISTS (SELECT 1 FROM {service}_marks AS m WHERE m.pos=j.pos)),"
            f" (SELECT max(pos) FROM {table}), 0) WHERE true ON CONFLICT(service) DO UPDATE SET pos=excluded.pos"
        )
        self._forget = f"DELETE FROM {service}_marks WHERE pos<=(SELECT pos FROM floors WHERE service=?)"  # noqa: S608

    @property
    def atomic(self) -> bool:
        return True

    async def append_many(self, documents: Sequence[Document]) -> list[Verdict]:
        if not documents:
            return []
        return await self._writer.append(self._service, documents)

    async def get(self, key: str) -> Document | None:
        row = self._reader.execute(self._get, (key,)).fetchone()
        return Document(*row) if row else None

    async def read(self, prefix: str, *, after: str = "", limit: int = 1000) -> list[Document]:
        rows = self._reader.execute(self._read, (after, prefix, prefix + "\U0010ffff", limit))
        return [Document(*row) for row in rows.fetchall()]

    async def unsent(self, limit: int = 1000) -> list[Document]:
        rows = self._reader.execute(self._unsent, (self._service, limit))
        return [Document(*row) for row in rows.fetchall()]

    async def mark_sent(self, keys: Sequence[str]) -> None:
        if not keys:
            return
        await self._writer.write(self._mark, [(key,) for key in keys])
        # Marks up to the first unsent document become one number, so that they do not pile up.
        await self._writer.write(self._raise_floor, [(self._service, self._service)])
        await self._writer.write(self._forget, [(self._service,)])
