"""Clusters on servers of their own, how often each fault is injected, and the sum of all histories.

CLOCHE_FAULTS=N injects each fault N times (1), and more than once at full length.
"""

import json
import os
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Final

import pytest
from xdist.scheduler import LoadScopeScheduling  # type: ignore[import-untyped]  # it has no types

from tests.e2e.conftest import LEFT_CONNECTION
from tests.e2e.topology import using
from tests.faults.collected import Judged, judged
from tests.faults.load import Load
from tests.faults.servers import Servers, own_servers
from tests.faults.standing import Standing, standing

TIMES: Final = int(os.environ.get("CLOCHE_FAULTS") or 1)
FULL: Final = TIMES > 1
PAUSE_S: Final = 30.0 if FULL else 6.0
"""Longer than any deadline of `standing.SHORT`."""
DOWN_S: Final = 10.0 if FULL else 6.0
TIMEOUT_S: Final = 600
PROPERTY: Final = "faults"
OWN_CLUSTER: Final = ("test_services_killed", "test_services_paired")
"""Modules with clusters of their own."""


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Give each test the time that its waits may take."""
    for item in items:
        if item.path.is_relative_to(Path(__file__).parent):
            item.add_marker(pytest.mark.filterwarnings(LEFT_CONNECTION))
            if not item.get_closest_marker("timeout"):
                item.add_marker(pytest.mark.timeout(TIMEOUT_S))


class Halves(LoadScopeScheduling):  # type: ignore[misc]  # as above
    """Two processes share the tests: one has those with clusters of their own, the other those with the common one."""

    def _split_scope(self, nodeid: str) -> str:
        return "own clusters" if any(f"{module}.py" in nodeid for module in OWN_CLUSTER) else "common cluster"


def pytest_xdist_make_scheduler(config: pytest.Config, log: object) -> Halves:
    """Say how `pytest -n 2` deals the tests."""
    return Halves(config, log)


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Repeat each test that asks for `again` as often as CLOCHE_FAULTS says."""
    if "again" in metafunc.fixturenames:
        metafunc.parametrize("again", range(TIMES))


@pytest.fixture(scope="session")
def ground(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """The folder of all clusters of this process; a keeper cleans up after it."""
    root = tmp_path_factory.getbasetemp() / "cloche"
    with using(root):
        yield root


@pytest.fixture(scope="session")
def servers() -> Iterator[Servers]:
    with own_servers() as found:
        yield found


@pytest.fixture(scope="session")
def cluster(ground: Path, servers: Servers) -> Iterator[Standing]:
    """One cluster for all faults that leave it well behind them."""
    with standing(ground, "faults", servers) as found:
        yield found


@pytest.fixture(scope="session")
def load(cluster: Standing, ground: Path) -> Load:
    """Everything that clients were told by the cluster, over all tests: each judgement is about the whole history."""
    made = Load(cluster, ground / "lived.txt")
    made.prepare()
    return made


@pytest.fixture
def verdict(cluster: Standing, load: Load, record_property: Callable[[str, object], None]) -> Callable[[], Judged]:
    """Return what waits for quiet, judges the history so far, and fails with all that is wrong."""

    def judge() -> Judged:
        return passed(cluster, load, record_property)

    return judge


def passed(cluster: Standing, load: Load, record: Callable[[str, object], None]) -> Judged:
    """Wait until a cluster is well and quiet, judge its whole history and note the counts; fails with what is wrong."""
    cluster.all_ready()
    found = judged(cluster, load)
    noted(record, cluster, found)
    wrong = [*map(str, found.violations), *load.told.wrong]
    load.told.wrong.clear()  # the next fault is not to be held to this one's
    assert not wrong, "\n".join([found.said(), *wrong[:20]])
    return found


def noted(record: Callable[[str, object], None], cluster: Standing, found: Judged) -> None:
    """Note the counts of a history, and those of what was done to the servers, for the sum at the end."""
    record(PROPERTY, json.dumps([str(cluster.home), found.counts]))
    record(PROPERTY, json.dumps([cluster.own.kafka.container, cluster.own.faults]))


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Print the sum over all clusters and servers: of each the greatest counts, which hold those before."""
    newest: dict[str, dict[str, int]] = {}
    for reports in terminalreporter.stats.values():
        for report in reports:
            for name, value in getattr(report, "user_properties", ()):
                if name == PROPERTY and report.when == "call":
                    whose, counts = json.loads(value)
                    newest[whose] = max(newest.get(whose, {}), counts, key=lambda one: sum(one.values()))
    total = Counter[str]()
    for counts in newest.values():
        total.update(counts)
    if total:
        listed = ", ".join(f"{count} {what}" for what, count in sorted(total.items()))
        terminalreporter.write_line(f"faults: {listed}")
