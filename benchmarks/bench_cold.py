"""`build-cold`: an environment's first build on an empty data folder, against uv with an empty cache.

As for `build-prefix`, former rounds are put aside and removed in the end.
"""

import time
from pathlib import Path

from benchmarks.bench_prefix import PYTHON, REQUIREMENTS, Uv, put_aside
from benchmarks.cloche_server import cloche
from benchmarks.core import Row, interleaved, scratch

ROUNDS = 3
GOAL = 1.1


def rows() -> list[Row]:
    """Build on a new Cloche and with a new uv cache in turn; both resolve, download, unpack and compile."""
    with scratch("build-cold") as folder:
        series = interleaved(ROUNDS, {"ours": lambda: _ours(folder / "home"), "uv": lambda: _uv(folder / "peer")})
    took, peer = series.median("ours"), series.median("uv")
    worst = max(series.values["ours"])
    what = f"build of scikit-learn + pandas from an empty data folder, to Completed (worst {worst:.1f} s)"
    name = "uv: compile, venv, sync --compile-bytecode, empty cache"
    return [Row("build-cold", what, took, "s", f"≤ {GOAL} x", ROUNDS, name, peer, took <= GOAL * peer)]


def _ours(home: Path) -> float:
    put_aside(home)
    definition = {"python": {"version": PYTHON, "pip": list(REQUIREMENTS)}}
    with cloche(home) as server, server.client() as client:
        client.environments.register("bench", definition=definition)
        began = time.perf_counter()
        build = client.builds.wait(client.builds.start("bench").id, timeout=300)
        took = time.perf_counter() - began
    assert build.status == "Completed", build.status
    return took


def _uv(folder: Path) -> float:
    put_aside(folder)
    peer = Uv(folder)
    began = time.perf_counter()
    peer.compile()
    peer.install("--compile-bytecode")
    return time.perf_counter() - began
