"""The queue: who goes first, and why somebody waits. Each test has a server of its own, filled by one run."""

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from cloche import Client
from cloche.client import Run
from tests.e2e.steps import Scripts, done, reaches
from tests.e2e.topology import Embedded, eventually

pytestmark = pytest.mark.embedded_only

HOLD = """
import sys, time
from pathlib import Path
while not Path(sys.argv[1]).exists():
    time.sleep(0.05)
"""


class Line:
    """A server whose node has room for one run at a time."""

    def __init__(self, client: Client, hold: Path, quick: Path, go: Path) -> None:
        self.client = client
        self.cpus = float(client.nodes.list()[0]["cpus"])
        self._hold, self._quick, self._go = hold, quick, go
        self.first = client.runs.submit(hold, arguments=[go], cpus=self.cpus)
        reaches(client, self.first, "Running")

    def wait(self, **options: object) -> Run:
        """Submit a run that has to wait, and see it queued."""
        run = self.client.runs.submit(self._quick, cpus=self.cpus, **options)  # type: ignore[arg-type]
        return reaches(self.client, run, "Queued")

    def go(self) -> None:
        """Let the first run end."""
        self._go.touch()


@pytest.fixture
def line(own_topology: Callable[..., Embedded], script: Scripts, tmp_path: Path) -> Iterator[Line]:
    with own_topology().client() as client:
        yield Line(client, script(HOLD), script("print('quick')"), tmp_path / "go")


def test_a_higher_priority_goes_first_and_equal_ones_in_their_order(line: Line) -> None:
    waiting = [line.wait(), line.wait(), line.wait(priority=5), line.wait(priority=-5), line.wait(priority=5)]
    line.go()
    ended = [done(line.client, run).model_dump() for run in waiting]
    began = sorted(range(5), key=lambda number: str(ended[number]["started_at"]))
    assert began == [2, 4, 0, 1, 3]


def test_a_waiting_run_says_what_it_waits_for_and_can_be_cancelled(line: Line) -> None:
    run = line.wait()
    told = line.client.runs.why(run.id)
    assert (told["status"], told["waits_for"]) == ("Queued", "resources")
    assert "CPU" in told["reason"]
    assert line.client.runs.cancel(run.id).status == "Canceled"
    line.go()
    done(line.client, line.first)
    assert line.client.runs.get(run.id).model_dump()["started_at"] is None


def test_runs_that_fit_together_go_on_together(line: Line) -> None:
    line.go()
    done(line.client, line.first)
    eventually(lambda: line.client.nodes.list()[0]["free_cpus"] == line.cpus, "the node is free again")
