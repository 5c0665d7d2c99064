"""`demo`: `make demo` in a fresh clone, and again."""

import subprocess
import time
from pathlib import Path

from benchmarks.core import ROOT, Row, SkippedError, environment, scratch

GOAL_COLD, GOAL_AGAIN = 60.0, 15.0
SECONDS = 240


def rows() -> list[Row]:
    """Clone the present commit, run the demo twice with an empty home and empty caches."""
    if not (ROOT / "examples" / "quickstart" / "demo.py").exists():
        raise SkippedError("examples/quickstart/demo.py does not exist")
    with scratch("demo") as folder:
        clone = folder / "clone"
        _run(["git", "clone", "-q", str(ROOT), str(clone)], ROOT, folder)
        cold = _run(["make", "demo"], clone, folder)
        again = _run(["make", "demo"], clone, folder)
    return [
        Row(
            "demo", "make demo in a fresh clone, empty home and caches", cold, "s", f"≤ {GOAL_COLD:.0f} s", 1,
            met=cold <= GOAL_COLD,
        ),
        Row(
            "demo", "make demo again", again, "s", f"≤ {GOAL_AGAIN:.0f} s", 1, "the cold one", cold,
            met=again <= GOAL_AGAIN,
        ),
    ]  # fmt: skip


def _run(argv: list[str], where: Path, folder: Path) -> float:
    home = folder / "home"
    home.mkdir(exist_ok=True)
    env = environment(HOME=str(home), UV_CACHE_DIR=str(home / "uv"), PIP_CACHE_DIR=str(home / "pip"))
    for name in ("VIRTUAL_ENV", "PYTHONPATH", "MAKEFLAGS", "MAKELEVEL"):
        env.pop(name, None)
    began = time.perf_counter()
    done = subprocess.run(argv, cwd=where, env=env, capture_output=True, text=True, timeout=SECONDS, check=False)
    assert done.returncode == 0, f"{' '.join(argv)}: {(done.stdout + done.stderr)[-800:]}"
    return time.perf_counter() - began
