"""Journal on SQLite."""

import sqlite3
from collections.abc import Sequence

from cloche_shared.adapters.sqlite.writer import Writer
from cloche_shared.ports.journal import Document, Verdict


class SqliteJournal:
    """One service's documents in the file.

    Reads run on the loop's own thread: a `get` takes some 10 µs, a `read` of 1,000 small documents
    about 2 ms, and no writer makes a reader wait in WAL mode. Ask for long ranges in pages.

    Marks are rows of a table of their own; up to the first unsent document they become one number
    (the floor), so that they do not pile up and inserting a document costs nothing for them.
    """

    def __init__(self, service: str, reader: sqlite3.Connection, writer: Writer) -> None:
        self._service = service
        self._reader = reader
        self._writer = writer
        self._sql = _Statements(service)

    @property
    def atomic(self) -> bool:
        return True

    async def append_many(self, documents: Sequence[Document]) -> list[Verdict]:
        if not documents:
            return []
        return await self._writer.append(self._service, documents)

    async def get(self, key: str) -> Document | None:
        row = self._reader.execute(self._sql.get, (key,)).fetchone()
        return _document(row) if row else None

    async def read(self, prefix: str, *, after: str = "", limit: int = 1000) -> list[Document]:
        # one lower bound: of two, SQLite would search by the first and walk to the second
        lower = max(prefix, after + "\x01")
        rows = self._reader.execute(self._sql.read, (lower, prefix + "\U0010ffff", limit))
        return [_document(row) for row in rows.fetchall()]

    async def unsent(self, limit: int = 1000) -> list[Document]:
        return [_document(row) for row in self._reader.execute(self._sql.unsent, (limit,)).fetchall()]

    async def mark_sent(self, keys: Sequence[str]) -> None:
        if not keys:
            return
        await self._writer.write(self._sql.mark, [(key,) for key in keys])
        await self._writer.write(self._sql.raise_floor, [(self._service,)])
        await self._writer.write(self._sql.forget, [()])


class _Statements:
    """The SQL of one service. Its name is ours: an identifier, checked when the file is opened."""

    def __init__(self, service: str) -> None:
        floor = f"coalesce((SELECT pos FROM floors WHERE service='{service}'),0)"  # noqa: S608
        marked = f"EXISTS (SELECT 1 FROM {service}_marks AS m WHERE m.pos=j.pos)"  # noqa: S608
        start = f"SELECT key,body,topic,partition_key,pos<={floor} OR {marked} FROM {service}_journal AS j WHERE"  # noqa: S608
        waits = f"pos>{floor} AND topic<>'' AND NOT {marked}"
        self.get = f"{start} key=?"
        self.read = f"{start} key>=? AND key<? ORDER BY key LIMIT ?"
        self.unsent = f"{start} {waits} ORDER BY pos LIMIT ?"
        self.mark = f"INSERT OR IGNORE INTO {service}_marks SELECT pos FROM {service}_journal WHERE key=?"  # noqa: S608
        self.raise_floor = (
            f"INSERT INTO floors SELECT ?, coalesce((SELECT min(pos)-1 FROM {service}_journal AS j WHERE {waits}),"  # noqa: S608
            f" (SELECT max(pos) FROM {service}_journal), 0) WHERE true"
            " ON CONFLICT(service) DO UPDATE SET pos=excluded.pos"
        )
        self.forget = f"DELETE FROM {service}_marks WHERE pos<={floor}"  # noqa: S608


def _document(row: tuple[str, bytes, str, str, int]) -> Document:
    return Document(row[0], row[1], row[2], row[3], bool(row[4]))
