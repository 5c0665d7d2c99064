"""The servers and the services of a cluster for the time of a benchmark."""

import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from benchmarks.core import SkippedError, port_open
from tests.e2e.cluster import Cluster
from tests.environments import engine, places, sharing
from tests.environments.owners import this_owner
from tests.environments.servers import MongoServer, S3Server, Server

__all__ = ["Cluster", "cluster", "document_store", "object_store", "port_open", "until_quiet"]

QUIET_SHARE = 0.1
"""Of one core, taken by all services together: then nothing of an earlier load is still being worked off."""
LONGEST_S = 60.0


@contextmanager
def _shared(role: str) -> Iterator[Server]:
    """Yield the running server of a role; it is given back afterwards. Raises `SkippedError`."""
    try:
        yield sharing.acquire(role, this_owner())
    except places.NotPossible as error:
        raise SkippedError(f"{role}: {error}") from None
    finally:
        sharing.release(this_owner())
        engine.close()


@contextmanager
def document_store() -> Iterator[MongoServer]:
    """Yield a document store."""
    with _shared("mongo") as server:
        assert isinstance(server, MongoServer)
        yield server


@contextmanager
def object_store() -> Iterator[S3Server]:
    """Yield an S3 server."""
    with _shared("s3") as server:
        assert isinstance(server, S3Server)
        yield server


@contextmanager
def cluster(folder: Path) -> Iterator[Cluster]:
    """Yield four services, one process each, with their gateway. Raises `SkippedError`."""
    with document_store():
        found = Cluster("", "", folder / "client", home=folder / "cluster", replicas=1)
        found.scratch.mkdir()
        try:
            found.start()
            yield found
        finally:
            found.stop()


def until_quiet(running: Cluster) -> float:
    """Wait until the services have worked off what they were given; return the seconds that it took."""
    began = time.perf_counter()
    while time.perf_counter() - began < LONGEST_S:
        before = _cpu_seconds(running)
        time.sleep(1.0)
        if _cpu_seconds(running) - before <= QUIET_SHARE:
            break
    return time.perf_counter() - began


def _cpu_seconds(running: Cluster) -> float:
    """Return the processor time that the services have taken so far."""
    stats = [Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split() for pid in running.pids.values()]
    return sum(int(stat[11]) + int(stat[12]) for stat in stats) / os.sysconf("SC_CLK_TCK")
