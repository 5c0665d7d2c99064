"""Blobs: immutable bytes by content digest."""

from collections.abc import AsyncIterable, AsyncIterator, Collection
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol


@dataclass(frozen=True, slots=True)
class Blob:
    """`digest` is `sha256:<64 hex>`; `size` is in bytes."""

    digest: str
    size: int


class Blobs(Protocol):
    """One space of blobs: one owner's, for one project (or `public`).

    A blob is either absent or complete and verified: no reader ever sees a part of one.
    """

    async def put(self, chunks: AsyncIterable[bytes], *, digest: str | None = None, limit: int | None = None) -> Blob:
        """Store what `chunks` yields, hashing while it streams; storing it again is harmless.

        Raises `Invalid` (code `digest_mismatch`) when `digest` is given and the bytes have another,
        `TooLarge` (code `too_large`) as soon as more than `limit` bytes came,
        `Unavailable` (code `disk_full`) when there is no room. Nothing is left behind then.
        """

    async def put_bytes(self, data: bytes) -> Blob:
        """Store `data`."""

    async def put_file(self, path: Path, *, digest: str | None = None) -> Blob:
        """Store the content of a file of this machine, which stays as it is."""

    def read(self, digest: str, *, start: int = 0, end: int | None = None) -> AsyncIterator[bytes]:
        """Yield the bytes `[start, end)`. Raises `NotFound` (code `blob_not_found`) at the first step."""

    async def read_bytes(self, digest: str, *, limit: int = 16 * 1024 * 1024) -> bytes:
        """Return a small blob whole, verified. Raises `TooLarge` when it is over `limit`."""

    async def size(self, digest: str) -> int | None:
        """Return the size in bytes, or None when the blob is absent."""

    async def missing(self, digests: list[str]) -> list[str]:
        """Return those of `digests` that are absent, in the given order."""

    async def sizes(self, digests: Collection[str]) -> dict[str, int]:
        """Return the size in bytes of each of `digests` that is here; those that are absent are left out."""

    async def delete(self, digest: str) -> None:
        """Forget the blob; forgetting an absent one is harmless."""

    async def file(self, digest: str) -> Path | None:
        """Return a read-only file of this machine that holds the blob, or None where there is none.

        It spares a copy where blobs lie on this machine; callers fall back to `read`.
        """


class BlobStore(Protocol):
    """All spaces of one installation."""

    def space(self, owner: str, scope: str) -> Blobs:
        """Return the space of a service (`builder`, …) for a scope (a project's name, or `public`)."""
