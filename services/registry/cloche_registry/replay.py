"""`/events/groups`: who consumes what, and a group that is to have again what it had."""

from typing import Annotated, Final

from fastapi import APIRouter, Path
from pydantic import AwareDatetime, BaseModel, Field, StringConstraints
from starlette.responses import Response

from cloche_shared.bus.groups import GROUPS
from cloche_shared.contracts.common import Strict
from cloche_shared.contracts.facts import ReplayStarted
from cloche_shared.errors import NotFound
from cloche_shared.http.caller import Caller, may
from cloche_shared.http.operations import every_project, record, text_of
from cloche_shared.http.paging import Page
from cloche_shared.http.replies import Reply
from cloche_shared.http.routes import router
from cloche_shared.http.strict_json import Json
from cloche_shared.journal.writer import Writer
from cloche_shared.ports.bus import Bus

MOST_SOURCES: Final = 10_000
Operator = Annotated[Caller, may("system.write")]
GroupName = Annotated[str, Path(pattern=r"^[A-Za-z0-9._-]{1,128}$", description="A group's name.")]
Source = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9._-]{1,249}(/[0-9]{1,6})?$")]
Offset = Annotated[int, Field(ge=0, lt=2**62)]


class GroupView(BaseModel):
    """A consumer group, and the topics that it reads; a name with `*` stands for all that begin so."""

    group: str
    service: str
    topics: list[str]


class ReplayAsked(Strict):
    """From when on: everything that is kept, or what came `since` a time.

    `left` is that of the answer before; without it, it begins.
    """

    since: AwareDatetime | None = None
    left: Annotated[dict[Source, tuple[Offset, Offset]], Field(max_length=MOST_SOURCES)] | None = None
    limit: int = Field(default=1000, ge=1, le=5000)
    dry_run: bool = False


class Replayed(BaseModel):
    """How many messages come again, about; with `dry_run` how many there are.

    `left` is what follows, by source: the first offset and the one behind the last. Empty: all was sent.
    """

    messages: int
    left: dict[str, tuple[int, int]]


class Replays:
    """What the routes do."""

    def __init__(self, bus: Bus, writer: Writer) -> None:
        self._bus = bus
        self._writer = writer

    async def page(self, caller: Caller, group: str, asked: ReplayAsked) -> Replayed:
        """Let one page come again. Raises `NotFound` (`group_not_found`), `Forbidden`, `Unavailable`."""
        every_project(caller)
        topics = GROUPS.get(group)
        if topics is None:
            raise group_not_found(group)
        left = asked.left
        if left is None or asked.dry_run:
            past = await self._bus.past(topics, asked.since)
            if asked.dry_run:
                return Replayed(messages=past.messages, left={})
            left = dict(past.left)
        # each page: what is left is no proof that somebody began
        await record(self._writer, caller, ReplayStarted(group=group, since=text_of(asked.since)))
        again = await self._bus.replay(group, topics, left, asked.limit)
        return Replayed(messages=again.messages, left=dict(again.left))


def group_not_found(group: str) -> NotFound:
    """Return the error for a group that nobody has."""
    return NotFound(
        "group_not_found",
        f"There is no consumer group {group!r}.",
        todo="Choose one from `cloche events groups`.",
    )


def replay_routes(bus: Bus, writer: Writer) -> APIRouter:
    """Return the routes."""
    replays = Replays(bus, writer)
    routes = router("events", "/events/groups")

    @routes.get("", response_model=Page[GroupView], operation_id="list_groups")
    async def list_groups(caller: Annotated[Caller, may("system.read")]) -> Response:  # noqa: ARG001 - admitted by it
        """List the consumer groups of the services."""
        items = [
            GroupView(group=name, service=name.partition(".")[0].partition("-")[0], topics=list(topics))
            for name, topics in sorted(GROUPS.items())
        ]
        return Reply(Page[GroupView](items=items))

    @routes.post("/{group}/replay", response_model=Replayed, operation_id="replay_group")
    async def replay(caller: Operator, group: GroupName, body: Json[ReplayAsked]) -> Response:
        """Deliver to a group again what its topics hold, a page at a time; what it did already it does not do twice."""
        return Reply(await replays.page(caller, group, body))

    return routes
