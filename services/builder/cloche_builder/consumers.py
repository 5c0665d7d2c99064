"""Which events the builder listens to, and its lists."""

from collections.abc import Awaitable, Callable, Mapping, Sequence

import orjson

from cloche_builder.domain.builds import Build
from cloche_builder.domain.names import shown_id
from cloche_builder.domain.requests import BuildRequest
from cloche_builder.handlers import SERVICE, Builds, Question, Requests, question_of_request
from cloche_builder.shown import HIDDEN, LIST, SHOWN, build_shown, request_shown
from cloche_shared.bus.dispatch import Handler
from cloche_shared.contracts.envelope import Event
from cloche_shared.contracts.fact import Fact, fact_type, read_fact
from cloche_shared.contracts.facts import (
    BuildAssigned,
    ImageBuildFailed,
    ImageBuilt,
    ImageProvided,
    ImageRefused,
    ImageReleased,
    ImageRequested,
    ReferencesRefused,
    ReferencesResolved,
    RunCanceled,
    RunFailed,
    RunPreparing,
    ServiceDeleted,
    ServicePreparing,
)
from cloche_shared.journal.commit import Origin, StreamId
from cloche_shared.ports.views import Row

TOPICS = ("cloche.runs", "cloche.services", "cloche.builds", "cloche.answers")
OWN_TOPICS = ("cloche.builds",)

OPEN_LIST = "builds.open"
"""The view of what builders have to do, under the project `-`."""
NO_PROJECT = "-"
OPEN, CLOSED = "open", "closed"

Known = Callable[[], Sequence[StreamId]]
"""Returns the builds that are known to be open."""


class Inbox:
    """The handlers of events, by type."""

    def __init__(self, builds: Builds, requests: Requests, known: Known) -> None:
        self._builds = builds
        self._requests = requests
        self._known = known

    def handlers(self) -> Mapping[str, Handler]:
        """Return the table for a consumer."""
        table: Mapping[type[Fact], Handler] = {
            RunPreparing: self._preparing,
            ServicePreparing: self._preparing,
            RunCanceled: self._asker_ended,
            RunFailed: self._asker_ended,
            ServiceDeleted: self._asker_ended,
            ReferencesResolved: self._to_request(self._resolved),
            ReferencesRefused: self._to_request(self._refused),
            ImageProvided: self._to_request(self._provided),
            ImageRefused: self._to_request(self._refused),
            BuildAssigned: self._assigned,
            ImageRequested: self._wanted,
            ImageReleased: self._wanted,
            ImageBuilt: self._ended,
            ImageBuildFailed: self._ended,
        }
        return {fact_type(cls): handler for cls, handler in table.items()}

    async def _preparing(self, event: Event) -> None:
        fact = read_fact(event.type, event.data)
        if isinstance(fact, RunPreparing | ServicePreparing):
            await self._builds.request(
                Question(event.id, event.subject, event.project, event.correlation, fact.environment, fact.target)
            )

    async def _asker_ended(self, event: Event) -> None:
        for stream in self._known():
            present = await self._builds.streams.get(stream)
            if any(waiter.reply_to == event.subject for waiter in present.state.waiters):
                await self._builds.release(stream, event.subject, event.id)

    def _to_request(self, handle: Callable[[StreamId, Event, Fact], Awaitable[None]]) -> Handler:
        """Return a handler of answers that are addressed to a request of ours; others are not for us."""

        async def handler(event: Event) -> None:
            fact = read_fact(event.type, event.data)
            if event.subject.startswith("buildrequest/") and fact is not None:
                await handle(StreamId.parse(event.subject), event, fact)

        return handler

    async def _resolved(self, stream: StreamId, event: Event, fact: Fact) -> None:
        if isinstance(fact, ReferencesResolved):
            await self._requests.assign(stream, fact.environment, Origin.of_event(event, SERVICE))

    async def _provided(self, stream: StreamId, event: Event, fact: Fact) -> None:
        if isinstance(fact, ImageProvided):
            await self._requests.complete(stream, fact, Origin.of_event(event, SERVICE))

    async def _refused(self, stream: StreamId, event: Event, fact: Fact) -> None:
        if isinstance(fact, ReferencesRefused | ImageRefused):
            await self._requests.fail(stream, fact.problem, Origin.of_event(event, SERVICE))

    async def _assigned(self, event: Event) -> None:
        stream = StreamId.parse(event.subject)
        present = await self._requests.streams.get(stream, at_least=event.sequence)
        question = question_of_request(present.state, event.id, stream, event.correlation)
        if question is not None:
            await self._builds.request(question)

    async def _wanted(self, event: Event) -> None:
        self._builds.wake(StreamId.parse(event.subject))

    async def _ended(self, event: Event) -> None:
        stream = StreamId.parse(event.subject)
        await self._builds.settle(stream, at_least=event.sequence)
        self._builds.wake(stream)


def build_rows(stream: StreamId, build: Build, seq: int) -> Sequence[Row]:
    """Return a build's rows: one in the list of each project that asked (none of outlooks), one for builders."""
    rows = [
        Row(
            LIST,
            asker.project,
            shown_id(stream),
            seq,
            asker.at or build.created_at,
            orjson.dumps(build_shown(stream, build, asker.project).model_dump(mode="json")),
            HIDDEN if build.outlook else SHOWN,
        )
        for asker in build.askers
    ]
    facet = OPEN if build.is_open else CLOSED
    return [*rows, Row(OPEN_LIST, NO_PROJECT, str(stream), seq, build.created_at, b"{}", facet)]


def request_rows(stream: StreamId, state: BuildRequest, seq: int) -> Sequence[Row]:
    """Return a request's row: it is listed until its build is."""
    body = orjson.dumps(request_shown(stream, state, None).model_dump(mode="json"))
    facet = HIDDEN if state.build_id or state.purpose != "build" else SHOWN
    return [Row(LIST, stream.project, stream.id, seq, state.created_at, body, facet)]
