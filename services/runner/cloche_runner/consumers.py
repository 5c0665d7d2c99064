"""What the runner listens to."""

from collections.abc import Awaitable, Callable, Sequence

from cloche_runner.handlers import SERVICE, Answers, Core
from cloche_shared.bus.dispatch import Handler
from cloche_shared.bus.projector import Projector
from cloche_shared.contracts.envelope import Event
from cloche_shared.contracts.fact import Fact, fact_type, read_fact
from cloche_shared.contracts.facts import (
    TOPICS,
    ImageProvided,
    ImageRefused,
    ReferencesRefused,
    ReferencesResolved,
    ReplicaEnded,
    ReplicaRequested,
)
from cloche_shared.errors import Invalid
from cloche_shared.journal.commit import Origin, StreamId

FOREIGN_TOPICS = (TOPICS["answers"], TOPICS["service"])
OWN_TOPICS = (TOPICS["run"], TOPICS["node"])

Handle = Callable[[StreamId, Event, Fact], Awaitable[None]]


def handlers(answers: Answers) -> dict[str, Handler]:
    """Return the table of handlers for other services' facts."""
    return {
        fact_type(ReferencesResolved): _for_run(ReferencesResolved, answers.resolved),
        fact_type(ReferencesRefused): _refusal(ReferencesRefused, answers),
        fact_type(ImageProvided): _for_run(ImageProvided, answers.provided),
        fact_type(ImageRefused): _refusal(ImageRefused, answers),
        fact_type(ReplicaRequested): _replica(answers),
        fact_type(ReplicaEnded): _ended(answers),
    }


def _read(event: Event) -> Fact:
    fact = read_fact(event.type, event.data)
    if fact is None:
        raise Invalid("malformed_event", f"The type {event.type} is not known.")
    return fact


def _for_run(kind: type, act: Callable[..., Awaitable[None]]) -> Handler:
    async def handle(event: Event) -> None:
        fact = _read(event)
        if event.subject.startswith("run/") and isinstance(fact, kind):
            await act(StreamId.parse(event.subject), Origin.of_event(event, SERVICE), fact)

    return handle


def _refusal(kind: type[ReferencesRefused | ImageRefused], answers: Answers) -> Handler:
    async def act(stream: StreamId, origin: Origin, fact: ReferencesRefused | ImageRefused) -> None:
        await answers.refused(stream, origin, fact.problem)

    return _for_run(kind, act)


def _replica(answers: Answers) -> Handler:
    async def handle(event: Event) -> None:
        fact = _read(event)
        if isinstance(fact, ReplicaRequested):
            origin = Origin.of_event(event, SERVICE, asks=True)
            await answers.replica_requested(StreamId.parse(event.subject), origin, fact)

    return handle


def _ended(answers: Answers) -> Handler:
    async def handle(event: Event) -> None:
        fact = _read(event)
        if isinstance(fact, ReplicaEnded):
            await answers.replica_ended(StreamId.parse(event.subject), Origin.of_event(event, SERVICE), fact)

    return handle


def own_facts(core: Core, projector: Projector) -> Callable[[Sequence[Event]], Awaitable[None]]:
    """Return what is done with the runner's own facts: the board hears of them, and the lists are written."""
    see = seen(core)

    async def handle(events: Sequence[Event]) -> None:
        await see(events)
        await projector(events)

    return handle


def seen(core: Core) -> Callable[[Sequence[Event]], Awaitable[None]]:
    """Return what puts events' aggregates on the board."""

    async def handle(events: Sequence[Event]) -> None:
        newest: dict[StreamId, int] = {}
        for event in events:
            stream = StreamId.parse(event.subject)
            newest[stream] = max(newest.get(stream, 0), event.sequence)
        for stream, seq in newest.items():
            await core.see(stream, seq)

    return handle
