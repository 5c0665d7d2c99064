"""Where the past begins: the first document of a journal that was written since a time."""

import sqlite3
from datetime import datetime

import orjson


def first_position(reader: sqlite3.Connection, source: str, last: int, since: datetime | None) -> int:
    """Return the position of the first document that was written since a time; behind `last` when none was.

    Found by halves: positions are given in order of commit, and so do times go, but for a clock that was set back.
    """
    if since is None:
        return 0
    low, high = 0, last + 1
    while low < high:
        middle = (low + high) // 2
        found = _next(reader, source, middle)
        if found is None or found[0] >= high:
            high = middle
        elif found[1] < since:
            low = found[0] + 1
        else:
            high = middle
    return low if _next(reader, source, low) is not None else last + 1


def _next(reader: sqlite3.Connection, source: str, pos: int) -> tuple[int, datetime] | None:
    sql = f"SELECT pos,body FROM {source}_journal WHERE pos>=? ORDER BY pos LIMIT 1"  # noqa: S608 - our own name
    row = reader.execute(sql, (pos,)).fetchone()
    return None if row is None else (int(row[0]), datetime.fromisoformat(orjson.loads(row[1])["at"]))
