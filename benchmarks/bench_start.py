"""`start`: `cloche up -d` until ready, and what it takes when idle."""

import asyncio
import json
import subprocess
import sys
import time
from pathlib import Path
from statistics import median

from benchmarks.core import Row, Series, environment, port_open, process, python, scratch
from benchmarks.machine import family, pss_mb
from benchmarks.peers import free_port

ROUNDS = 7
IDLE_SECONDS = 5.0
GOAL_S, GOAL_MB = 1.2, 120.0


def rows() -> list[Row]:
    """Start Cloche and a FastAPI application with one route in turn; look at the memory of one of each."""
    series, memory = Series(), Series()
    with scratch("start") as folder:
        _up(folder / "warm")
        for number in range(ROUNDS):
            last = number == ROUNDS - 1
            series.add("ours", _up(folder / f"home{number % 2}-{number}", memory if last else None))
            series.add("peer", _bare(folder, memory if last else None))
    took, used = series.median("ours"), median(memory.values["ours"])
    peer = "FastAPI with one route under uvicorn"
    return [
        Row(
            "start", f"cloche up -d until ready, empty data folder (p99 {series.p99('ours'):.2f} s)", took, "s",
            f"≤ {GOAL_S} s", ROUNDS, peer, series.median("peer"), took <= GOAL_S,
        ),
        Row(
            "start", "idle memory 5 s later: PSS of all processes", used, "MB", f"≤ {GOAL_MB:.0f} MB", 1, peer,
            median(memory.values["peer"]), used <= GOAL_MB,
        ),
    ]  # fmt: skip


def _up(home: Path, memory: Series | None = None) -> float:
    command = str(Path(sys.executable).parent / "cloche")
    env = environment(CLOCHE_HOME=str(home))
    began = time.perf_counter()
    subprocess.run([command, "up", "-d", "--port", "0"], check=True, env=env, stdout=subprocess.DEVNULL)
    took = time.perf_counter() - began
    try:
        if memory is not None:
            time.sleep(IDLE_SECONDS)
            pid = int(json.loads((home / "server.json").read_text())["pid"])
            memory.add("ours", pss_mb(family(pid, str(home))))
    finally:
        subprocess.run([command, "down"], check=True, env=env, stdout=subprocess.DEVNULL)
    return took


def _bare(folder: Path, memory: Series | None) -> float:
    port = free_port()
    began = time.perf_counter()
    argv = python("-m", "uvicorn", "--port", str(port), "--no-access-log", "benchmarks.naive:bare")
    with process(argv, folder / "bare.log") as started:
        asyncio.run(port_open(port))
        took = time.perf_counter() - began
        if memory is not None:
            time.sleep(IDLE_SECONDS)
            memory.add("peer", pss_mb({started.pid}))
    return took
