"""`blobs`: uploading 1 GiB to S3 and the memory that it costs, against the bare client."""

import json
import subprocess
from pathlib import Path
from statistics import median

from benchmarks.cluster.servers import object_store
from benchmarks.core import ROOT, Row, environment, python, scratch
from tests.environments.servers import S3Server

ROUNDS = 3
BYTES = 1 << 30
SIDES = ("ours", "minio")
GOAL_RATE, MOST_MIB = 0.7, 32.0
UPLOAD_SECONDS = 170


def rows() -> list[Row]:
    """Upload one file from a process of its own, in turn with our adapter and with the client alone."""
    seen: dict[str, list[dict[str, float]]] = {side: [] for side in SIDES}
    with scratch("blobs") as folder, object_store() as server:
        file = folder / "blob"
        _fill(file)
        for number in range(ROUNDS):
            for side in SIDES if number % 2 == 0 else reversed(SIDES):
                seen[side].append(_upload(server, side, file))
    rates = {side: median(BYTES / (1 << 20) / one["seconds"] for one in found) for side, found in seen.items()}
    memory = max(one["mib"] for one in seen["ours"])
    theirs = max(one["mib"] for one in seen["minio"])
    what = f"upload of 1 GiB to {server.product}, digest checked"
    peer = "bare minio client, fput_object"
    met = rates["ours"] >= GOAL_RATE * rates["minio"]
    grown = "resident memory that the upload adds, worst"
    return [
        Row("blobs", what, rates["ours"], "MiB/s", f"≥ {GOAL_RATE} x", ROUNDS, peer, rates["minio"], met),
        Row("blobs", grown, memory, "MiB", f"≤ {MOST_MIB:.0f} MiB", ROUNDS, peer, theirs, memory <= MOST_MIB),
    ]


def _fill(file: Path) -> None:
    with Path("/dev/urandom").open("rb") as source, file.open("wb") as target:
        for _ in range(BYTES >> 20):
            target.write(source.read(1 << 20))


def _upload(server: S3Server, side: str, file: Path) -> dict[str, float]:
    plan = {
        "side": side,
        "file": str(file),
        "bytes": BYTES,
        "endpoint": server.endpoint,
        "access": server.access_key,
        "secret": server.secret_key,
        "region": server.region,
    }
    done = subprocess.run(
        python("-m", "benchmarks.cluster.blob_upload"),
        input=json.dumps(plan).encode(),
        capture_output=True,
        cwd=ROOT,
        env=environment(),
        timeout=UPLOAD_SECONDS,
        check=True,
    )
    found: dict[str, float] = json.loads(done.stdout)
    return found
