"""Fixtures of the behaviour suite: one server for all tests, private ones, names, clients, scripts."""

import fcntl
import os
import uuid
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import IO

import pytest

from cloche import Client
from tests.e2e.packages import ThreadedIndex, threaded_index
from tests.e2e.topology import DELAY, PATIENCE, Embedded, Topology, eventually, own_server, shared_server, using

CLUSTER = os.environ.get("CLOCHE_TEST_TOPOLOGY") == "cluster"
"""Whether the suite runs on four services, each a process of its own."""
collect_ignore = [] if CLUSTER else ["test_outside_producers.py"]
"""What needs a broker."""
LEFT_CONNECTION = (
    r"ignore:Exception ignored in. <(function _SelectorTransport|socket\.socket)"
    ":pytest.PytestUnraisableExceptionWarning"
)
"""Only unclosed sockets: every other exception that cannot be raised fails the test it comes up in."""


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Give each test of this folder the time that its waits may take.

    A connection that a killed download left to the index of the tests is closed by the garbage
    collector, in whatever test that runs; it says nothing about the product.
    """
    for item in items:
        if item.path.is_relative_to(Path(__file__).parent):
            item.add_marker(pytest.mark.filterwarnings(LEFT_CONNECTION))
        if item.path.is_relative_to(Path(__file__).parent) and not item.get_closest_marker("timeout"):
            item.add_marker(pytest.mark.timeout(3 * PATIENCE))
    fits = _fits_a_cluster if CLUSTER else _fits_one_process
    items[:] = [item for item in items if fits(item) and not (DELAY and item.get_closest_marker("undelayed"))]


def _fits_a_cluster(item: pytest.Item) -> bool:
    """Whether a test is not about the one process of an embedded Cloche."""
    return item.get_closest_marker("embedded_only") is None and "own_topology" not in getattr(item, "fixturenames", ())


def _fits_one_process(item: pytest.Item) -> bool:
    """Whether a test does not need services that come and go one by one."""
    return item.get_closest_marker("cluster_only") is None


@pytest.fixture(scope="session")
def session_root(tmp_path_factory: pytest.TempPathFactory, request: pytest.FixtureRequest) -> Iterator[Path]:
    """The folder that all workers of this test session share; a keeper cleans up after the last of them."""
    base = tmp_path_factory.getbasetemp()
    root = (base.parent if hasattr(request.config, "workerinput") else base) / "cloche"
    with using(root):
        yield root


@pytest.hookimpl(trylast=True)
def pytest_sessionfinish(session: pytest.Session) -> None:
    """Check, after the last worker, that nothing of any server lives; the keeper says what it had to end."""
    factory = getattr(session.config, "_tmp_path_factory", None)
    root = getattr(factory, "_basetemp", None) or Path("nowhere")
    root /= "cloche"
    if hasattr(session.config, "workerinput") or not root.exists():
        return
    with (root / "keeper.lock").open("w") as lock:
        eventually(lambda: is_free(lock), "the keeper of the test session has cleaned up", seconds=PATIENCE)
    left = (root / "left.txt").read_text().splitlines()
    if left:
        print("\nStill living after the last test:", *left, sep="\n  ")  # noqa: T201 - pytest shows it
        session.exitstatus = pytest.ExitCode.TESTS_FAILED


def is_free(lock: IO[str]) -> bool:
    try:
        fcntl.flock(lock, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _cluster(root: Path) -> Iterator[Topology]:
    from tests.e2e.cluster import NotPossible, shared_cluster  # noqa: PLC0415  # a second that others need not pay

    try:
        with shared_cluster(root) as cluster:
            yield cluster
    except NotPossible as error:
        pytest.skip(str(error))


@pytest.fixture(scope="session")
def topology(session_root: Path) -> Iterator[Topology]:
    """The server that all tests share. It is never empty, and nobody may stop it."""
    if CLUSTER:
        yield from _cluster(session_root)
        return
    with shared_server(session_root) as found:
        yield found


@pytest.fixture
def own_topology(session_root: Path, unique: Callable[[str], str]) -> Iterator[Callable[..., Embedded]]:
    """Return a function that starts a server for this test alone.

    Settings are given by variable (`CLOCHE_RUNNER__PATIENCE="1"`), `disk` in bytes.
    """
    with ExitStack() as stack:

        def start(*, disk: int = 0, **settings: str) -> Embedded:
            return stack.enter_context(own_server(session_root, unique("own"), settings, disk))

        yield start


@pytest.fixture
def client(topology: Topology) -> Iterator[Client]:
    with topology.client() as found:
        yield found


@pytest.fixture(scope="session")
def unique() -> Callable[[str], str]:
    """Return a function that makes names nobody else has."""
    return lambda head: f"{head}-{uuid.uuid4().hex[:10]}"


@pytest.fixture
def script(tmp_path: Path) -> Callable[..., Path]:
    """Return a function that writes a script into a folder of its own."""

    def write(text: str, name: str = "train.py") -> Path:
        folder = tmp_path / uuid.uuid4().hex[:8]
        folder.mkdir()
        (folder / name).write_text(text)
        return folder / name

    return write


@pytest.fixture
def index() -> Iterator[ThreadedIndex]:
    """A package index of this test's own on loopback."""
    with threaded_index() as found:
        yield found
