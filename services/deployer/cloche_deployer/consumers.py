"""What the deployer listens to."""

from cloche_deployer.domain import ServiceState
from cloche_deployer.driver import Driver
from cloche_deployer.handlers import Handlers
from cloche_deployer.views import row_of
from cloche_shared.bus.dispatch import BatchConsumer, Consumer, Handler
from cloche_shared.bus.projector import Projection, Projector
from cloche_shared.contracts.envelope import Event
from cloche_shared.contracts.fact import Fact, fact_type
from cloche_shared.contracts.facts import (
    ImageProvided,
    ImageRefused,
    NodeJoined,
    NodeLost,
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
OWN_TOPICS = ("cloche.services",)
FOREIGN_TOPICS = ("cloche.answers", "cloche.nodes")


def answers_consumer(bus: Bus, handlers: Handlers, random: Random, code_version: str) -> Consumer:
    """Return the consumer of what the other services answer, and of nodes that come and go."""
    table: dict[type[Fact], Handler] = {
        ReferencesResolved: handlers.resolved,
        ReferencesRefused: handlers.resolved,
        ImageProvided: handlers.provided,
        ImageRefused: handlers.provided,
        ReplicaAllocated: handlers.placed,
        ReplicaRefused: handlers.placed,
        NodeJoined: handlers.node_seen,
        NodeLost: handlers.node_seen,
    }
    named = {fact_type(fact): handler for fact, handler in table.items()}
    return Consumer(
        bus, ANSWERS_GROUP, ["cloche.answers", "cloche.nodes"], named, random=random, code_version=code_version
    )


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
    return Consumer(bus, DRIVER_GROUP, OWN_TOPICS, table, random=random, code_version=code_version)


def lists(streams: Streams[ServiceState], views: Views) -> Projector:
    """Return the projector of our lists."""
    return Projector(views, [Projection(streams, row_of)])


def views_consumer(bus: Bus, projector: Projector, random: Random, code_version: str) -> BatchConsumer:
    """Return the consumer of our own facts that keeps the lists."""
    return BatchConsumer(bus, VIEWS_GROUP, OWN_TOPICS, projector, random=random, code_version=code_version)
