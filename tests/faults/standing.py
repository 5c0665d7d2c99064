"""The four services on servers of their own, with deadlines short enough for faults to pass beyond them."""

import signal
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final

from tests.e2e.cluster import Cluster
from tests.e2e.topology import eventually
from tests.faults.servers import Servers

if TYPE_CHECKING:
    from tests.environments.servers import KafkaServer, MongoServer, S3Server

SHORT: Final = {
    "CLOCHE_KAFKA__DEADLINE_S": "4",
    "CLOCHE_KAFKA__SESSION_S": "3",
    "CLOCHE_MONGO__TIMEOUT_S": "3",
    "CLOCHE_S3__TIMEOUT_S": "3",
    "CLOCHE_RUNNER__LEASE": "10",
    "CLOCHE_RUNNER__SWEEP_EVERY": "5",
    "CLOCHE_DEPLOYER__RETRY_PAUSE": "1",
    "CLOCHE_DEPLOYER__LOOK_EVERY": "5",
}


@dataclass
class Standing(Cluster):
    """A cluster whose servers are its own: a test may do to them what it likes."""

    servers: Servers | None = None

    @property
    def own(self) -> Servers:
        assert self.servers is not None
        return self.servers

    def database(self, service: str) -> str:
        """Return the name of a service's database."""
        return f"{self.installation}_{service}"

    @property
    def installation(self) -> str:
        return self._identity("installation")

    def all_ready(self) -> None:
        """Wait until every replica says that it is well."""
        eventually(lambda: not any(self.all_failing().values()), f"all are ready; see the logs in {self.home}")

    def all_failing(self) -> dict[str, dict[str, str]]:
        """Return what each replica says fails; they are asked at the same time, as a dead server delays an answer."""
        with ThreadPoolExecutor(len(self.ports)) as pool:
            return dict(zip(self.ports, pool.map(self.failing, self.ports), strict=True))

    def end_all(self, number: int = signal.SIGKILL) -> None:
        """End every service."""
        for name in self.ports:
            self.end(name, number)

    def _servers(self) -> "tuple[KafkaServer, MongoServer, S3Server]":
        return self.own.kafka, self.own.mongo, self.own.s3

    def _stores(self) -> dict[str, str]:
        stores = super()._stores()
        secret = ("CLOCHE_KAFKA__USERNAME", "CLOCHE_KAFKA__PASSWORD", "CLOCHE_KAFKA__CA_FILE")
        return {name: value for name, value in stores.items() if name not in secret} | self.own.settings()


@contextmanager
def standing(
    root: Path, name: str, servers: Servers, *, replicas: int = 1, settings: Mapping[str, str] | None = None
) -> Iterator[Standing]:
    """Yield a cluster of four services on servers; afterwards nothing of it lives."""
    scratch = root / f"scratch-{name}"
    scratch.mkdir(parents=True, exist_ok=True)
    chosen = {**SHORT, **(settings or {})}
    # not behind others: what is late by want of a processor would look like what waits for a server
    cluster = Standing("", "", scratch, root / "homes" / name, chosen, replicas, niceness=0, servers=servers)
    try:
        cluster.start()
        yield cluster
    finally:
        cluster.stop()


def until_named(cluster: Standing, *roles: str) -> None:
    """Wait until every replica names servers as failing."""
    wanted = set(roles)
    eventually(
        lambda: all(wanted <= set(failing) for failing in cluster.all_failing().values()),
        f"everybody says that {' and '.join(roles)} fails",
    )
