"""`submit`: from the SDK's call to the first line of user code, beside a bare spawn."""

import subprocess
import time
from pathlib import Path

from benchmarks.cloche_server import cloche
from benchmarks.core import Row, Series, environment, scratch
from benchmarks.scripts import STAMP, written
from cloche import Client

ROUNDS = 100
WARM = 5
P50_MS, P99_MS = 80.0, 280.0


def rows() -> list[Row]:
    """Submit and spawn in turn; the clock is the system's, read by the script as its first act."""
    series = Series()
    with scratch("submit") as folder, cloche(folder / "home") as server, server.client() as client:
        script = written(folder, "stamp.py", STAMP)
        client.environments.register("bench", definition={})
        interpreter = ""
        for number in range(WARM + ROUNDS):
            took, interpreter = _submit(client, script)
            bare = _spawn(interpreter, script)
            if number >= WARM:
                series.add("ours", took)
                series.add("spawn", bare)
    return _rows(series)


def _submit(client: Client, script: Path) -> tuple[float, str]:
    began = time.time_ns()
    run = client.runs.submit(script, environment="bench")
    ended = run.wait(60)
    assert ended.status == "Completed", ended.status
    log = b"".join(client.runs.log(run.id, follow=False)).decode().split()
    return (int(log[0]) - began) / 1e6, log[1]


def _spawn(interpreter: str, script: Path) -> float:
    began = time.time_ns()
    done = subprocess.run([interpreter, str(script)], check=True, capture_output=True, env=environment())
    return (int(done.stdout.split()[0]) - began) / 1e6


def _rows(series: Series) -> list[Row]:
    p50, bare = series.median("ours"), series.median("spawn")
    tail, bare_tail = series.p99("ours"), series.p99("spawn")
    what = "submit → first line of user code, environment cached"
    return [
        Row(
            "submit", f"{what}, p50", p50, "ms", f"≤ spawn + {P50_MS:.0f} ms", ROUNDS, "bare spawn", bare,
            p50 <= bare + P50_MS,
        ),
        Row(
            "submit", f"{what}, p99", tail, "ms", f"≤ spawn + {P99_MS:.0f} ms", ROUNDS, "bare spawn", bare_tail,
            tail <= bare_tail + P99_MS,
        ),
    ]  # fmt: skip
