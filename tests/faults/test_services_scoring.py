"""Scoring goes on across restarts of the deployer: the workers live on, and who is put off meanwhile asks again."""

import signal
import threading
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest

from cloche.client import Service
from tests.e2e.steps import deployed
from tests.e2e.topology import eventually
from tests.faults.collected import Judged
from tests.faults.load import Load, UnknownError, asked
from tests.faults.standing import Standing

WHO = "import os\n\ndef init(): ...\n\ndef run(data): return {'worker': os.getpid()}\n"


@contextmanager
def scoring(load: Load, service: Service) -> Iterator[list[int]]:
    """Score all the time; yields who answered, as a list that grows. Other answers are judged with the load's."""
    workers, stop, key = list[int](), threading.Event(), service.keys().primary

    def work() -> None:
        with load.topology.rest(authorization=f"Bearer {key}") as rest:
            while not stop.wait(0.05):
                with suppress(UnknownError):
                    answer = asked(rest, load.told, "POST", f"/api/v1/services/{service.name}/score", json={})
                    workers.append(answer.json()["worker"])

    thread = threading.Thread(target=work, daemon=True)
    thread.start()
    try:
        yield workers
    finally:
        stop.set()
        thread.join(60)
    assert not thread.is_alive()


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL], ids=lambda number: number.name)
def test_scoring_goes_on_across_a_restart_of_the_deployer(
    cluster: Standing, load: Load, verdict: Callable[[], Judged], again: int, number: signal.Signals, tmp_path: Path
) -> None:
    script = tmp_path / "score.py"
    script.write_text(WHO)
    with cluster.client() as client:
        service = deployed(client, f"kept-{uuid.uuid4().hex[:8]}", script)
        with scoring(load, service) as workers:
            eventually(lambda: len(workers) > 5, "it scores")
            cluster.end("deployer-1", number)
            cluster.own.count("deployer restarted under scoring")
            cluster.begin("deployer-1")
            before = len(workers)
            eventually(lambda: len(workers) > before + 5, "it scores again")
        assert len(set(workers)) == 1
        client.services.delete(service.name)
    verdict()
