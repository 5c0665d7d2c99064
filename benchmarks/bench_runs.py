"""`runs`: complete process runs per second, against bare spawns at the same concurrency."""

import json
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from benchmarks.cloche_server import cloche
from benchmarks.core import ROOT, Row, environment, interleaved, python, scratch
from benchmarks.scripts import SHORT, STAMP, written
from cloche import Client

ROUNDS = 5
IN_FLIGHT = 8
EACH = 48
CPUS = 0.2
GOAL = 0.6


def rows() -> list[Row]:
    """Let eight callers submit and wait, then spawn as many processes; both generators are processes of their own."""
    with scratch("runs") as folder, cloche(folder / "home") as server, server.client() as client:
        script = written(folder, "short.py", SHORT)
        client.environments.register("bench", definition={})
        stamp = client.runs.submit(written(folder, "stamp.py", STAMP), environment="bench").wait(60)
        interpreter = b"".join(client.runs.log(stamp.id, follow=False)).decode().split()[1]
        ours = ("cloche", server.url, server.token, str(script))
        bare = ("spawn", interpreter, str(script))
        _generate(ours)
        series = interleaved(ROUNDS, {"ours": lambda: _generate(ours), "spawn": lambda: _generate(bare)})
    rate, peer = series.median("ours"), series.median("spawn")
    what = f"complete process runs/s (submit to Completed), {IN_FLIGHT} in flight, {EACH} per round"
    return [Row("runs", what, rate, "/s", f"≥ {GOAL} x", ROUNDS, "bare spawns", peer, rate >= GOAL * peer)]


def _generate(arguments: tuple[str, ...]) -> float:
    argv = python("-m", "benchmarks.bench_runs", *arguments)
    done = subprocess.run(argv, check=True, capture_output=True, cwd=ROOT, env=environment(), timeout=120)
    return float(json.loads(done.stdout))


def _measure(arguments: list[str]) -> float:
    kind, *rest = arguments
    with ThreadPoolExecutor(IN_FLIGHT) as pool:
        if kind == "spawn":
            interpreter, script = rest
            return _rate(pool, lambda _number: _spawn(interpreter, script))
        url, token, script = rest
        with Client(url=url, token=token) as client:
            return _rate(pool, lambda _number: _run(client, Path(script)))


def _rate(pool: ThreadPoolExecutor, once: "object") -> float:
    assert callable(once)
    began = time.perf_counter()
    list(pool.map(once, range(EACH)))
    return EACH / (time.perf_counter() - began)


def _spawn(interpreter: str, script: str) -> None:
    subprocess.run([interpreter, script], check=True, stdout=subprocess.DEVNULL)


def _run(client: Client, script: Path) -> None:
    ended = client.runs.submit(script, environment="bench", cpus=CPUS).wait(60)
    assert ended.status == "Completed", ended.status


if __name__ == "__main__":
    print(_measure(sys.argv[1:]))
