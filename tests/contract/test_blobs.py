"""What every adapter of the port Blobs promises."""

import asyncio
import hashlib
import os
import resource
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import TYPE_CHECKING, cast

import pytest

from cloche_shared.adapters.file_blobs import CHUNK, FileBlobs, FileBlobStore
from cloche_shared.adapters.memory_blobs import MemoryBlobStore
from cloche_shared.errors import Internal, Invalid, NotFound, TooLarge, Unavailable
from cloche_shared.ports.blobs import Blobs, BlobStore
from tests.environments.fixtures import shared
from tests.environments.s3 import s3_store

if TYPE_CHECKING:
    from tests.environments.servers import S3Server

HELLO = "sha256:" + hashlib.sha256(b"hello world").hexdigest()
LOCAL: dict[str, Callable[[Path], BlobStore]] = {
    "file": FileBlobStore,
    "memory": lambda _folder: MemoryBlobStore(),
}


@pytest.fixture(params=[*sorted(LOCAL), "s3", "s3-second"])
async def store(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[BlobStore]:
    if request.param in LOCAL:
        yield LOCAL[request.param](tmp_path / "blobs")
    else:
        async with s3_store(cast("S3Server", shared(request.param))) as found:
            yield found


@pytest.fixture
def blobs(store: BlobStore) -> Blobs:
    return store.space("builder", "default")


async def pieces(*data: bytes) -> AsyncIterator[bytes]:
    for piece in data:
        yield piece


async def content(blobs: Blobs, digest: str, start: int = 0, end: int | None = None) -> bytes:
    return b"".join([piece async for piece in blobs.read(digest, start=start, end=end)])


async def test_what_is_put_in_pieces_is_read_whole(blobs: Blobs) -> None:
    blob = await blobs.put(pieces(b"hello", b" ", b"world"), digest=HELLO)
    assert (blob.digest, blob.size) == (HELLO, 11)
    assert await content(blobs, HELLO) == b"hello world"
    assert await blobs.read_bytes(HELLO) == b"hello world"
    assert await blobs.size(HELLO) == 11


async def test_a_range_is_read_without_the_rest(blobs: Blobs) -> None:
    await blobs.put_bytes(b"hello world")
    assert await content(blobs, HELLO, 6) == b"world"
    assert await content(blobs, HELLO, 2, 4) == b"ll"
    assert await content(blobs, HELLO, 11) == b""
    assert await content(blobs, HELLO, 5, 99) == b" world"


async def test_the_empty_blob_is_a_blob(blobs: Blobs) -> None:
    blob = await blobs.put(pieces())
    assert blob.size == 0
    assert await content(blobs, blob.digest) == b""


async def test_storing_again_is_harmless(blobs: Blobs) -> None:
    first = await blobs.put_bytes(b"hello world")
    assert await blobs.put(pieces(b"hello world")) == first
    assert await blobs.put_bytes(b"hello world") == first


async def test_sizes_of_many_are_told_at_once_without_those_that_are_absent(blobs: Blobs) -> None:
    one, two = await blobs.put_bytes(b"hello world"), await blobs.put_bytes(b"")
    assert await blobs.sizes([two.digest, "sha256:" + "0" * 64, one.digest]) == {one.digest: 11, two.digest: 0}
    assert await blobs.sizes(()) == {}


async def test_a_file_is_copied_and_stays(blobs: Blobs, tmp_path: Path) -> None:
    path = tmp_path / "some file"
    path.write_bytes(b"hello world")
    assert (await blobs.put_file(path, digest=HELLO)).digest == HELLO
    path.write_bytes(b"changed")
    assert await blobs.read_bytes(HELLO) == b"hello world"


async def test_other_bytes_than_announced_are_refused_and_not_kept(blobs: Blobs) -> None:
    with pytest.raises(Invalid) as caught:
        await blobs.put(pieces(b"hello world!"), digest=HELLO)
    assert caught.value.code == "digest_mismatch"
    assert await blobs.missing([HELLO]) == [HELLO]


async def test_too_many_bytes_are_refused_as_soon_as_they_come(blobs: Blobs) -> None:
    async def endless() -> AsyncIterator[bytes]:
        while True:
            yield b"x" * 1000

    with pytest.raises(TooLarge) as caught:
        await blobs.put(endless(), limit=10_000)
    assert caught.value.code == "too_large"
    await blobs.put_bytes(b"hello world")
    with pytest.raises(TooLarge):
        await blobs.read_bytes(HELLO, limit=10)


async def test_missing_keeps_the_order_asked(blobs: Blobs) -> None:
    await blobs.put_bytes(b"hello world")
    first, last = "sha256:" + "b" * 64, "sha256:" + "a" * 64
    assert await blobs.missing([first, HELLO, last]) == [first, last]


async def test_an_absent_blob_is_said_at_the_first_step(blobs: Blobs) -> None:
    absent = "sha256:" + "0" * 64
    with pytest.raises(NotFound) as caught:
        await anext(blobs.read(absent))
    assert caught.value.code == "blob_not_found"
    with pytest.raises(NotFound):
        await blobs.read_bytes(absent)
    assert await blobs.size(absent) is None
    assert await blobs.file(absent) is None


async def test_what_is_deleted_is_absent(blobs: Blobs) -> None:
    await blobs.put_bytes(b"hello world")
    await blobs.delete(HELLO)
    await blobs.delete(HELLO)
    assert await blobs.missing([HELLO]) == [HELLO]


async def test_spaces_do_not_see_each_other(store: BlobStore) -> None:
    await store.space("builder", "default").put_bytes(b"hello world")
    assert await store.space("builder", "other").missing([HELLO]) == [HELLO]
    assert await store.space("runner", "default").missing([HELLO]) == [HELLO]
    assert await store.space("builder", "default").missing([HELLO]) == []


async def test_large_blobs_are_whole_and_can_be_read_in_parts(blobs: Blobs) -> None:
    data = bytes(range(256)) * (12 * 1024 * 4)  # 12 MiB: several parts
    digest = "sha256:" + hashlib.sha256(data).hexdigest()
    halves = (data[: len(data) // 2], data[len(data) // 2 :])
    assert await blobs.put(pieces(*halves)) == await blobs.put(pieces(*halves), digest=digest)
    assert await blobs.size(digest) == len(data)
    assert await content(blobs, digest) == data
    assert await content(blobs, digest, 7_000_001, 7_000_011) == data[7_000_001:7_000_011]


async def test_a_large_blob_with_other_bytes_than_announced_is_not_kept(blobs: Blobs) -> None:
    with pytest.raises(Invalid) as caught:
        await blobs.put(pieces(b"x" * (6 << 20), b"y" * (6 << 20)), digest=HELLO)
    assert caught.value.code == "digest_mismatch"
    assert await blobs.missing([HELLO]) == [HELLO]


@pytest.mark.parametrize("announced", [False, True])
async def test_a_large_upload_that_breaks_off_is_not_kept(blobs: Blobs, announced: bool) -> None:
    whole = b"x" * (12 << 20)
    digest = "sha256:" + hashlib.sha256(whole).hexdigest()

    async def broken() -> AsyncIterator[bytes]:
        yield whole[: 7 << 20]
        raise ConnectionError

    with pytest.raises(ConnectionError):
        await blobs.put(broken(), digest=digest if announced else None)
    assert await blobs.size(digest) is None
    assert (await blobs.put(pieces(whole), digest=digest)).size == len(whole)


async def test_a_cancelled_upload_is_not_kept(blobs: Blobs) -> None:
    began = asyncio.Event()

    async def endless() -> AsyncIterator[bytes]:
        yield b"x" * (7 << 20)
        began.set()
        await asyncio.Event().wait()

    task = asyncio.create_task(blobs.put(endless()))
    await began.wait()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task


async def test_a_broken_upload_leaves_nothing(tmp_path: Path) -> None:
    async def broken() -> AsyncIterator[bytes]:
        yield b"x" * 100
        raise ConnectionError

    blobs = FileBlobs(tmp_path)
    with pytest.raises(ConnectionError):
        await blobs.put(broken())
    assert [path for path in tmp_path.rglob("*") if path.is_file()] == []


async def test_files_are_private_and_read_only(tmp_path: Path) -> None:
    blobs = FileBlobs(tmp_path / "root")
    await blobs.put_bytes(b"hello world")
    path = await blobs.file(HELLO)
    assert path is not None
    assert path.stat().st_mode & 0o777 == 0o400
    assert path.parent.stat().st_mode & 0o777 == 0o700


async def test_a_file_changed_on_disk_is_never_taken_for_the_blob(tmp_path: Path) -> None:
    blobs = FileBlobs(tmp_path)
    await blobs.put_bytes(b"hello world")
    path = blobs.path(HELLO)
    path.chmod(0o600)
    path.write_bytes(b"hello there")
    with pytest.raises(Internal) as caught:
        await content(blobs, HELLO)
    assert caught.value.code == "blob_corrupt"
    with pytest.raises(Internal):
        await blobs.read_bytes(HELLO)


async def test_a_full_disk_is_said_as_such_and_leaves_nothing(tmp_path: Path) -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1000, hard))
    try:
        with pytest.raises(Unavailable) as caught:
            await FileBlobs(tmp_path).put_bytes(b"x" * 2000)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert caught.value.code == "disk_full"
    assert [path for path in tmp_path.rglob("*") if path.is_file()] == []


@pytest.mark.parametrize("name", ["../x", "", "a/b", ".", "x\0"])
def test_names_of_spaces_cannot_leave_the_folder(tmp_path: Path, name: str) -> None:
    with pytest.raises(Invalid):
        FileBlobStore(tmp_path).space("builder", name)


@pytest.mark.parametrize("digest", ["sha256:../../etc/passwd", "md5:00", "", "sha256:" + "A" * 64])
async def test_what_is_no_digest_names_no_file(tmp_path: Path, digest: str) -> None:
    with pytest.raises(Invalid):
        await FileBlobs(tmp_path).size(digest)


async def test_uploads_that_a_crash_left_are_removed_and_living_ones_stay(tmp_path: Path) -> None:
    async def slowly() -> AsyncIterator[bytes]:
        yield b"x" * CHUNK
        began.set()
        await go_on.wait()
        yield b"y"

    began, go_on = asyncio.Event(), asyncio.Event()
    living = asyncio.create_task(FileBlobStore(tmp_path).space("o", "s").put(slowly()))
    await began.wait()
    folder = tmp_path / "o/s/tmp"
    (folder / "1-0-abcd").write_bytes(b"left")
    for path in folder.iterdir():
        os.utime(path, (0, 0))
    await FileBlobStore(tmp_path).space("o", "s").put_bytes(b"z")
    assert not (folder / "1-0-abcd").exists()
    go_on.set()
    assert (await living).size == CHUNK + 1
