"""`POST /commands`: a command for those who cannot, or need not, write to a broker.

It takes the same way as a message: it is put on the project's topic and decided by the service that owns it.
What is wrong with its form is said at once; what became of it says an answer with its correlation id.
"""

from datetime import UTC
from typing import Annotated, Final, Literal

import orjson
from fastapi import APIRouter
from pydantic import BaseModel, Field, StringConstraints
from starlette.responses import Response

from cloche_shared.bus.commands import command_id
from cloche_shared.contracts.commands import BY_TYPE, EventId, command_topic
from cloche_shared.contracts.common import Strict
from cloche_shared.contracts.envelope import Event
from cloche_shared.errors import Invalid, Violation
from cloche_shared.http.caller import Caller, may
from cloche_shared.http.replies import Reply
from cloche_shared.http.routes import router
from cloche_shared.http.strict_json import Json, read_body
from cloche_shared.ports.bus import Bus
from cloche_shared.ports.platform import Clock

MAX_DATA: Final = 1024 * 1024
Printable = Annotated[str, StringConstraints(max_length=1024, pattern=r"^[^\x00-\x1f\x7f]*$")]
Short = Annotated[str, StringConstraints(max_length=256, pattern=r"^[^\x00-\x1f\x7f]*$")]


class CommandMessage(Strict):
    """A CloudEvent in structured mode. `source` and `id` name the command: sent again, it acts once."""

    specversion: Literal["1.0"]
    id: EventId
    source: Annotated[Printable, Field(min_length=1)]
    type: Short
    data: dict[str, object]
    datacontenttype: Literal["application/json"] = "application/json"
    subject: Printable = ""
    time: Annotated[str, StringConstraints(max_length=64)] = ""
    correlationid: Short = ""
    partitionkey: Short = ""


class CommandTaken(BaseModel):
    """A command that is on its way. Its answer is the event of that subject, and everything it sets going has that
    correlation id.
    """  # noqa: D205 - one sentence more than a line holds

    subject: str
    correlationid: str
    topic: str


def commands_router(bus: Bus, clock: Clock) -> APIRouter:
    """Return the route."""
    routes = router("events", "/commands")

    @routes.post("", status_code=202, response_model=CommandTaken, operation_id="send_command")
    async def send(caller: Annotated[Caller, may("commands.write")], body: Json[CommandMessage]) -> Response:
        """Put a command on the project's topic."""
        check(body)
        now = clock.now().astimezone(UTC).isoformat(timespec="microseconds").replace("+00:00", "Z")
        event = event_of(body, caller.project, body.time or now, caller.exchange.traceparent)
        await bus.publish([event])
        subject = f"command/{caller.project}/{command_id(body.source, body.id)}"
        return Reply(CommandTaken(subject=subject, correlationid=event.correlation, topic=event.topic), 202)

    return routes


def check(body: CommandMessage) -> None:
    """Refuse what no service could understand. Raises `Invalid` (`unknown_command`), or where the data is wrong."""
    kind = BY_TYPE.get(body.type)
    if kind is None:
        raise Invalid(
            "unknown_command",
            f"No service knows the command {body.type!r}.",
            why=f"There are: {', '.join(sorted(BY_TYPE))}.",
            violations=[Violation("/type", "unknown_command", "Not the type of a command.")],
        )
    try:
        read_body(kind, orjson.dumps(body.data))
    except Invalid as error:
        places = [Violation("/data" + one.pointer, one.code, one.detail) for one in error.violations]
        raise Invalid(error.code, error.what, why=error.why, todo=error.todo, violations=places) from None


def event_of(body: CommandMessage, project: str, time: str, traceparent: str) -> Event:
    """Return the event that is put on the topic."""
    return Event(
        id=body.id,
        type=body.type,
        source=body.source,
        subject=body.subject,
        sequence=0,
        project=project,
        time=time,
        correlation=body.correlationid or body.id,
        data=body.data,
        topic=command_topic(project),
        key=body.partitionkey or body.subject or body.id,
        traceparent=traceparent,
    )
