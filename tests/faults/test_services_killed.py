"""Each of the four services is killed at each step of the main job, and restarted: the job goes on to its end."""

import threading
import time
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path

import httpx2
import pytest

from tests.e2e.cluster import SERVICES
from tests.e2e.packages import ThreadedIndex, threaded_index
from tests.faults.collected import ENDED
from tests.faults.conftest import FULL, passed
from tests.faults.killing import BROKER, CHAIN, JOURNAL, Step, killing
from tests.faults.load import Load, Worker
from tests.faults.servers import Servers
from tests.faults.standing import Standing, standing

CLIENTS = 3
SOON_S = 15.0
"""Seconds after which a client begins another job, whatever keeps the one before."""
STILL_S = 120.0
"""Seconds without a kill after which those that are left are given up: how long all take is the machine's matter."""
PLACES = (JOURNAL, BROKER)
EACH = {Step(service, fact, place) for fact in CHAIN for service in SERVICES for place in PLACES}
"""Each service at each step, when the fact is in the journal and when it is on the broker."""
SOME = {Step(who, fact, place) for fact, both in CHAIN.items() for who, place in zip(both, PLACES, strict=True)}
"""At each step who writes the fact, when it is in the journal, and another, when it is on the broker."""
STEPS = EACH if FULL else SOME


@pytest.fixture(scope="module")
def cluster(ground: Path, servers: Servers) -> Iterator[Standing]:
    with standing(ground, "killed", servers) as found:
        yield found


@pytest.fixture(scope="module")
def load(cluster: Standing, ground: Path) -> Load:
    made = Load(cluster, ground / "lived-killed.txt")
    made.prepare()
    return made


def job(cluster: Standing, worker: Worker, index: ThreadedIndex) -> None:
    """Submit a run whose environment is new and has to be built, and wait for its end, for a while."""
    name = f"env-{uuid.uuid4().hex[:12]}"
    index.add(f"pkg-{name}")
    pip = {"pip": [f"pkg-{name}==1.0"], "pip_options": {"index_url": index.url}}
    op = worker.submit(0.2, environment={"name": name, "definition": {"python": pip}})
    until = time.monotonic() + SOON_S
    while op.told == "ok" and time.monotonic() < until and not _ended(cluster, str(op.result["id"])):
        time.sleep(0.5)


def _ended(cluster: Standing, run_id: str) -> bool:
    try:
        with cluster.rest() as rest:
            answer = rest.get(f"/api/v1/runs/{run_id}")
    except httpx2.TransportError:
        return False
    return answer.status_code == 200 and answer.json()["status"] in ENDED


@pytest.mark.timeout(1800)
def test_a_service_that_is_killed_at_a_step_of_the_main_job_goes_on_behind_it(
    cluster: Standing, load: Load, record_property: Callable[[str, object], None], again: int
) -> None:
    stop = threading.Event()

    def work(number: int) -> None:
        worker = Worker(load, 1000 * (again + 1) + number)
        while not stop.is_set():
            job(cluster, worker, index)

    with threaded_index() as index, killing(cluster, STEPS) as killer:
        threads = [threading.Thread(target=work, args=(number,), daemon=True) for number in range(CLIENTS)]
        for thread in threads:
            thread.start()
        left, end = len(killer.left), time.monotonic() + STILL_S
        while killer.left and time.monotonic() < end:
            killer.tend()
            if len(killer.left) < left:
                left, end = len(killer.left), time.monotonic() + STILL_S
            time.sleep(0.1)
        killer.mend()
        stop.set()
        for thread in threads:
            thread.join(120)
        passed(cluster, load, record_property)
    assert not killer.left, sorted(map(str, killer.left))
