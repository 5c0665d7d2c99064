"""Views and leases on SQLite."""

import sqlite3
from collections.abc import Collection, Sequence

from cloche_shared.adapters.sqlite.writer import ROWS, Writer
from cloche_shared.adapters.waiters import Waiters
from cloche_shared.ports.journal import Lease
from cloche_shared.ports.views import Row

_COLUMNS = "view,project,key,seq,sort,body,facet"


class SqliteViews:
    """One service's lists. Reads run on the loop's thread: a page is one range of an index."""

    def __init__(self, service: str, reader: sqlite3.Connection, writer: Writer) -> None:
        self._reader = reader
        self._writer = writer
        self._table = f"{service}_views"
        self._waiters = Waiters()
        self._upsert = (
            f"INSERT INTO {self._table}({_COLUMNS}) VALUES {ROWS} ON CONFLICT(view,project,key) DO UPDATE SET"  # noqa: S608 - our own name
            " seq=excluded.seq,sort=excluded.sort,body=excluded.body,facet=excluded.facet WHERE excluded.seq>=seq"
        )

    async def upsert(self, rows: Sequence[Row]) -> None:
        if not rows:
            return
        values = [(row.view, row.project, row.key, row.seq, row.sort, row.body, row.facet) for row in rows]
        await self._writer.write(self._upsert, values, then=lambda: self._waiters.reached(rows))

    async def get(self, view: str, project: str, key: str) -> Row | None:
        sql = f"SELECT {_COLUMNS} FROM {self._table} WHERE view=? AND project=? AND key=?"  # noqa: S608 - our own name
        row = self._reader.execute(sql, (view, project, key)).fetchone()
        return Row(*row) if row else None

    async def some(self, view: str, project: str, keys: Collection[str]) -> dict[str, Row]:
        marks = ",".join("?" * len(keys))
        sql = f"SELECT {_COLUMNS} FROM {self._table} WHERE view=? AND project=? AND key IN ({marks})"  # noqa: S608 - our own words
        return {row.key: row for row in (Row(*one) for one in self._reader.execute(sql, (view, project, *keys)))}

    async def page(
        self,
        view: str,
        project: str,
        *,
        facet: str | None = None,
        after: tuple[str, str] | None = None,
        limit: int = 50,
        descending: bool = False,
    ) -> list[Row]:
        where, values = "view=? AND project=?", [view, project]
        if facet is not None:
            where, values = where + " AND facet=?", [*values, facet]
        if after is not None:
            where, values = where + f" AND (sort,key){'<' if descending else '>'}(?,?)", [*values, *after]
        way = "DESC" if descending else "ASC"
        sql = f"SELECT {_COLUMNS} FROM {self._table} WHERE {where} ORDER BY sort {way}, key {way} LIMIT ?"  # noqa: S608 - our own words
        return [Row(*row) for row in self._reader.execute(sql, (*values, limit)).fetchall()]

    async def delete(self, view: str, project: str, key: str) -> None:
        sql = f"DELETE FROM {self._table} WHERE view=? AND project=? AND key=?"  # noqa: S608 - our own name
        await self._writer.write(sql, [(view, project, key)], then=lambda: self._waiters.gone(view, project, key))

    async def changed(self, view: str, project: str, key: str, seq: int) -> None:
        waiting = self._waiters.wait(view, project, key, seq)
        try:
            row = await self.get(view, project, key)
            if row is None or row.seq < seq:
                await waiting
        finally:
            self._waiters.leave(view, project, key, waiting)


class SqliteLeases:
    """One service's leases. They are not synced: after a power cut their holders are dead anyway."""

    def __init__(self, service: str, reader: sqlite3.Connection, writer: Writer) -> None:
        self._reader = reader
        self._writer = writer
        self._table = f"{service}_leases"

    async def put(self, lease: Lease) -> None:
        sql = f"INSERT OR REPLACE INTO {self._table} VALUES (?,?,?,?,?)"  # noqa: S608 - our own name
        row = (lease.holder, lease.counter, lease.ttl, lease.address, lease.grant_until)
        await self._writer.write(sql, [row])

    async def get(self, holder: str) -> Lease | None:
        row = self._reader.execute(f"SELECT * FROM {self._table} WHERE holder=?", (holder,)).fetchone()  # noqa: S608 - our own name
        return Lease(*row) if row else None

    async def all(self) -> list[Lease]:
        rows = self._reader.execute(f"SELECT * FROM {self._table} ORDER BY holder").fetchall()  # noqa: S608 - our own name
        return [Lease(*row) for row in rows]


__all__ = ["SqliteLeases", "SqliteViews"]
