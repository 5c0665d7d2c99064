"""One upload in a process of its own: reads a plan from standard input, prints seconds and MiB that were added."""

import asyncio
import json
import sys
import time
import uuid
from pathlib import Path
from typing import Any

from minio import Minio
from pydantic import SecretStr

from cloche_shared.adapters.s3_blobs import S3BlobStore
from cloche_shared.backends import S3Settings

PART = 8 << 20
Plan = dict[str, Any]
WARM = b"w" * (1 << 16)
RESET_PEAK = "5"


class Memory:
    """How much more memory was resident at the worst moment than at the start."""

    def __init__(self) -> None:
        Path("/proc/self/clear_refs").write_text(RESET_PEAK)
        self._before = self._read("VmRSS")

    def added_mib(self) -> float:
        """Return it in MiB."""
        return (self._read("VmHWM") - self._before) / 1024

    def _read(self, name: str) -> int:
        lines = Path("/proc/self/status").read_text().splitlines()
        return int(next(line for line in lines if line.startswith(name)).split()[1])


async def ours(plan: Plan, bucket: str) -> tuple[float, float]:
    """Upload through the adapter."""
    settings = S3Settings(
        endpoint=f"http://{plan['endpoint']}",
        access_key=plan["access"],
        secret_key=SecretStr(plan["secret"]),
        region=plan["region"],
        bucket=bucket,
        part_bytes=PART,
    )
    store = S3BlobStore(settings)
    try:
        await store.probe()
        blobs = store.space("bench", "default")
        await blobs.put_bytes(WARM)
        memory, began = Memory(), time.perf_counter()
        blob = await blobs.put_file(Path(plan["file"]))
        took, added = time.perf_counter() - began, memory.added_mib()
        assert await blobs.size(blob.digest) == blob.size == plan["bytes"]
        await blobs.delete(blob.digest)
    finally:
        await store.close()
    return took, added


def bare(plan: Plan, bucket: str) -> tuple[float, float]:
    """Upload with the client alone: no digest, no name that depends on the content."""
    client = _client(plan)
    client.make_bucket(bucket)
    name = "warm"
    client.fput_object(bucket, name, __file__)
    memory, began = Memory(), time.perf_counter()
    client.fput_object(bucket, name, plan["file"], part_size=PART)
    return time.perf_counter() - began, memory.added_mib()


def _client(plan: Plan) -> Minio:
    return Minio(
        plan["endpoint"], access_key=plan["access"], secret_key=plan["secret"], region=plan["region"], secure=False
    )


def _remove(plan: Plan, bucket: str) -> None:
    client = _client(plan)
    for found in client.list_objects(bucket, recursive=True):
        if found.object_name:
            client.remove_object(bucket, found.object_name)
    client.remove_bucket(bucket)


def main() -> None:
    """Do what the plan says."""
    plan = json.load(sys.stdin)
    bucket = f"bench-{uuid.uuid4().hex}"
    took, added = asyncio.run(ours(plan, bucket)) if plan["side"] == "ours" else bare(plan, bucket)
    _remove(plan, bucket)
    sys.stdout.write(json.dumps({"seconds": took, "mib": added}))


if __name__ == "__main__":
    main()
