"""What the deployer listens to."""

from cloche_deployer.domain import ServiceState
from cloche_deployer.driver import Driver
from cloche_deployer.handlers import Handlers
from cloche_deployer.views import LIVE, NODE_VIEW, row_of
from cloche_shared.bus.dispatch import BatchConsumer, Consumer, Handler
from cloche_shared.bus.projector import Projection, Projector
from cloche_shared.contracts.envelope import Event
from cloche_shared.contracts.fact import Fact, fact_type
from cloche_shared.contracts.facts import (
    ImageProvided,
    ImageRefused,
    ReferencesRefused,
    ReferencesResolved,
    ReplicaAllocated,
    ReplicaPlaced,
    ReplicaRefused,
    RevisionProvided,
    ServiceDeleted,
    ServiceDeployed,
    ServiceFailed,
    ServiceSubmitted,
    ServiceUpdated,
)
from cloche_shared.journal.commit import StreamId
from cloche_shared.journal.streams import Streams
from cloche_shared.ports.bus import Bus
from cloche_shared.ports.platform import Random
from cloche_shared.ports.views import Views

ANSWERS_GROUP = "deployer"
DRIVER_GROUP = "deployer-driver"
VIEWS_GROUP = "deployer-views"
_PAGE = 500


def answers_consumer(bus: Bus, handlers: Handlers, random: Random, code_version: str) -> Consumer:
    """Return the consumer of what the other services answer."""
    table: dict[type[Fact], Handler] = {
        ReferencesResolved: handlers.resolved,
        ReferencesRefused: handlers.resolved,
        ImageProvided: handlers.provided,
        ImageRefused: handlers.provided,
        ReplicaAllocated: handlers.placed,
        ReplicaRefused: handlers.placed,
    }
    named = {fact_type(fact): handler for fact, handler in table.items()}
    return Consumer(bus, ANSWERS_GROUP, ["cloche.answers"], named, random=random, code_version=code_version)


def driver_consumer(bus: Bus, driver: Driver, random: Random, code_version: str) -> Consumer:
    """Return the consumer of our own facts that wakes the driver."""

    async def wake(event: Event) -> None:
        driver.wake(StreamId.parse(event.subject))

    facts = (
        ServiceSubmitted,
        RevisionProvided,
        ReplicaPlaced,
        ServiceDeployed,
        ServiceUpdated,
        ServiceFailed,
        ServiceDeleted,
    )
    table: dict[str, Handler] = {fact_type(fact): wake for fact in facts}
    return Consumer(bus, DRIVER_GROUP, ["cloche.services"], table, random=random, code_version=code_version)


def lists(streams: Streams[ServiceState], views: Views) -> Projector:
    """Return the projector of our lists."""
    return Projector(views, [Projection(streams, row_of)])


def views_consumer(bus: Bus, projector: Projector, random: Random, code_version: str) -> BatchConsumer:
    """Return the consumer of our own facts that keeps the lists."""
    return BatchConsumer(bus, VIEWS_GROUP, ["cloche.services"], projector, random=random, code_version=code_version)


async def living(views: Views) -> list[StreamId]:
    """Return every service that exists, of all projects."""
    found: list[StreamId] = []
    after: tuple[str, str] | None = None
    while True:
        rows = await views.page(NODE_VIEW, "*", facet=LIVE, after=after, limit=_PAGE)
        found.extend(StreamId.parse(f"service/{row.key}") for row in rows)
        if len(rows) < _PAGE:
            return found
        after = (rows[-1].sort, rows[-1].key)
