"""Diary: the log of one attempt while it is written, and its copy in the blobs."""

import re
from collections.abc import AsyncIterator, Callable

from cloche_builder.ports import BuildLogs
from cloche_shared.journal.commit import StreamId
from cloche_shared.ports.blobs import Blobs

_CREDENTIALS = re.compile(r"(?<=://)[^/\s@]+@")
_CONTROL = re.compile(r"[\x00-\x08\x0b-\x1f\x7f]")


def log_id(stream: StreamId, attempt: int) -> str:
    """Return the id of an attempt's live log."""
    return f"{stream}/{attempt}"


class Diary:
    """Writes lines with their time; keeps at most `limit` bytes and says what it dropped."""

    def __init__(self, logs: BuildLogs, log: str, now: Callable[[], str], limit: int) -> None:
        self._logs = logs
        self._log = log
        self._now = now
        self._left = limit
        self._dropped = 0

    async def say(self, text: str) -> None:
        """Write one line (several, where the text has several); no credentials, no control characters."""
        lines = [_CONTROL.sub("", _CREDENTIALS.sub("***@", line)) for line in text.splitlines() or [""]]
        at = self._now()
        whole = "".join(f"{at} {line}\n" for line in lines)
        size = len(whole.encode())
        if size > self._left:
            self._dropped += size
            return
        self._left -= size
        await self._logs.append(self._log, whole)

    async def go_on(self, former: str) -> None:
        """Begin with the log of an attempt that was lost, so that offsets keep their meaning."""
        async for piece in self._logs.read(former):
            self._left -= len(piece.data)
            await self._logs.append(self._log, piece.data.decode(errors="replace"))
        await self._logs.remove(former)

    async def last(self, text: str) -> None:
        """Write the last line, behind a note of what was dropped."""
        self._left = 1 << 20
        if self._dropped:
            await self.say(f"… {self._dropped} bytes of the log were dropped: it was over its limit")
            self._dropped = 0
        await self.say(text)

    async def ship(self, blobs: Blobs) -> str:
        """Store the log in the blobs; return its digest."""
        return (await blobs.put(self._bytes())).digest

    async def _bytes(self) -> AsyncIterator[bytes]:
        async for piece in self._logs.read(self._log):
            yield piece.data

    async def close(self) -> None:
        """Let those who follow it go, and forget the live copy: the blob has it."""
        await self._logs.remove(self._log)
