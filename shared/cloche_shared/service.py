"""What every service offers to the composition that runs it."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol

from fastapi import APIRouter

from cloche_shared.access import AccessTable
from cloche_shared.http.exchange import Exchange
from cloche_shared.http.front import Ahead
from cloche_shared.http.health import Check
from cloche_shared.lifecycle import Lifecycle
from cloche_shared.ports.blobs import BlobStore
from cloche_shared.ports.bus import Bus
from cloche_shared.ports.journal import Journal, Leases
from cloche_shared.ports.platform import Clock, Http, Random
from cloche_shared.ports.reserve import NoReserve, Reserve
from cloche_shared.ports.views import Views


@dataclass(frozen=True, slots=True)
class Platform:
    """The ports that every service is built from; `journal`, `views` and `leases` are its own.

    `exclusive` promises that no other process writes to this journal. `installation` names this
    installation in positions and labels. `reserve` is the room that is kept for records of how things ended.
    """

    journal: Journal
    views: Views
    leases: Leases
    bus: Bus
    blobs: BlobStore
    clock: Clock
    random: Random
    http: Http
    access: AccessTable
    installation: str
    exclusive: bool = False
    relays: bool = True
    reserve: Reserve = field(default_factory=NoReserve)


@dataclass(frozen=True, slots=True)
class Surface:
    """What a service shows to HTTP: its router, raw ASGI apps that are asked first, checks by name.

    `figures` returns what the service counts itself, in Prometheus' text format; `finished` is told of
    every request of the process, for the record of those that were refused.
    """

    router: APIRouter
    ahead: Sequence[Ahead] = ()
    checks: Mapping[str, Check] = field(default_factory=dict)
    figures: Callable[[], bytes] | None = None
    finished: Callable[[Exchange], None] | None = None


class Service(Protocol):
    """One of the four."""

    @property
    def name(self) -> str:
        """`registry`, `builder`, `runner` or `deployer`."""

    @property
    def surface(self) -> Surface:
        """What it shows to HTTP; complete before `start`."""

    async def start(self, lifecycle: Lifecycle) -> None:
        """Start consumers, relay and loops as tasks of `lifecycle`, which also stops them."""
