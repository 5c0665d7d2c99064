"""Blobs in memory: for the simulation, and wherever nothing has to outlive the process."""

import asyncio
import hashlib
from collections.abc import AsyncIterable, AsyncIterator, Collection
from pathlib import Path

from cloche_shared.blobs.errors import blob_not_found, digest_mismatch, over_limit
from cloche_shared.ports.blobs import Blob

CHUNK = 1 << 20


class MemoryBlobs:
    """One space; `content` maps digests to bytes."""

    def __init__(self) -> None:
        self.content: dict[str, bytes] = {}

    async def put(self, chunks: AsyncIterable[bytes], *, digest: str | None = None, limit: int | None = None) -> Blob:
        parts: list[bytes] = []
        size = 0
        async for chunk in chunks:
            size += len(chunk)
            if limit is not None and size > limit:
                raise over_limit(limit)
            parts.append(bytes(chunk))
        return self._keep(b"".join(parts), digest)

    def _keep(self, data: bytes, digest: str | None) -> Blob:
        found = "sha256:" + hashlib.sha256(data).hexdigest()
        if digest is not None and digest != found:
            raise digest_mismatch(digest, found)
        self.content[found] = data
        return Blob(found, len(data))

    async def put_bytes(self, data: bytes) -> Blob:
        return self._keep(data, None)

    async def put_file(self, path: Path, *, digest: str | None = None) -> Blob:
        return self._keep(await asyncio.to_thread(path.read_bytes), digest)

    def _get(self, digest: str) -> bytes:
        try:
            return self.content[digest]
        except KeyError:
            raise blob_not_found(digest) from None

    async def read(self, digest: str, *, start: int = 0, end: int | None = None) -> AsyncIterator[bytes]:
        data = self._get(digest)
        stop = len(data) if end is None else min(end, len(data))
        for position in range(start, stop, CHUNK):
            yield data[position : min(position + CHUNK, stop)]

    async def read_bytes(self, digest: str, *, limit: int = 16 * 1024 * 1024) -> bytes:
        data = self._get(digest)
        if len(data) > limit:
            raise over_limit(limit)
        return data

    async def size(self, digest: str) -> int | None:
        data = self.content.get(digest)
        return None if data is None else len(data)

    async def missing(self, digests: list[str]) -> list[str]:
        return [digest for digest in digests if digest not in self.content]

    async def sizes(self, digests: Collection[str]) -> dict[str, int]:
        return {digest: len(self.content[digest]) for digest in digests if digest in self.content}

    async def delete(self, digest: str) -> None:
        self.content.pop(digest, None)

    async def file(self, digest: str) -> Path | None:  # noqa: ARG002 - no file of this machine holds it
        return None


class MemoryBlobStore:
    """All spaces, made when first asked for."""

    def __init__(self) -> None:
        self._spaces: dict[tuple[str, str], MemoryBlobs] = {}

    def space(self, owner: str, scope: str) -> MemoryBlobs:
        return self._spaces.setdefault((owner, scope), MemoryBlobs())
