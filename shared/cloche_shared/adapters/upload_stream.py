"""Bytes on their way from the event loop to a thread that reads them like a file."""

import asyncio
import hashlib
import queue
from collections.abc import AsyncIterator
from concurrent.futures import Executor, Future
from typing import BinaryIO, Final

from cloche_shared.blobs.errors import digest_mismatch, over_limit
from cloche_shared.ports.blobs import Blob

DEEP: Final = 4
"""Chunks that wait for the thread at most."""
PIECE: Final = 1 << 20
POLL_S: Final = 0.5


class BrokenOffError(OSError):
    """The source of an upload broke off, so nothing of it may be kept."""


class UploadStream:
    """A file of unknown length: the loop fills it, a thread reads and hashes it.

    When the bytes are not those of `digest`, or the source breaks off, `read` raises instead of telling the
    end, so that whoever reads cannot complete what it began.
    """

    def __init__(self, head: bytes, digest: str | None, limit: int | None) -> None:
        self._head = memoryview(head)
        self._digest = digest
        self._limit = limit
        self._chunks: queue.Queue[bytes | None] = queue.Queue(DEEP)
        self._sent = len(head)
        self._rest = b""
        self._ended = False
        self._aborted = False
        self._hash = hashlib.sha256()
        self._size = 0

    # --- on the loop

    async def fill(self, source: AsyncIterator[bytes], reader: "asyncio.Future[None]") -> None:
        """Hand over everything that the source yields, as fast as it is read; stops when the reader has ended."""
        async for chunk in source:
            self._sent += len(chunk)
            if self._limit is not None and self._sent > self._limit:
                raise over_limit(self._limit)
            if not await self._offer(bytes(chunk), reader):
                return
        await self._offer(None, reader)

    async def _offer(self, chunk: bytes | None, reader: "asyncio.Future[None]") -> bool:
        while not reader.done():
            try:
                self._chunks.put_nowait(chunk)
            except queue.Full:
                await asyncio.sleep(0.002)
            else:
                return True
        return False

    def abort(self) -> None:
        """Let the reader fail."""
        self._aborted = True

    def blob(self) -> Blob:
        """Return what was read; only after its end."""
        return Blob("sha256:" + self._hash.hexdigest(), self._size)

    # --- in the thread

    def read(self, size: int = -1) -> bytes:
        """Return up to `size` bytes, as many as there are at once; empty at the end."""
        if size < 0:
            size = PIECE
        data = self._next(size)
        self._hash.update(data)
        self._size += len(data)
        if not data:
            self._check()
        return data

    def _next(self, size: int) -> bytes:
        if len(self._head):
            data, self._head = bytes(self._head[:size]), self._head[size:]
            return data
        while not self._rest and not self._ended:
            self._rest = self._wait()
        data, self._rest = self._rest[:size], self._rest[size:]
        return data

    def _wait(self) -> bytes:
        while not self._aborted:
            try:
                chunk = self._chunks.get(timeout=POLL_S)
            except queue.Empty:
                continue
            self._ended = chunk is None
            return chunk or b""
        raise BrokenOffError("the upload was given up")

    def _check(self) -> None:
        found = "sha256:" + self._hash.hexdigest()
        if self._digest is not None and found != self._digest:
            raise digest_mismatch(self._digest, found)


class CheckedFile:
    """A file that a thread reads, and that must be what it was when its digest was taken.

    The last bytes are only handed out when all of them were the right ones, so that whoever reads a file that
    changed meanwhile cannot complete what it began.
    """

    def __init__(self, file: BinaryIO, blob: Blob, beside: Executor) -> None:
        self._file = file
        self._blob = blob
        self._beside = beside
        self._hash = hashlib.sha256()
        self._hashing: Future[None] | None = None
        self._left = blob.size
        self._aborted = False

    def abort(self) -> None:
        """Let the reader fail."""
        self._aborted = True

    def read(self, size: int = -1) -> bytes:
        """Return up to `size` bytes; empty at the end."""
        if self._aborted:
            raise BrokenOffError("the upload was given up")
        data = self._file.read(min(self._left, PIECE if size < 0 else size))
        self._left -= len(data)
        if self._hashing is not None:
            self._hashing.result()
        # while one piece is sent, it is hashed
        self._hashing = self._beside.submit(self._hash.update, data)
        if self._left == 0 or not data:
            self._hashing.result()
            found = "sha256:" + self._hash.hexdigest()
            if found != self._blob.digest:
                raise digest_mismatch(self._blob.digest, found)
        return data


def blob_of(file: BinaryIO) -> Blob:
    """Return digest and length of a file from where it stands to its end."""
    hasher, size = hashlib.sha256(), 0
    while data := file.read(PIECE):
        hasher.update(data)
        size += len(data)
    return Blob("sha256:" + hasher.hexdigest(), size)
