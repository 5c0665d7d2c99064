"""`recovery`: the broker is killed under load and started again; until every consumer is where the topics end."""

import json
import subprocess
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from statistics import median

from benchmarks.bench_register import BODY
from benchmarks.cluster.progress import Progress
from benchmarks.cluster.servers import Cluster, broker_to_break, cluster, document_store
from benchmarks.core import ROOT, Row, end_group, environment, python, scratch
from benchmarks.generator import Plan, begin, finish
from benchmarks.scripts import SHORT, written
from tests.environments.box import listens
from tests.environments.servers import KafkaServer
from tests.environments.starts import VERSIONS

ROUNDS = 2
CONNECTIONS = 8
LOAD_S, BEFORE_S, DOWN_S = 6.0, 2.0, 3.0
"""Registrations go on for so long; the broker is killed in their midst, and stays away for a while."""
LONGEST_S = 120.0
GOAL_S = 15.0
LOOK_EVERY_S = 0.05


@dataclass(frozen=True, slots=True)
class Broken:
    """What is used and broken: services, their broker, the view from outside, the bare client's record."""

    running: Cluster
    kafka: KafkaServer
    progress: Progress
    bare: Path
    script: Path


@dataclass(frozen=True, slots=True)
class Round:
    """Seconds since the broker accepted connections, and how many registrations were acknowledged."""

    ours: float
    bare: float
    acknowledged: int


def rows() -> list[Row]:
    """Kill the broker a few times; a round counts only if nothing is lost."""
    with (
        scratch("recovery") as folder,
        document_store() as store,
        broker_to_break() as kafka,
        cluster(folder, settings=_way_to(kafka)) as running,
        _bare(kafka, folder) as bare,
        closing(Progress(kafka, store, (running.home / "installation").read_text())) as progress,
    ):
        broken = Broken(running, kafka, progress, bare, written(folder, "short.py", SHORT))
        _until(progress.caught_up, "everything is worked off before the first round")
        rounds = [_round(broken, number) for number in range(ROUNDS)]
    worst = max(one.ours for one in rounds)
    told = f"{sum(one.acknowledged for one in rounds):,} 2xx listed, 0 lost; a run submitted meanwhile completed"
    what = f"{kafka.product} killed under load, restarted → all consumers caught up, worst ({told})"
    peer = "bare aiokafka: next message received"
    return [
        Row("recovery", what, worst, "s", f"≤ {GOAL_S:.0f} s", ROUNDS, peer, median(one.bare for one in rounds),
            worst <= GOAL_S),
    ]  # fmt: skip


def _way_to(kafka: KafkaServer) -> dict[str, str]:
    return {
        "CLOCHE_KAFKA__BOOTSTRAP_SERVERS": kafka.tls_bootstrap,
        "CLOCHE_KAFKA__CA_FILE": kafka.authority,
        "CLOCHE_KAFKA__USERNAME": kafka.admin,
        "CLOCHE_KAFKA__PASSWORD": kafka.password,
    }


@contextmanager
def _bare(kafka: KafkaServer, folder: Path) -> Iterator[Path]:
    """Run the bare client; yield the file that it writes to."""
    heard = folder / "heard.txt"
    with heard.open("wb") as file, (folder / "bare.log").open("wb") as log:
        process = subprocess.Popen(
            python("-m", "benchmarks.cluster.bare_client"), stdin=subprocess.PIPE, stdout=file, stderr=log, cwd=ROOT,
            env=environment(), start_new_session=True,
        )  # fmt: skip
    assert process.stdin is not None
    process.stdin.write(json.dumps({"bootstrap": kafka.bootstrap, "topic": "bare"}).encode())
    process.stdin.close()
    try:
        _until(lambda: bool(heard.read_bytes()), "the bare client receives")
        yield heard
    finally:
        end_group(process, 2.0)


def _round(broken: Broken, number: int) -> Round:
    running, kafka = broken.running, broken.kafka
    generator = begin(_plan(running, (number + 1) * 10_000_000))
    with ThreadPoolExecutor(1) as meanwhile:
        time.sleep(BEFORE_S)
        kafka.handle().kill(signal="SIGKILL")
        run = meanwhile.submit(_submitted, broken)
        time.sleep(DOWN_S)
        kafka.handle().start()
        accepted = _until(lambda: _accepts(kafka), "the broker accepts connections")
        kept = finish(generator).kept
        broken.progress.connect_again()
        _until(broken.progress.caught_up, lambda: f"all consumers have caught up ({broken.progress.behind})")
        ours = time.time_ns() - accepted
        ended = running.client().runs.wait(run.result(LONGEST_S), timeout=LONGEST_S)
    assert ended.status == "Completed", ended.problem
    _check(running, kept)
    bare = _until(lambda: _heard(broken.bare, accepted), "the bare client receives again") - accepted
    return Round(ours / 1e9, bare / 1e9, len(kept))


def _plan(running: Cluster, first: int) -> Plan:
    headers = {"Content-Type": "application/json", "Authorization": f"Bearer {running.token}"}
    return Plan(
        "127.0.0.1", running.ports["registry-1"], "/api/v1/environments", json.dumps(BODY), "POST", headers,
        CONNECTIONS, LOAD_S, first, keep=True,
    )  # fmt: skip


def _accepts(kafka: KafkaServer) -> int:
    """Return the time at which the broker answers a client's first question, in ns; 0 while it does not."""
    answers = listens(int(kafka.bootstrap.rpartition(":")[2]), VERSIONS)
    return time.time_ns() if answers else 0


def _heard(record: Path, since: int) -> int:
    """Return when the bare client first received something after a time, in ns; 0 if it has not."""
    return next((at for at in map(int, record.read_text().split("\n")[:-1]) if at > since), 0)


def _submitted(broken: Broken) -> str:
    """Submit a run while the broker is away; it returns once the run's references were resolved."""
    with broken.running.client() as client:
        return client.runs.submit(broken.script).id


def _check(running: Cluster, kept: list[int]) -> None:
    """See that everything that was acknowledged came through the broker into the list."""
    assert kept, "the load generator registered nothing"
    with running.client() as client:
        listed = {one.name for one in client.environments.list(limit=1_000_000)}
    lost = [number for number in kept if f"bench-{number}" not in listed]
    assert not lost, f"{len(lost)} of {len(kept)} acknowledged registrations are not listed, as bench-{lost[0]}"


def _until(found: Callable[[], int], what: str | Callable[[], str]) -> int:
    """Return the first true value. Raises `TimeoutError`."""
    end = time.monotonic() + LONGEST_S
    while time.monotonic() < end:
        value = found()
        if value:
            return value
        time.sleep(LOOK_EVERY_S)
    raise TimeoutError(f"not within {LONGEST_S:.0f} s: {what if isinstance(what, str) else what()}")
