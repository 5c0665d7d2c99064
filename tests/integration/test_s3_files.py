"""A file that goes to S3: under its own name at once, and not at all when it is given up on the way."""

import asyncio
import io
from pathlib import Path

import pytest

from cloche_shared.adapters.s3_blobs import UPLOADS, S3BlobStore
from cloche_shared.errors import Invalid
from tests.environments.s3 import s3_settings, s3_store
from tests.environments.servers import S3Server

SIZE = 64 << 20
PAUSE_S = 0.1


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "file"
    with path.open("wb") as written:
        for number in range(SIZE >> 20):
            written.write(number.to_bytes(8, "big") * (1 << 17))
    return path


def keys(store: S3BlobStore) -> list[str | None]:
    return [found.object_name for found in store.client.list_objects(store.bucket, recursive=True)]


async def test_a_file_lies_under_its_digest_alone(one_s3_server: S3Server, file: Path) -> None:
    async with s3_store(one_s3_server) as store:
        blobs = store.space("runner", "default")
        blob = await blobs.put_file(file)
        digest = blob.digest.removeprefix("sha256:")
        assert keys(store) == [f"runner/default/{digest[:2]}/{digest}"]
        assert await blobs.put_file(file, digest=blob.digest) == blob
        assert await blobs.size(blob.digest) == SIZE


async def test_what_has_no_digest_yet_lies_below_its_owners_name_and_only_he_removes_what_is_left(
    one_s3_server: S3Server,
) -> None:
    settings = s3_settings(one_s3_server)
    async with s3_store(one_s3_server, settings) as store:
        with pytest.raises(Invalid):
            store.space("runner", UPLOADS)
        left = [f"{owner}/{UPLOADS}/dead" for owner in ("builder", "runner")]
        for key in left:
            await store.call(store.client.put_object, settings.bucket, key, io.BytesIO(b"x"), 1)
        await store.probe()
        assert keys(store) == left
        for hours, found in ((1, left), (-1, left[:1])):
            own = S3BlobStore(settings, "runner", left_hours=hours)
            await own.probe()
            await own.close()
            assert keys(store) == found


async def test_a_file_whose_upload_is_cancelled_leaves_nothing(one_s3_server: S3Server, file: Path) -> None:
    async with s3_store(one_s3_server) as store:
        for number in range(1, 5):
            upload = asyncio.create_task(store.space("runner", "default").put_file(file))
            await asyncio.sleep(PAUSE_S * number)
            upload.cancel()
            done = await asyncio.gather(upload, return_exceptions=True)
            if isinstance(done[0], asyncio.CancelledError):
                assert keys(store) == []
