"""What a test needs to know of a running server: addresses, users, and the program behind it."""

import dataclasses
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Self

from docker.models.containers import Container

from tests.environments import engine


@dataclass(frozen=True, kw_only=True)
class Server:
    """A running server. `product` names the program behind it, as a published figure must."""

    role: str
    product: str
    container: str

    @classmethod
    def load(cls, path: Path) -> Self:
        return cls(**json.loads(path.read_text()))

    def save(self, path: Path) -> None:
        path.touch(mode=0o600)
        path.write_text(json.dumps(dataclasses.asdict(self), indent=2))

    def handle(self) -> Container:
        """The container, to pause, kill, restart or disconnect. Ports stay the same over a restart."""
        return engine.client().containers.get(self.container)


@dataclass(frozen=True, kw_only=True)
class KafkaServer(Server):
    """One broker. `bootstrap` is plain and anonymous with all rights; the other two ask for SCRAM-SHA-512.

    `admin` may do everything, `service` nothing until an ACL says so.
    """

    bootstrap: str
    sasl_bootstrap: str
    tls_bootstrap: str
    authority: str
    mechanism: str
    admin: str
    service: str
    password: str


@dataclass(frozen=True, kw_only=True)
class MongoServer(Server):
    """A document store with one user who may do everything. The addresses hold the user and password."""

    host: str
    tls_host: str
    user: str
    password: str
    options: str
    authority: str

    @property
    def url(self) -> str:
        return f"mongodb://{self.user}:{self.password}@{self.host}/?{self.options}"

    @property
    def tls_url(self) -> str:
        return (
            f"mongodb://{self.user}:{self.password}@{self.tls_host}/?{self.options}&tls=true&tlsCAFile={self.authority}"
        )


@dataclass(frozen=True, kw_only=True)
class S3Server(Server):
    """An S3 server without TLS on `endpoint` (host:port), with the keys of its owner."""

    endpoint: str
    access_key: str
    secret_key: str
    region: str
    secure: bool = False
