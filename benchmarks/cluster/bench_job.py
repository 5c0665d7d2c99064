"""`job`: the whole main job, the same script through the embedded process and through the four services."""

import json
import subprocess
from pathlib import Path
from statistics import median

from benchmarks.cloche_server import cloche
from benchmarks.cluster.servers import broker, cluster, document_store, object_store
from benchmarks.core import ROOT, Row, environment, python, scratch

ROUNDS = 2
AGAIN = 3
GOAL = 1.5
JOB_SECONDS = 170
SIDES = ("ours", "embedded")
Seen = dict[str, dict[str, list[float]]]


def rows() -> list[Row]:
    """Do the job on new installations in turn: once with nothing built, then with everything built."""
    seen: Seen = {side: {"first": [], "again": []} for side in SIDES}
    product = ""
    for number in range(ROUNDS):
        for side in SIDES if number % 2 == 0 else reversed(SIDES):
            with scratch("job") as folder:
                product = _installation(side, folder, seen[side]) or product
    what = f"main job on the four services on {product}"
    peer = "the same script, embedded"
    said = {
        "first": f"{what}: register, build, train, register the model, deploy, score",
        "again": "the same once more: nothing is built",
    }
    return [_row(seen, kind, text, peer) for kind, text in said.items()]


def _row(seen: Seen, kind: str, what: str, peer: str) -> Row:
    value, against = (median(seen[side][kind]) for side in SIDES)
    runs = len(seen["ours"][kind])
    return Row("job", what, value, "s", f"≤ {GOAL} x", runs, peer, against, value <= GOAL * against)


def _installation(side: str, folder: Path, seen: dict[str, list[float]]) -> str:
    """Do the job in a new installation; return on which servers it was, if on any."""
    if side == "embedded":
        with cloche(folder / "home") as server:
            _jobs(server.url, server.token, folder, seen)
        return ""
    with broker() as kafka, document_store() as store, object_store() as objects, cluster(folder) as running:
        _jobs(running.url, running.token, folder, seen)
        return ", ".join(server.product for server in (kafka, store, objects))


def _jobs(url: str, token: str, folder: Path, seen: dict[str, list[float]]) -> None:
    took = [_job(url, token, folder) for _ in range(1 + AGAIN)]
    seen["first"].append(took[0])
    seen["again"] += took[1:]


def _job(url: str, token: str, folder: Path) -> float:
    """Return the seconds of all steps, without the start of the script's own interpreter."""
    caller = environment(CLOCHE_URL=url, CLOCHE_TOKEN=token, CLOCHE_HOME=str(folder / "caller"))
    done = subprocess.run(
        python("-m", "benchmarks.cluster.main_job"),
        capture_output=True,
        cwd=ROOT,
        env=caller,
        timeout=JOB_SECONDS,
        check=False,
    )
    assert done.returncode == 0, done.stderr.decode()[-800:]
    took: dict[str, float] = json.loads(done.stdout)
    return sum(took.values())
