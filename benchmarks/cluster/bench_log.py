"""`log`: from a line that a script writes to its reader, who follows the run through another replica than the run's."""

from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from statistics import median
from time import time_ns

from benchmarks.cluster.servers import Cluster, cluster
from benchmarks.core import Row, p99, scratch
from benchmarks.scripts import written
from cloche import Client
from cloche.client import Run

RUNS = 4
LINES = 250
GOAL_MS = 500.0
WAIT_S = 60.0
SIDES = ("wrong", "right")
STAMPS = f"""\
import time
for _ in range({LINES}):
    print(time.time_ns(), flush=True)
    time.sleep(0.02)
"""


@dataclass(slots=True)
class Late:
    """How late lines came, in milliseconds: all of them, and the first of each run."""

    lines: list[float] = field(default_factory=list)
    firsts: list[float] = field(default_factory=list)

    def add(self, found: list[float]) -> None:
        """Take a run's lines in."""
        assert len(found) == LINES, f"{len(found)} of {LINES} lines came"
        self.lines += found
        self.firsts.append(found[0])


def rows() -> list[Row]:
    """Follow runs from their submission on, through both replicas of the runner at the same time."""
    late = {side: Late() for side in SIDES}
    with scratch("log") as folder, cluster(folder, replicas=2) as running, running.client() as client:
        client.environments.register("bench", definition={})
        script = written(folder, "stamps.py", STAMPS)
        _wait(client.runs.submit(script, environment="bench"))
        for _ in range(RUNS):
            _follow(running, client.runs.submit(script, environment="bench"), late)
    wrong, right = late["wrong"], late["right"]
    what = f"log line → reader through the wrong replica, p99 of {len(wrong.lines)} (p50 {median(wrong.lines):.1f} ms)"
    first = f"first line of a run that is followed since it was submitted, worst of {RUNS}"
    peer, goal = "through the right one", f"≤ {GOAL_MS:.0f} ms"
    tail, worst = p99(wrong.lines), max(wrong.firsts)
    return [
        Row("log", what, tail, "ms", goal, RUNS, peer, p99(right.lines), tail <= GOAL_MS),
        Row("log", first, worst, "ms", goal, RUNS, peer, max(right.firsts), worst <= GOAL_MS),
    ]


def _wait(run: Run) -> Run:
    ended = run.wait(timeout=WAIT_S)
    assert ended.status == "Completed", ended.problem
    return ended


def _follow(running: Cluster, run: Run, late: dict[str, Late]) -> None:
    """Read one run's log through each replica; which of them was the right one is known at its end."""
    replicas = [name for name in running.ports if name.startswith("runner-")]
    with ThreadPoolExecutor(len(replicas)) as readers:
        reads = {name: readers.submit(_lateness, running, name, run.id) for name in replicas}
        node = str(_wait(run).model_dump()["node"])
        for name, read in reads.items():
            late["right" if name == f"runner-{node.removeprefix('n')}" else "wrong"].add(read.result())


def _lateness(running: Cluster, name: str, run_id: str) -> list[float]:
    """Return for each line how many milliseconds it was on its way."""
    found: list[float] = []
    rest = b""
    with Client(f"http://127.0.0.1:{running.ports[name]}", running.token, home=running.scratch) as client:
        for piece in client.runs.log(run_id):
            now = time_ns()
            *lines, rest = (rest + piece).split(b"\n")
            found += [(now - int(line)) / 1e6 for line in lines]
    return found
