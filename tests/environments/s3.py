"""A bucket of one test on a running S3 server."""

import uuid
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from pydantic import SecretStr

from cloche_shared.adapters.s3_blobs import S3BlobStore
from cloche_shared.backends import S3Settings
from tests.environments.servers import S3Server


def s3_settings(server: S3Server, **more: object) -> S3Settings:
    """Return how to reach a server, with a bucket that nobody else has."""
    settings = S3Settings(
        endpoint=f"http://{server.endpoint}",
        access_key=server.access_key,
        secret_key=SecretStr(server.secret_key),
        region=server.region,
        bucket=f"t-{uuid.uuid4().hex}",
        part_bytes=5 << 20,
    )
    return settings.model_copy(update=more)


@asynccontextmanager
async def s3_store(server: S3Server, settings: S3Settings | None = None) -> AsyncIterator[S3BlobStore]:
    """Yield a store on a bucket of its own, or that of `settings`; the bucket is gone afterwards."""
    store = S3BlobStore(settings or s3_settings(server))
    try:
        await store.probe()
        yield store
        await store.call(_remove, store)
    finally:
        await store.close()


def _remove(store: S3BlobStore) -> None:
    for found in store.client.list_objects(store.bucket, recursive=True):
        if found.object_name:
            store.client.remove_object(store.bucket, found.object_name)
    store.client.remove_bucket(store.bucket)
