"""Blobs on S3: `<owner>/<scope>/<2 hex>/<64 hex>` in one bucket, through the `minio` client.

A key is written whole or not at all: small blobs in one request, large ones as a multipart upload that
is completed only when the digest of all bytes is known. Where the digest was not announced, the parts go
to a key below `<owner>/_uploads/`, which is copied inside the server and removed. The client is synchronous, so
its calls run in a bounded pool of threads; memory is bounded by the size of the parts, never by that of
a blob.
"""

import asyncio
import hashlib
import io
import re
import uuid
from collections.abc import AsyncIterable, AsyncIterator, Callable, Collection
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from functools import partial
from pathlib import Path
from typing import BinaryIO, Final, TypeVar, cast

import certifi
import urllib3
from minio import Minio
from minio.commonconfig import CopySource
from minio.error import MinioException, S3Error
from urllib3.exceptions import HTTPError
from urllib3.response import BaseHTTPResponse

from cloche_shared.adapters.upload_stream import CheckedFile, UploadStream, blob_of
from cloche_shared.backends import S3Settings
from cloche_shared.blobs.errors import blob_corrupt, blob_not_found, digest_mismatch, over_limit
from cloche_shared.errors import ClocheError, Invalid, Unavailable
from cloche_shared.ports.blobs import Blob

CHUNK: Final = 1 << 20
"""Bytes per step of a download."""
THREADS: Final = 16
FEW: Final = 16
"""Blobs that are looked for at a time."""
LONGEST_URL_S: Final = 900
LEFT_HOURS: Final = 24
"""Hours after which an unfinished upload is a dead one's."""
CONNECT_S: Final = 5.0
UPLOADS: Final = "_uploads"
"""Beside an owner's scopes, none of which can have this name: nobody but the owner needs to write there."""

_DIGEST = re.compile(r"sha256:[0-9a-f]{64}").fullmatch
_SPACE = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,254}").fullmatch
_ABSENT = frozenset(("NoSuchKey", "NoSuchObject", "NotFound"))
_REFUSED = frozenset(("AccessDenied", "InvalidAccessKeyId", "SignatureDoesNotMatch", "AuthorizationHeaderMalformed"))
_THERE = frozenset(("BucketAlreadyOwnedByYou", "BucketAlreadyExists"))
_FULL = frozenset(("XMinioStorageFull", "QuotaExceeded", "InsufficientCapacity", "StorageFull"))

T = TypeVar("T")


def _unavailable(why: str) -> Unavailable:
    return Unavailable(
        "store_unavailable", "The store of blobs does not answer.", why=why, todo="Try again; nothing was lost."
    )


def _classified(error: Exception) -> Exception:
    """Return what users see of a failure; the client's own texts may hold addresses and are left out."""
    if isinstance(error, S3Error):
        code = str(error.code)
        if code in _REFUSED:
            return Invalid(
                "store_auth",
                "The store of blobs refuses the credentials.",
                why=code,
                todo="See s3.access_key and s3.secret_key_file, and what that key may do with the bucket.",
            )
        if code in _FULL:
            return Unavailable("disk_full", "There is no room left in the store of blobs.", why=code)
        return _unavailable(code)
    if isinstance(error, (HTTPError, MinioException, OSError)):
        return _unavailable(type(error).__name__)
    return error


class S3BlobStore:
    """All spaces of one bucket. `owner`: whose dead uploads are removed at the start, after `left_hours`."""

    def __init__(self, settings: S3Settings, owner: str = "", *, left_hours: float = LEFT_HOURS) -> None:
        self._owner = owner
        self._left_hours = left_hours
        scheme, _, endpoint = settings.endpoint.partition("://")
        self.bucket = settings.bucket
        self._endpoint = settings.endpoint
        self.part_bytes = settings.part_bytes
        self._threads = ThreadPoolExecutor(THREADS, thread_name_prefix="s3")
        pool = urllib3.PoolManager(
            timeout=urllib3.Timeout(connect=CONNECT_S, read=settings.timeout_s),
            maxsize=THREADS,
            cert_reqs="CERT_REQUIRED",
            ca_certs=settings.ca_file or certifi.where(),
            retries=urllib3.Retry(total=2, backoff_factor=0.2, status_forcelist=[502, 503, 504]),
        )
        self.client = Minio(
            endpoint,
            access_key=settings.access_key or None,
            secret_key=settings.secret_key.get_secret_value() or None,
            secure=scheme == "https",
            region=settings.region,
            http_client=pool,
        )
        self._pool = pool

    def space(self, owner: str, scope: str) -> "S3Blobs":
        """Return one space. Raises `Invalid` (`invalid_name`) for what is no name of ours."""
        if not _SPACE(owner) or not _SPACE(scope):
            raise Invalid("invalid_name", "That is not the name of a space of blobs.")
        return S3Blobs(self, f"{owner}/{scope}/", f"{owner}/{UPLOADS}/")

    async def call(self, function: Callable[..., T], *arguments: object, **named: object) -> T:
        """Call the client in a thread; what it raises is classified."""
        loop = asyncio.get_running_loop()
        try:
            return await loop.run_in_executor(self._threads, partial(function, *arguments, **named))
        except (MinioException, HTTPError, OSError) as error:
            raise _classified(error) from error

    async def probe(self) -> str:
        """Make the bucket where it is not there, remove dead uploads; return which server it is."""
        if not await self.call(self.client.bucket_exists, self.bucket):
            await self._make_bucket()
        await self.call(self._sweep)
        return f"bucket {self.bucket} at {await self.call(self._product)}"

    async def _make_bucket(self) -> None:
        try:
            await self.call(self.client.make_bucket, self.bucket)
        except Unavailable as error:
            if error.why not in _THERE:
                raise

    def _product(self) -> str:
        answer = self._pool.request("GET", self._endpoint, retries=False)
        answer.drain_conn()
        return answer.headers.get("Server") or "an S3 server"

    def _sweep(self) -> None:
        """Remove what uploads of the owner's dead processes left."""
        if not self._owner:
            return
        limit = datetime.now(UTC) - timedelta(hours=self._left_hours)
        for found in self.client.list_objects(self.bucket, prefix=f"{self._owner}/{UPLOADS}/", recursive=True):
            if found.last_modified is not None and found.last_modified < limit and found.object_name:
                self.client.remove_object(self.bucket, found.object_name)

    async def check(self) -> str | None:
        """Return what is wrong with the server now, None when it is well."""
        try:
            there = await self.call(self.client.bucket_exists, self.bucket)
        except ClocheError as error:
            return f"{error.code}: {error.why}"
        return None if there else f"the bucket {self.bucket} is gone"

    async def close(self) -> None:
        """Let running calls end and close every connection."""
        await asyncio.to_thread(self._threads.shutdown, cancel_futures=True)
        self._pool.clear()


class S3Blobs:
    """One space: the keys that begin with `prefix`; what has no digest yet lies below `uploads`."""

    def __init__(self, store: S3BlobStore, prefix: str, uploads: str) -> None:
        self._store = store
        self._prefix = prefix
        self._uploads = uploads

    def _key(self, digest: str) -> str:
        if not _DIGEST(digest):
            raise Invalid("invalid_digest", "That is not a digest (sha256: and 64 hexadecimal digits).")
        name = digest.removeprefix("sha256:")
        return f"{self._prefix}{name[:2]}/{name}"

    # --- writing

    async def put(self, chunks: AsyncIterable[bytes], *, digest: str | None = None, limit: int | None = None) -> Blob:
        if digest is not None:
            self._key(digest)
        source = aiter(chunks)
        head = await _head(source, self._store.part_bytes, limit)
        if len(head) < self._store.part_bytes:
            return await self._put_small(head, digest)
        return await self._put_large(head, source, digest, limit)

    async def put_bytes(self, data: bytes) -> Blob:
        if len(data) < self._store.part_bytes:
            return await self._put_small(data, None)

        async def chunks() -> AsyncIterator[bytes]:
            for start in range(0, len(data), CHUNK):
                yield data[start : start + CHUNK]

        return await self.put(chunks())

    async def put_file(self, path: Path, *, digest: str | None = None) -> Blob:
        """Read the file twice rather than upload it under a name that it only has afterwards."""
        with await asyncio.to_thread(path.open, "rb") as file, ThreadPoolExecutor(1) as beside:
            blob = await asyncio.to_thread(blob_of, file)
            if digest is not None and digest != blob.digest:
                raise digest_mismatch(digest, blob.digest)
            if await self.size(blob.digest) is None:
                await asyncio.to_thread(file.seek, 0)
                await self._put_checked(CheckedFile(file, blob, beside), blob)
        return blob

    async def _put_checked(self, stream: CheckedFile, blob: Blob) -> None:
        sending = asyncio.ensure_future(self._send(self._key(blob.digest), stream, blob.size))
        try:
            await asyncio.shield(sending)
        except BaseException:
            stream.abort()
            await asyncio.shield(asyncio.gather(sending, return_exceptions=True))
            raise

    async def _put_small(self, data: bytes, digest: str | None) -> Blob:
        found = "sha256:" + hashlib.sha256(data).hexdigest()
        if digest is not None and digest != found:
            raise digest_mismatch(digest, found)
        if await self.size(found) is None:
            await self._store.call(
                self._store.client.put_object, self._store.bucket, self._key(found), io.BytesIO(data), len(data)
            )
        return Blob(found, len(data))

    async def _put_large(
        self, head: bytes, source: AsyncIterator[bytes], digest: str | None, limit: int | None
    ) -> Blob:
        stream = UploadStream(head, digest, limit)
        key = self._key(digest) if digest is not None else f"{self._uploads}{uuid.uuid4().hex}"
        sending = asyncio.ensure_future(self._send(key, stream))
        try:
            await stream.fill(source, sending)
            await sending
        except BaseException:
            stream.abort()
            with suppress(Exception):
                await asyncio.shield(asyncio.wait([sending]))
            if digest is None:
                await asyncio.shield(self._forget(key))
            raise
        blob = stream.blob()
        if digest is None:
            await self._settle(key, blob.digest)
        return blob

    async def _send(self, key: str, stream: UploadStream | CheckedFile, length: int = -1) -> None:
        """Send the parts; when reading raises, the client aborts the upload and nothing is kept."""
        store = self._store
        await store.call(
            store.client.put_object,
            store.bucket,
            key,
            cast("BinaryIO", stream),
            length,
            part_size=store.part_bytes,
            num_parallel_uploads=1,
        )

    async def _settle(self, key: str, digest: str) -> None:
        """Give a finished upload its name: a copy inside the server."""
        store = self._store
        try:
            if await self.size(digest) is None:
                source = CopySource(store.bucket, key)
                await store.call(store.client.copy_object, store.bucket, self._key(digest), source)
        finally:
            await asyncio.shield(self._forget(key))

    async def _forget(self, key: str) -> None:
        """Remove a temporary key; what is left after a failure is swept later."""
        with suppress(ClocheError):
            await self._store.call(self._store.client.remove_object, self._store.bucket, key)

    async def delete(self, digest: str) -> None:
        await self._store.call(self._store.client.remove_object, self._store.bucket, self._key(digest))

    # --- reading

    async def read(self, digest: str, *, start: int = 0, end: int | None = None) -> AsyncIterator[bytes]:
        size = await self.size(digest)
        if size is None:
            raise blob_not_found(digest)
        stop = size if end is None else min(end, size)
        if start >= stop:
            return
        is_whole = start == 0 and stop == size
        hasher, left = hashlib.sha256(), stop - start
        answer = await self._open(digest, start, left)
        try:
            while left > 0:
                chunk = await self._store.call(_read, answer)
                if not chunk or len(chunk) > left:
                    raise _unavailable("The bytes broke off.")
                left -= len(chunk)
                if is_whole:
                    hasher.update(chunk)
                    if left == 0 and hasher.hexdigest() != digest.removeprefix("sha256:"):
                        raise blob_corrupt(digest)
                yield chunk
        finally:
            await asyncio.shield(self._store.call(_close, answer))

    async def _open(self, digest: str, start: int, length: int) -> BaseHTTPResponse:
        store = self._store
        try:
            return await store.call(
                store.client.get_object, store.bucket, self._key(digest), offset=start, length=length
            )
        except Unavailable as error:
            if error.why in _ABSENT:
                raise blob_not_found(digest) from error
            raise

    async def read_bytes(self, digest: str, *, limit: int = 16 * 1024 * 1024) -> bytes:
        size = await self.size(digest)
        if size is None:
            raise blob_not_found(digest)
        if size > limit:
            raise over_limit(limit)
        return b"".join([chunk async for chunk in self.read(digest)])

    async def size(self, digest: str) -> int | None:
        store = self._store
        try:
            found = await store.call(store.client.stat_object, store.bucket, self._key(digest))
        except Unavailable as error:
            if error.why in _ABSENT:
                return None
            raise
        return found.size

    async def missing(self, digests: list[str]) -> list[str]:
        here = await self.sizes(digests)
        return [digest for digest in digests if digest not in here]

    async def sizes(self, digests: Collection[str]) -> dict[str, int]:
        slots = asyncio.Semaphore(FEW)

        async def one(digest: str) -> tuple[str, int | None]:
            async with slots:
                return digest, await self.size(digest)

        async with asyncio.TaskGroup() as group:
            tasks = [group.create_task(one(digest)) for digest in dict.fromkeys(digests)]
        found = (task.result() for task in tasks)
        return {digest: size for digest, size in found if size is not None}

    async def file(self, digest: str) -> Path | None:
        self._key(digest)
        return None

    async def sign(self, digest: str, seconds: int) -> str:
        """Return a URL from which this blob alone can be fetched, for at most 15 minutes (security rule 32)."""
        store = self._store
        headers = {
            "response-content-type": "application/octet-stream",
            "response-content-disposition": "attachment",
        }
        return await store.call(
            store.client.presigned_get_object,
            store.bucket,
            self._key(digest),
            timedelta(seconds=max(1, min(seconds, LONGEST_URL_S))),
            response_headers=headers,
        )


async def _head(source: AsyncIterator[bytes], size: int, limit: int | None) -> bytes:
    """Return the first bytes: all there are when that is less than `size`, else at least `size`."""
    parts: list[bytes] = []
    found = 0
    async for chunk in source:
        found += len(chunk)
        if limit is not None and found > limit:
            raise over_limit(limit)
        parts.append(bytes(chunk))
        if found >= size:
            break
    return b"".join(parts)


def _read(answer: BaseHTTPResponse) -> bytes:
    return answer.read(CHUNK)


def _close(answer: BaseHTTPResponse) -> None:
    """Give a connection back; one with unread bytes is closed."""
    answer.close()
    answer.release_conn()
