"""`packages`: a pip environment of 30 common packages from the store, and what a second one that shares them adds."""

import asyncio
import os
import subprocess
from dataclasses import replace
from pathlib import Path

from benchmarks.bench_prefix import Uv, Warm, timed, warm
from benchmarks.core import Row, Series, interleaved, scratch
from cloche_shared.store.hashing import lock_digest

REQUIREMENTS = (
    "numpy", "pandas", "scipy", "scikit-learn", "matplotlib", "pillow", "requests", "urllib3", "certifi", "idna",
    "charset-normalizer", "python-dateutil", "pytz", "six", "packaging", "pyyaml", "jinja2", "markupsafe", "click",
    "tqdm", "attrs", "cryptography", "cffi", "pycparser", "pydantic", "typing-extensions", "sqlalchemy", "greenlet",
    "joblib", "threadpoolctl",
)  # fmt: skip
ROUNDS = 7
GOAL, GOAL_DISK = 1.0, 0.01
USABLE = "import numpy, pandas, scipy, sklearn, matplotlib, PIL, requests, yaml, jinja2, pydantic, sqlalchemy"


def rows() -> list[Row]:
    """Make the prefix and uv's environment in turn, then a second prefix."""
    with scratch("packages") as folder:
        return asyncio.run(_measure(folder))


async def _measure(folder: Path) -> list[Row]:
    ready = await warm(folder, REQUIREMENTS)
    try:
        first = await ready.prefix()
        peer = Uv(folder / "peer", REQUIREMENTS)
        peer.compile()
        peer.install()
        series = await asyncio.to_thread(interleaved, ROUNDS, {"ours": timed(ready, first), "uv": peer.install})
        await asyncio.to_thread(_check, first)
        added, whole = await _second(ready, folder / "node")
    finally:
        await ready.files.close()
    return [_time_row(series, len(ready.lock.artefacts)), _disk_row(added, whole)]


async def _second(ready: Warm, node: Path) -> tuple[int, int]:
    """Make the prefix of another lock with the same packages; return the bytes it added, and those of the first."""
    whole = await asyncio.to_thread(_bytes, await ready.prefix())
    before = await asyncio.to_thread(_bytes, node)
    lock = ready.lock.model_copy(update={"definition_hash": "e1:" + "0" * 64})
    assert lock_digest(lock) != lock_digest(ready.lock)
    second = await replace(ready, lock=lock).prefix()
    await asyncio.to_thread(_check, second)
    return await asyncio.to_thread(_bytes, node) - before, whole


def _bytes(folder: Path) -> int:
    """Return the bytes on disk below a folder, each file once however often it is linked."""
    seen: dict[tuple[int, int], int] = {}
    for place, folders, files in os.walk(folder):
        for name in (".", *folders, *files):
            found = os.lstat(Path(place) / name)
            seen[found.st_dev, found.st_ino] = found.st_blocks * 512
    return sum(seen.values())


def _check(prefix: Path) -> None:
    subprocess.run([str(prefix / "bin" / "python"), "-c", USABLE], check=True, capture_output=True)


def _time_row(series: Series, count: int) -> Row:
    took, bare = series.median("ours"), series.median("uv")
    what = f"lock → prefix with bytecode, {len(REQUIREMENTS)} common packages, {count} in all"
    return Row("packages", what, took, "s", f"≤ {GOAL} x", ROUNDS, "uv venv + uv pip sync, warm", bare,
               took <= GOAL * bare)  # fmt: skip


def _disk_row(added: int, whole: int) -> Row:
    what = "disk that a second environment with the same packages adds"
    goal = f"≤ {GOAL_DISK:.0%}"
    return Row("packages", what, added / 1e6, "MB", goal, 1, "the environment", whole / 1e6, added <= GOAL_DISK * whole)
