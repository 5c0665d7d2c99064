"""Dead letters on SQLite: put aside durably, listed, and delivered again on request."""

import sqlite3
from base64 import b64decode, b64encode
from dataclasses import asdict
from datetime import UTC, datetime

import orjson

from cloche_shared.adapters.sqlite.writer import Writer
from cloche_shared.bus.letters import letter_not_found
from cloche_shared.contracts.envelope import Event
from cloche_shared.ports.bus import DeadLetter, Delivery, Letter

RESENT = "resent"
"""The source under which letters come again: a log of its own, read by the group that buried them."""


class Letters:
    """The tables `dead` and `resent`."""

    def __init__(self, reader: sqlite3.Connection, writer: Writer) -> None:
        self._reader = reader
        self._writer = writer

    async def put(self, letter: DeadLetter) -> None:
        """Store a letter durably."""
        sql = "INSERT INTO dead(consumers,body) VALUES (?,?)"
        await self._writer.write(sql, [(letter.group, _body(letter))], durable=True)

    def page(self, limit: int, after: str) -> list[Letter]:
        """Return letters in order of their ids."""
        sql = "SELECT id,consumers,body FROM dead WHERE id>? ORDER BY id LIMIT ?"
        rows = self._reader.execute(sql, (_number(after), limit)).fetchall()
        return [Letter(str(number), _letter(group, body), _at(body)) for number, group, body in rows]

    def find(self, letter_id: str) -> Letter | None:
        """Return a letter."""
        sql = "SELECT consumers,body FROM dead WHERE id=?"
        row = self._reader.execute(sql, (_number(letter_id),)).fetchone()
        return None if row is None else Letter(letter_id, _letter(row[0], row[1]), _at(row[1]))

    async def resend(self, name: str) -> str:
        """Move a letter into the log of letters that come again, and return its group."""
        letter_id = _number(name)
        row = self._reader.execute("SELECT consumers FROM dead WHERE id=?", (letter_id,)).fetchone()
        if row is None:
            raise letter_not_found(name)
        # A crash between the two leaves the letter in both tables, which only means that it comes again.
        sql = "INSERT INTO resent(consumers,body) SELECT consumers,body FROM dead WHERE id=?"
        await self._writer.write(sql, [(letter_id,)], durable=True)
        await self._writer.write("DELETE FROM dead WHERE id=?", [(letter_id,)])
        return str(row[0])

    def resent(self, group: str, start: int, limit: int) -> list[tuple[int, DeadLetter]]:
        """Return a group's letters that come again, from position `start`."""
        sql = "SELECT pos,body FROM resent WHERE consumers=? AND pos>=? ORDER BY pos LIMIT ?"
        rows = self._reader.execute(sql, (group, start, limit)).fetchall()
        return [(pos, _letter(group, body)) for pos, body in rows]

    def forget(self, group: str, before: int) -> None:
        """Remove a group's letters that were handled after they came again."""
        sql = "DELETE FROM resent WHERE consumers=? AND pos<?"
        self._writer.write_lazily(("resent", group), sql, (group, before))


def _number(name: str) -> int:
    return int(name) if name.isascii() and name.isdigit() and len(name) <= 18 else 0  # noqa: PLR2004 - what SQLite can hold


def _body(letter: DeadLetter) -> bytes:
    was = letter.delivery
    return orjson.dumps(
        {
            "source": was.source,
            "offset": was.offset,
            "key": was.key,
            "event": asdict(was.event) if was.event else None,
            "raw": b64encode(was.raw).decode(),
            "unreadable": was.reason,
            "reason": letter.reason,
            "attempts": letter.attempts,
            "code_version": letter.code_version,
            "at": datetime.now(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z"),
        }
    )


def _at(body: bytes) -> str:
    """Return when a letter was put aside; letters of former versions do not say."""
    return str(orjson.loads(body).get("at", ""))


def _letter(group: str, body: bytes) -> DeadLetter:
    whole = orjson.loads(body)
    delivery = Delivery(
        whole["source"],
        whole["offset"],
        whole["key"],
        Event(**whole["event"]) if whole["event"] else None,
        b64decode(whole["raw"]),
        whole["unreadable"],
    )
    return DeadLetter(group, delivery, whole["reason"], whole["attempts"], whole["code_version"])
