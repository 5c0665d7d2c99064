"""Dead letters on SQLite: put aside durably, listed, and delivered again on request."""

import sqlite3
from base64 import b64decode, b64encode
from dataclasses import asdict, dataclass

import orjson

from cloche_shared.adapters.sqlite.writer import Writer
from cloche_shared.contracts.envelope import Event
from cloche_shared.errors import NotFound
from cloche_shared.ports.bus import DeadLetter, Delivery

RESENT = "resent"
"""The source under which letters come again: a log of its own, read by the group that buried them."""


@dataclass(frozen=True, slots=True)
class Letter:
    """A dead letter with the number under which it can be sent again."""

    id: int
    letter: DeadLetter


class Letters:
    """The tables `dead` and `resent`."""

    def __init__(self, reader: sqlite3.Connection, writer: Writer) -> None:
        self._reader = reader
        self._writer = writer

    async def put(self, letter: DeadLetter) -> None:
        """Store a letter durably."""
        sql = "INSERT INTO dead(consumers,body) VALUES (?,?)"
        await self._writer.write(sql, [(letter.group, _body(letter))], durable=True)

    def page(self, limit: int, after: int) -> list[Letter]:
        """Return letters in order of their ids."""
        sql = "SELECT id,consumers,body FROM dead WHERE id>? ORDER BY id LIMIT ?"
        rows = self._reader.execute(sql, (after, limit)).fetchall()
        return [Letter(number, _letter(group, body)) for number, group, body in rows]

    async def resend(self, letter_id: int) -> str:
        """Move a letter into the log of letters that come again, and return its group."""
        row = self._reader.execute("SELECT consumers FROM dead WHERE id=?", (letter_id,)).fetchone()
        if row is None:
            raise NotFound("letter_not_found", f"There is no dead letter {letter_id}.")
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
        }
    )


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
