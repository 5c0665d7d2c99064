"""Operators' requests that change nothing but what the bus carries: on record, each by a document of its own."""

from datetime import datetime
from typing import Annotated, Final

from fastapi import APIRouter
from pydantic import AwareDatetime, BaseModel, Field, StringConstraints
from starlette.responses import Response

from cloche_shared.access import EVERY_PROJECT
from cloche_shared.bus.republish import MOST_AT_ONCE, Republisher, Selection
from cloche_shared.contracts.common import Strict
from cloche_shared.contracts.fact import Fact
from cloche_shared.contracts.facts import TOPICS, RepublishStarted
from cloche_shared.errors import Forbidden
from cloche_shared.http.caller import Caller, may
from cloche_shared.http.replies import Reply
from cloche_shared.http.routes import router
from cloche_shared.http.strict_json import Json
from cloche_shared.journal.commit import Commit, StreamId
from cloche_shared.journal.writer import Writer
from cloche_shared.ports.journal import Document
from cloche_shared.service import Platform

KIND: Final = "operation"
LEAST: Final = 2
"""Documents of one page, at least: its record is one more at the journal's end, which is to be reached."""
Operator = Annotated[Caller, may("system.write")]
Stream = Annotated[str, StringConstraints(max_length=600, pattern=r"^([a-z]+/[A-Za-z0-9._-]+/[A-Za-z0-9._:-]+)?$")]


class RepublishAsked(Strict):
    """Which facts to send again: of one aggregate between two numbers, or all; between two times or whenever.

    `place` is the `next` of the answer before; without it, it begins.
    """

    stream: Stream = ""
    first: int = Field(default=1, ge=1, lt=10**12)
    last: int | None = Field(default=None, ge=1, lt=10**12)
    since: AwareDatetime | None = None
    until: AwareDatetime | None = None
    place: Annotated[str, StringConstraints(max_length=1024)] = ""
    limit: int = Field(default=500, ge=1, le=MOST_AT_ONCE)
    dry_run: bool = False

    def selection(self) -> Selection:
        """Return what is meant."""
        stream = StreamId.parse(self.stream) if self.stream else None
        return Selection(stream, self.first, self.last, self.since, self.until)


class Republished(BaseModel):
    """How many documents of the journal were looked at, how many events are meant, how many of them were sent.

    `next` is the place of what follows; empty when there is nothing more.
    """

    documents: int
    events: int
    sent: int
    next: str


def every_project(caller: Caller, project: str = EVERY_PROJECT) -> None:
    """Raise `Forbidden` (`token_opens_more`) unless the caller's token opens the project, or all of them."""
    if not caller.principal.opens(project):
        raise Forbidden(
            "token_opens_more",
            "This concerns projects that your token does not open.",
            todo="Ask somebody whose token opens every project.",
        )


def text_of(moment: datetime | None) -> str:
    """Return a time for a record; empty for none."""
    return "" if moment is None else moment.isoformat()


async def record(writer: Writer, caller: Caller, fact: Fact) -> None:
    """Write down who did what, durably, before it is done."""
    stream = StreamId(KIND, caller.project, writer.unique())
    commit = Commit(writer.unique(), (fact,), caller.origin(), writer.now())
    await writer.append([Document(stream.key(1), commit.body(), TOPICS[KIND], str(stream))])


def republish_router(service: str, platform: Platform, writer: Writer) -> APIRouter:
    """Return the route of one service's journal."""
    republisher = Republisher(service, platform.journal, platform.bus, sends=platform.relays)
    routes = router("events", f"/journals/{service}")

    @routes.post("/republish", response_model=Republished, operation_id=f"republish_{service}")
    async def republish(caller: Operator, body: Json[RepublishAsked]) -> Response:
        """Send facts of the journal to the bus again, a page at a time; consumers that had them are not disturbed."""
        selection = body.selection()
        every_project(caller, selection.stream.project if selection.stream is not None else EVERY_PROJECT)
        republisher.check(selection, body.place)
        if not body.dry_run:  # each page: a place is no proof that somebody began
            since, until = text_of(body.since), text_of(body.until)
            fact = RepublishStarted(
                service=service, stream=body.stream, first=body.first, last=body.last, since=since, until=until
            )
            await record(writer, caller, fact)
        limit = max(LEAST, body.limit)
        page = await republisher.page(selection, body.place, limit=limit, dry=body.dry_run)
        return Reply(Republished(documents=page.documents, events=page.events, sent=page.sent, next=page.place))

    return routes
