"""The servers and the services of a cluster for the time of a benchmark."""

import os
import time
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Final

from benchmarks.cluster.leftovers import remove_installation
from benchmarks.core import SkippedError, port_open
from tests.e2e.cluster import Cluster
from tests.environments import engine, places, sharing
from tests.environments.owners import this_owner
from tests.environments.servers import KafkaServer, MongoServer, S3Server, Server

__all__ = [
    "Cluster",
    "broker",
    "broker_to_break",
    "cluster",
    "document_store",
    "object_store",
    "port_open",
    "until_quiet",
]

QUIET_SHARE = 0.1
"""Of one core, taken by all services together: then nothing of an earlier load is still being worked off."""
LONGEST_S = 60.0
SHARED: Final = ("kafka", "mongo", "s3")
_holders: Final[list[str]] = []
"""The roles that this process holds a server of, once for each `with`."""


@contextmanager
def _shared(role: str) -> Iterator[Server]:
    """Yield the running server of a role; all are given back with the last of them. Raises `SkippedError`."""
    _holders.append(role)
    try:
        yield _acquired(role)
    finally:
        _holders.pop()
        if not _holders:
            sharing.release(this_owner())
            engine.close()


def _acquired(role: str) -> Server:
    try:
        return sharing.acquire(role, this_owner())
    except places.NotPossible as error:
        raise SkippedError(f"{role}: {error}") from None


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
def broker() -> Iterator[KafkaServer]:
    """Yield a message broker."""
    with _shared("kafka") as server:
        assert isinstance(server, KafkaServer)
        yield server


@contextmanager
def broker_to_break() -> Iterator[KafkaServer]:
    """Yield a message broker that nobody else uses. Raises `SkippedError`."""
    with broker(), ExitStack() as stack:
        try:
            server = stack.enter_context(sharing.private("kafka"))
        except places.NotPossible as error:
            raise SkippedError(f"kafka: {error}") from None
        assert isinstance(server, KafkaServer)
        yield server


@contextmanager
def cluster(folder: Path, *, replicas: int = 1, settings: Mapping[str, str] | None = None) -> Iterator[Cluster]:
    """Yield the four services with their gateway; their databases, topics and bucket are gone afterwards.

    `replicas`: processes of each service, runner and deployer each with a node of its own. `settings`
    replace those that name the shared servers. Raises `SkippedError`.
    """
    with broker() as kafka, document_store() as store, object_store() as objects:
        found = Cluster("", "", folder / "client", home=folder / "cluster", replicas=replicas, settings=settings or {})
        found.scratch.mkdir(parents=True)
        try:
            found.start()
            yield found
        finally:
            found.stop()
            remove_installation((found.home / "installation").read_text(), kafka, store, objects)


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
