"""`/events/dead`: messages that no handler could take, shown and sent again by administrators.

A caller sees the letters of the projects that are open to it. What cannot even be read belongs to the project
on whose topic of commands it lay, or to none and is for those to whom all are open.
"""

from typing import Annotated, Final

import orjson
from fastapi import APIRouter, Path
from pydantic import BaseModel
from starlette.responses import Response

from cloche_registry.domain import letters as domain
from cloche_registry.domain.letters import Resent
from cloche_shared.access import EVERY_PROJECT
from cloche_shared.bus.letters import letter_not_found
from cloche_shared.contracts.envelope import commanded_project
from cloche_shared.contracts.facts import DeadLetterResent
from cloche_shared.http.caller import Caller, may
from cloche_shared.http.conditions import Once, RequestKey
from cloche_shared.http.paging import Page, PageQuery, Paging
from cloche_shared.http.replies import Reply
from cloche_shared.http.routes import router
from cloche_shared.journal.streams import Decision, Kind, Streams
from cloche_shared.ports.bus import Bus, Letter

ASKED_AT_ONCE: Final = 200
LETTER: Final = Kind("letter", Resent, domain.evolve)
Operator = Annotated[Caller, may("system.write")]
LetterId = Annotated[str, Path(pattern=r"^[A-Za-z0-9._-]{1,128}$", description="A letter's id.")]


class LetterView(BaseModel):
    """A message that was put aside: what it is about, which group could not take it, and why.

    `type`, `subject` and `event` are empty where the message could not be read, and `project` where it belongs to
    none. `time` is when it says that it happened, else when it was put aside, if the bus keeps that.
    """

    id: str
    group: str
    reason: str
    attempts: int
    code_version: str
    source: str
    type: str = ""
    subject: str = ""
    event: str = ""
    project: str = ""
    time: str = ""


class DeadLetters:
    """What the routes do."""

    def __init__(self, bus: Bus, streams: Streams[Resent]) -> None:
        self._bus = bus
        self.streams = streams

    async def page(self, caller: Caller, paging: PageQuery) -> Reply:
        """Return a page of the letters that the caller may see."""
        shown: list[Letter] = []
        place = paging.after[0] if paging.after else ""
        while len(shown) <= paging.limit:
            found = await self._bus.letters(ASKED_AT_ONCE, after=place)
            shown += [one for one in found if _is_open(caller, one)]
            if len(found) < ASKED_AT_ONCE:
                break
            place = found[-1].id
        items = [view_of(one) for one in shown[: paging.limit]]
        token = paging.token(items[-1].id, "") if len(shown) > paging.limit else None
        return Reply(Page[LetterView](items=items, next_page_token=token))

    async def resend(self, caller: Caller, once: RequestKey, letter_id: str) -> Reply:
        """Record who sends it again, and let it come. Raises `NotFound` (`letter_not_found`)."""
        found = await self._bus.letter(letter_id)
        letter = found if found is not None and _is_open(caller, found) else None

        def decide(_: Resent) -> Decision:
            if letter is None:
                raise letter_not_found(letter_id)
            view = view_of(letter)
            fact = DeadLetterResent(letter=letter_id, group=view.group, event_id=view.event, reason=view.reason[:1024])
            return Decision([fact], json=view.model_dump())

        stream = self.streams.id(caller.project, letter_id)
        origin = caller.origin(request_id=once.request_id(caller.project))
        changed = await self.streams.change(stream, origin, decide, fingerprint=once.fingerprint)
        caller.wrote(changed.stream, changed.seq)
        if letter is not None:
            await self._bus.resend(letter_id)
            return Reply(view_of(letter))
        said = changed.outcome.json if changed.outcome is not None else None
        return Reply(orjson.dumps(said))


def view_of(found: Letter) -> LetterView:
    """Return what is shown of a letter."""
    letter, event = found.letter, found.letter.delivery.event
    view = LetterView(
        id=found.id,
        group=letter.group,
        reason=letter.reason,
        attempts=letter.attempts,
        code_version=letter.code_version,
        source=letter.delivery.source,
        project=_project_of(found),
        time=found.at,
    )
    if event is None:
        return view
    return view.model_copy(
        update={
            "type": event.type,
            "subject": event.subject,
            "event": event.id,
            "time": event.time or found.at,
        }
    )


def _project_of(found: Letter) -> str:
    """Return whose letter it is; empty: nobody's."""
    delivery = found.letter.delivery
    if delivery.event is not None:
        return delivery.event.project
    return commanded_project(delivery.source.rpartition("/")[0]) or ""


def _is_open(caller: Caller, found: Letter) -> bool:
    return caller.principal.opens(_project_of(found) or EVERY_PROJECT)


def letter_routes(letters: DeadLetters) -> APIRouter:
    """Return the routes."""
    routes = router("events", "/events/dead")

    @routes.get("", response_model=Page[LetterView], operation_id="list_dead_letters")
    async def list_all(caller: Operator, paging: Paging) -> Response:
        """List messages that were put aside, oldest first."""
        return await letters.page(caller, paging)

    @routes.post("/{letter}/resend", response_model=LetterView, operation_id="resend_dead_letter")
    async def resend(caller: Operator, once: Once, letter: LetterId) -> Response:
        """Deliver a message once more to the group that could not take it."""
        return await letters.resend(caller, once, letter)

    return routes
