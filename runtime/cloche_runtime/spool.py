"""The log of a group: masked, capped, and never in the way of the process that writes it."""

import os
import re
from typing import List, Optional, Sequence

MASK = b"***"


class Redactor:
    """Masks secret values in a stream of bytes, also those that cross the borders of chunks.

    What could be the beginning of a secret is held back until more comes or the stream ends.
    """

    def __init__(self, secrets: Sequence[str]) -> None:
        values = sorted({one.encode() for one in secrets if one}, key=len, reverse=True)
        self._values = values
        self._longest = len(values[0]) if values else 0
        self._pattern = re.compile(b"|".join(map(re.escape, values))) if values else None
        self._held = b""

    def feed(self, data: bytes) -> bytes:
        """Take the next bytes and return what may be shown now."""
        if self._pattern is None:
            return data
        data = self._held + data
        keep = self._doubtful(data)
        out: List[bytes] = []
        done = 0
        for match in self._pattern.finditer(data):
            if match.start() >= keep:
                break
            out.append(data[done : match.start()])
            out.append(MASK)
            done = match.end()
        keep = max(keep, done)
        out.append(data[done:keep])
        self._held = data[keep:]
        return b"".join(out)

    def end(self) -> bytes:
        """Return what was held back, masked: nothing more will come."""
        held, self._held = self._held, b""
        return self._pattern.sub(MASK, held) if self._pattern is not None else held

    def _doubtful(self, data: bytes) -> int:
        """Return where the longest tail begins that is the beginning of a secret."""
        for at in range(max(0, len(data) - self._longest + 1), len(data)):
            tail = data[at:]
            if any(len(tail) < len(one) and one.startswith(tail) for one in self._values):
                return at
        return len(data)


class Spool:
    """Appends to the log file up to `limit` bytes and counts what it drops after that.

    A full disk drops bytes too, and says so: the process that writes is never held up or ended for
    the sake of its log. `size` is the file's length, markers included; `dropped` the bytes lost.
    """

    def __init__(self, path: str, limit: int, secrets: Sequence[str]) -> None:
        self._fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
        self._limit = limit
        self._redactor = Redactor(secrets)
        self.size = os.fstat(self._fd).st_size
        self.dropped = 0

    def feed(self, data: bytes) -> None:
        """Take bytes as the group wrote them."""
        self._keep(self._redactor.feed(data))

    def end(self) -> None:
        """Write what was held back, and the note of what is missing."""
        self._keep(self._redactor.end())
        if self.dropped:
            self._write(b"\n[cloche: %d bytes of the log were dropped]\n" % self.dropped)

    def close(self) -> None:
        """Make the log durable."""
        if self.size:
            os.fdatasync(self._fd)
        os.close(self._fd)

    def _keep(self, data: bytes) -> None:
        if not data:
            return
        room = 0 if self.dropped else max(0, self._limit - self.size)
        kept = self._write(data[:room]) if room else 0
        if kept == len(data):
            return
        if not self.dropped:
            self._write(b"\n[cloche: log truncated here, its limit is %d bytes]\n" % self._limit)
        self.dropped += len(data) - kept

    def _write(self, data: bytes) -> int:
        """Write as much as the disk takes and return how much that was."""
        done = 0
        while done < len(data):
            wrote = self._try(data[done:])
            if wrote is None:
                break
            done += wrote
        self.size += done
        return done

    def _try(self, data: bytes) -> Optional[int]:
        try:
            return os.write(self._fd, data)
        except OSError:
            return None
