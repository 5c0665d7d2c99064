"""Blobs as files: `<root>/<owner>/<scope>/sha256/<2 hex>/<64 hex>`.

Bytes stream into a file of their own below `tmp`, are hashed on the way, synced, and renamed to
their digest: a reader finds a blob whole or not at all. An upload holds a lock on its file while it
lives, so what a crash left in `tmp` is known, and removed by the next process that writes into the
space. Files are read-only. File work is done in threads in chunks of a few MiB, so the loop is never
held up and 1 GiB is bounded by disk and hash.
"""

import asyncio
import fcntl
import hashlib
import itertools
import os
import re
import time
from collections.abc import AsyncIterable, AsyncIterator, Collection, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from cloche_shared.blobs.errors import blob_corrupt, blob_not_found, digest_mismatch, disk_error, over_limit
from cloche_shared.errors import Invalid
from cloche_shared.ports.blobs import Blob

CHUNK = 4 << 20
"""Bytes per file operation."""

SMALL = 64 << 10
"""Bytes that are hashed on the loop: that costs less than to ask a thread."""

FEW = 4
"""Blobs that are looked for on the loop, for the same reason; more are looked for in a thread."""

YOUNG_SECONDS = 60.0
"""Seconds for which a file below `tmp` is left alone, locked or not."""

_DIGEST = re.compile(r"sha256:[0-9a-f]{64}")
_SPACE = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,254}")


@contextmanager
def _classified() -> Iterator[None]:
    try:
        yield
    except FileNotFoundError:
        raise
    except OSError as error:
        raise disk_error(error) from error


class _Upload:
    """A blob that is being written. All methods run in threads, one at a time."""

    _numbers = itertools.count()

    def __init__(self, blobs: "FileBlobs") -> None:
        self._blobs = blobs
        self.size = 0
        self._hash = hashlib.sha256()
        with _classified():
            blobs.prepare()
            self.path = blobs.tmp / f"{os.getpid()}-{next(self._numbers)}-{os.urandom(4).hex()}"
            self._file = os.open(self.path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, 0o600)
            fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)

    def write(self, data: bytes) -> None:
        self._hash.update(data)
        self.size += len(data)
        view = memoryview(data)
        with _classified():
            while view:
                view = view[os.write(self._file, view) :]

    def finish(self, digest: str | None) -> Blob:
        found = "sha256:" + self._hash.hexdigest()
        if digest is not None and digest != found:
            raise digest_mismatch(digest, found)
        target = self._blobs.path(found)
        with _classified():
            if not target.exists():
                os.fchmod(self._file, 0o400)
                os.fsync(self._file)
                target.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
                self.path.rename(target)
                _sync_folder(target.parent)
        return Blob(found, self.size)

    def close(self) -> None:
        with suppress(OSError):
            os.close(self._file)
        with suppress(OSError):
            self.path.unlink()


def _remove_dead(path: Path) -> None:
    """Remove an upload's file that nobody holds; a young one may be about to be locked."""
    with suppress(OSError):
        file = os.open(path, os.O_RDONLY | os.O_NOFOLLOW)
        try:
            if time.time() - os.fstat(file).st_mtime > YOUNG_SECONDS:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                path.unlink()
        finally:
            os.close(file)


def _sync_folder(path: Path) -> None:
    folder = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)


class FileBlobs:
    """One space, in a folder of its own."""

    def __init__(self, root: Path, tidied: set[Path] | None = None) -> None:
        self._root = root
        self._folder = f"{root}/sha256"
        self._tidied = set() if tidied is None else tidied
        self.tmp = root / "tmp"

    def prepare(self) -> None:
        """Make the folder of uploads; the first time, remove what a crash left there."""
        self.tmp.mkdir(mode=0o700, parents=True, exist_ok=True)
        if self._root not in self._tidied:
            self._tidied.add(self._root)
            for path in self.tmp.iterdir():
                _remove_dead(path)

    def path(self, digest: str) -> Path:
        """Return where a digest's file lies. Raises `Invalid` (code `invalid_digest`)."""
        return Path(self._place(digest))

    def _place(self, digest: str) -> str:
        """Return it without pathlib's detour: most blobs are only asked for their size."""
        if not _DIGEST.fullmatch(digest):
            raise Invalid("invalid_digest", "A digest has the form sha256:<64 hexadecimal digits>.")
        name = digest.removeprefix("sha256:")
        return f"{self._folder}/{name[:2]}/{name}"

    async def put(self, chunks: AsyncIterable[bytes], *, digest: str | None = None, limit: int | None = None) -> Blob:
        pieces = _gathered(chunks, limit)
        first = await anext(pieces, b"")
        if len(first) < CHUNK:
            return await self._put_whole(first, digest)
        upload = await asyncio.to_thread(_Upload, self)
        try:
            await asyncio.to_thread(upload.write, first)
            async for data in pieces:
                await asyncio.to_thread(upload.write, data)
            return await asyncio.to_thread(upload.finish, digest)
        finally:
            upload.close()

    async def put_bytes(self, data: bytes) -> Blob:
        return await self._put_whole(data, None)

    async def _put_whole(self, data: bytes, digest: str | None) -> Blob:
        if len(data) <= SMALL:
            found = _digest_of(data)
            if digest in (None, found) and self._size(found) is not None:
                return Blob(found, len(data))
        return await asyncio.to_thread(self._put_bytes, data, digest)

    def _put_bytes(self, data: bytes, digest: str | None) -> Blob:
        found = _digest_of(data)
        if digest not in (None, found):
            raise digest_mismatch(digest, found)
        if self._size(found) is not None:
            return Blob(found, len(data))
        upload = _Upload(self)
        try:
            upload.write(data)
            return upload.finish(None)
        finally:
            upload.close()

    async def put_file(self, path: Path, *, digest: str | None = None) -> Blob:
        return await asyncio.to_thread(self._put_file, path, digest)

    def _put_file(self, path: Path, digest: str | None) -> Blob:
        upload = _Upload(self)
        try:
            with path.open("rb") as file:
                while data := file.read(CHUNK):
                    upload.write(data)
            return upload.finish(digest)
        finally:
            upload.close()

    async def read(self, digest: str, *, start: int = 0, end: int | None = None) -> AsyncIterator[bytes]:
        file = await asyncio.to_thread(self._open, digest)
        try:
            hasher = hashlib.sha256() if start == 0 and end is None else None
            position = start
            while data := await asyncio.to_thread(_pread, file, position, end):
                position += len(data)
                if hasher is not None:
                    await asyncio.to_thread(hasher.update, data)
                yield data
            if hasher is not None and "sha256:" + hasher.hexdigest() != digest:
                raise blob_corrupt(digest)
        finally:
            os.close(file)

    def _open(self, digest: str) -> int:
        try:
            with _classified():
                return os.open(self.path(digest), os.O_RDONLY | os.O_NOFOLLOW)
        except FileNotFoundError:
            raise blob_not_found(digest) from None

    async def read_bytes(self, digest: str, *, limit: int = 16 * 1024 * 1024) -> bytes:
        return await asyncio.to_thread(self._read_bytes, digest, limit)

    def _read_bytes(self, digest: str, limit: int) -> bytes:
        file = self._open(digest)
        with os.fdopen(file, "rb") as stream:
            if os.fstat(file).st_size > limit:
                raise over_limit(limit)
            data = stream.read()
        if _digest_of(data) != digest:
            raise blob_corrupt(digest)
        return data

    async def size(self, digest: str) -> int | None:
        return self._size(digest)

    def _size(self, digest: str) -> int | None:
        try:
            return os.stat(self._place(digest)).st_size  # noqa: PTH116 - as `_place`
        except FileNotFoundError:
            return None

    async def missing(self, digests: list[str]) -> list[str]:
        found = await self.sizes(digests)
        return [digest for digest in digests if digest not in found]

    async def sizes(self, digests: Collection[str]) -> dict[str, int]:
        def look() -> dict[str, int]:
            found = ((digest, self._size(digest)) for digest in digests)
            return {digest: size for digest, size in found if size is not None}

        return look() if len(digests) <= FEW else await asyncio.to_thread(look)

    async def delete(self, digest: str) -> None:
        path = self.path(digest)
        with _classified():
            await asyncio.to_thread(path.unlink, missing_ok=True)

    async def file(self, digest: str) -> Path | None:
        return self.path(digest) if await self.size(digest) is not None else None


def _digest_of(data: bytes) -> str:
    return "sha256:" + hashlib.sha256(data).hexdigest()


async def _gathered(chunks: AsyncIterable[bytes], limit: int | None) -> AsyncIterator[bytes]:
    """Yield the bytes in pieces of at least `CHUNK`; raise `TooLarge` as soon as `limit` is passed."""
    buffer = bytearray()
    total = 0
    async for chunk in chunks:
        total += len(chunk)
        if limit is not None and total > limit:
            raise over_limit(limit)
        buffer += chunk
        if len(buffer) >= CHUNK:
            yield bytes(buffer)
            buffer = bytearray()
    if buffer:
        yield bytes(buffer)


def _pread(file: int, position: int, end: int | None) -> bytes:
    size = CHUNK if end is None else max(0, min(CHUNK, end - position))
    with _classified():
        return os.pread(file, size, position)


class FileBlobStore:
    """All spaces below one folder."""

    def __init__(self, root: Path) -> None:
        self._root = root
        self._tidied: set[Path] = set()

    def space(self, owner: str, scope: str) -> FileBlobs:
        if not (_SPACE.fullmatch(owner) and _SPACE.fullmatch(scope)):
            raise Invalid("invalid_name", "Owners and scopes of blobs are plain names.")
        return FileBlobs(self._root / owner / scope, self._tidied)
