"""`GET /events`: what happens in the caller's project, live, as server-sent CloudEvents.

Every message's data is one CloudEvent in structured mode. Its SSE id is opaque; sent back as
`Last-Event-ID`, the stream goes on behind that event.

Embedded, events come in the order of their commits, whatever they are about, and a resumed stream begins with
the very next one. On a broker order is kept per aggregate only, so a resumed stream may repeat what
happened in the ten seconds before: the CloudEvent's own `id` tells. Within one stream an event that the broker
has twice comes once.
"""

from collections import OrderedDict
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass
from datetime import datetime, timedelta
from difflib import get_close_matches
from functools import cache
from hashlib import sha256
from typing import Annotated, Final

import orjson
from fastapi import APIRouter, Query
from starlette.responses import Response

from cloche_shared.contracts.envelope import Event
from cloche_shared.contracts.fact import all_facts
from cloche_shared.contracts.facts import TOPICS
from cloche_shared.errors import Invalid
from cloche_shared.http.caller import Caller, may
from cloche_shared.http.routes import router
from cloche_shared.http.sse import EventStream, LastEventId, ServerEvent
from cloche_shared.ports.bus import Bus

RESUME_OVERLAP: Final = timedelta(seconds=10)
"""What other aggregates' events may be behind the one that the client saw last, and come again."""
REMEMBERED: Final = 1024
"""Events of a stream that are known when they come again."""
PUBLIC: Final = "public"
_ADMINS: Final = (TOPICS["access"], TOPICS["denial"])


@dataclass(frozen=True, slots=True)
class EventFilter:
    """Which events a stream shows; an empty text or set means any. `types` are whole or short names."""

    project: str
    types: frozenset[str] = frozenset()
    correlation: str = ""
    subject: str = ""

    def __call__(self, event: Event) -> bool:
        """Whether the event is shown."""
        return (
            (event.project == self.project or self._of_public_build(event))
            and (not self.types or event.name in self.types or event.type in self.types)
            and (not self.correlation or event.correlation == self.correlation)
            and (not self.subject or event.subject == self.subject)
        )

    def _of_public_build(self, event: Event) -> bool:
        """Tell whether it is about a build from public sources, of a chain that the caller knows."""
        return event.project == PUBLIC and bool(self.correlation)


def known_types(text: str) -> frozenset[str]:
    """Return the names of types in a text. Raises `Invalid` (`unknown_event_type`) for one that no event has."""
    names = frozenset(name.strip() for name in text.split(",") if name.strip())
    unknown = sorted(names - _known_names())
    if not unknown:
        return names
    bare = unknown[0].removeprefix("cloche.").partition(".")[0]
    close = get_close_matches(bare, [name for name in _known_names() if "." not in name], n=3)
    raise Invalid(
        "unknown_event_type",
        f"There is no event type {unknown[0]!r}.",
        why=f"Close to it: {', '.join(close)}." if close else "",
        todo="Name one of docs/reference/events.md: RunCompleted, or cloche.RunCompleted.v1.",
    )


@cache
def _known_names() -> frozenset[str]:
    whole = set(all_facts())
    return frozenset(whole | {name.split(".")[1] for name in whole})


class Resume:
    """Passes over what came before the event that a client saw last, where the bus gave no place for it."""

    def __init__(self, last: str) -> None:
        at, _, self._mark = last.partition("|")
        seen = _moment(at)
        self._since = None if seen is None else seen - RESUME_OVERLAP

    @property
    def asked(self) -> bool:
        """Whether there is anything to resume."""
        return self._since is not None

    def passes(self, event: Event) -> bool:
        """Whether the event comes behind the last one, or may."""
        if self._since is None:
            return True
        moment = _moment(event.time)
        return _mark_of(event) != self._mark and (moment is None or moment >= self._since)


class Seen:
    """Tells events apart that a stream showed lately: replicas may each send what one of them wrote."""

    def __init__(self) -> None:
        self._ids: OrderedDict[str, None] = OrderedDict()

    def is_new(self, event: Event) -> bool:
        """Whether the event is not among the last `REMEMBERED`; from now on it is."""
        if event.id in self._ids:
            self._ids.move_to_end(event.id)
            return False
        self._ids[event.id] = None
        if len(self._ids) > REMEMBERED:
            self._ids.popitem(last=False)
        return True


def _moment(text: str) -> datetime | None:
    try:
        moment = datetime.fromisoformat(text)
    except ValueError:
        return None
    return moment if moment.tzinfo is not None else None


def _mark_of(event: Event) -> str:
    """Return a short text for an event's id, which may be longer than a header may be."""
    return sha256(event.id.encode()).hexdigest()[:24]


def shown(event: Event, place: str = "") -> ServerEvent:
    """Return the message of an event; `place` is what the bus gave for it."""
    where = place or f"{event.time}|{_mark_of(event)}"
    return ServerEvent(orjson.dumps(event.structured()).decode(), id=where, event=event.name)


def topics_for(caller: Caller) -> list[str]:
    """Return the topics that a caller may follow: facts about keys and refusals are for administrators."""
    open_to_all = sorted(set(TOPICS.values()).difference(_ADMINS))
    return [*open_to_all, *_ADMINS] if caller.principal.may("access.write") else open_to_all


async def follow_events(
    bus: Bus,
    topics: list[str],
    wanted: Callable[[Event], bool],
    *,
    from_start: bool = False,
    last: str = "",
    for_ever: bool = True,
) -> AsyncIterator[ServerEvent]:
    """Yield the messages of wanted events; unless `for_ever`, only those that are there."""
    resume, seen = Resume(last), Seen()
    async with bus.tail(topics, from_start=from_start or resume.asked, after=last) as subscription:
        while for_ever or await subscription.behind():
            for delivery in await subscription.fetch():
                event = delivery.event
                if event is not None and wanted(event) and resume.passes(event) and seen.is_new(event):
                    yield shown(event, bus.place(delivery))


def events_router(bus: Bus) -> APIRouter:
    """Return the route."""
    routes = router("events", "/events")

    @routes.get(
        "",
        response_class=EventStream,
        status_code=200,
        operation_id="follow_events",
        responses={200: {"content": {"text/event-stream": {"schema": {"type": "string"}}}, "description": "Events."}},
    )
    async def events(  # noqa: PLR0913 - what a reader may ask for
        caller: Annotated[Caller, may("events.read")],
        resume: LastEventId,
        *,
        from_start: Annotated[bool, Query(description="Begin with the oldest event that is kept.")] = False,
        follow: Annotated[bool, Query(description="Go on with what comes; else end with what is there.")] = True,
        types: Annotated[
            str, Query(max_length=2048, description="Names of types, separated by commas: `RunSubmitted,RunCompleted`.")
        ] = "",
        correlation: Annotated[str, Query(max_length=256, description="Only this chain.")] = "",
        subject: Annotated[str, Query(max_length=1024, description="Only this aggregate: `run/default/<id>`.")] = "",
    ) -> Response:
        """Follow the project's events."""
        names = known_types(types)
        wanted = EventFilter(caller.project, names, correlation, subject)
        return EventStream(
            follow_events(bus, topics_for(caller), wanted, from_start=from_start, last=resume, for_ever=follow)
        )

    return routes
