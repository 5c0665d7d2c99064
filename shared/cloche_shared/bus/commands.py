"""A service's commands by message: each acts once and gets exactly one answer.

    desk = CommandDesk("runner", parts)
    desk.on(SubmitRun, submit)              # async (project, command, origin) -> "run/default/<id>"
    lifecycle.spawn("runner.commands", desk.consumer().run())

What is refused, also for data that does not fit, is answered `CommandRefused`, everything else
`CommandAccepted`, on `cloche.answers`. (source, id) names a command within its project, however often it comes.
Of what nobody can read, or no service knows, so that nobody can answer it, the registry makes a dead letter.
"""

from collections import OrderedDict
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, replace
from hashlib import sha256
from typing import Final, TypeVar

import orjson

from cloche_shared.bus.dispatch import Consumer, Handler
from cloche_shared.contracts.commands import BY_TYPE, EVERY_TOPIC, Command, command_type
from cloche_shared.contracts.envelope import Event, commanded_project
from cloche_shared.contracts.fact import Fact, fact_type
from cloche_shared.contracts.facts import TOPICS, CommandAccepted, CommandRefused
from cloche_shared.contracts.references import Problem
from cloche_shared.contracts.runs import AskedResources, Resources
from cloche_shared.errors import ClocheError, Conflict, Failed, Forbidden, Invalid, NotFound, Unavailable, Violation
from cloche_shared.http.strict_json import parse, read_body
from cloche_shared.journal.commit import Actor, Origin, StreamId
from cloche_shared.journal.writer import Writer
from cloche_shared.ports.bus import Bus
from cloche_shared.ports.platform import Clock, Random
from cloche_shared.ports.views import Row, Views

C = TypeVar("C", bound=Command)
Act = Callable[[str, C, Origin], Awaitable[str]]
"""Carries a command of a project out, and returns the aggregate that it is about. May come again after a crash."""

READS_ALL: Final = "registry"
"""The service that puts aside what no service can understand."""
ANSWERED: Final = "commands.answered"
ACCEPTED, REFUSED = "accepted", "refused"
AFTER_WAIT_S: Final = 120.0
"""Seconds that a command waits for the one that it must follow."""
CATCH_UP_S: Final = 5.0
"""Seconds that a refusal is put off which a fact of another service may avert."""
MOST_WAITING: Final = 10_000
_FINAL: Final = (Invalid, NotFound, Conflict, Forbidden, Failed)


@dataclass(frozen=True, slots=True)
class DeskParts:
    """What a desk works with; `views` are the service's own."""

    bus: Bus
    writer: Writer
    views: Views
    clock: Clock
    random: Random
    code_version: str


def command_id(source: str, event_id: str) -> str:
    """Return the id of a command within its project: a hash, so that source and id may hold any character."""
    return "c" + sha256(f"{source}\n{event_id}".encode()).hexdigest()[:40]


class CommandDesk:
    """Takes the commands of one service."""

    def __init__(self, service: str, parts: DeskParts) -> None:
        self._service = service
        self._parts = parts
        self._table: dict[str, Handler] = {
            fact_type(CommandAccepted): self._heard,
            fact_type(CommandRefused): self._heard,
        }
        self._waiting: OrderedDict[str, float] = OrderedDict()

    def on(self, kind: type[C], act: Act[C], *, may_come: frozenset[str] = frozenset()) -> None:
        """Carry out commands of a kind by `act`.

        `may_come` are codes of refusals that another service's fact, which is on its way, may still avert:
        they count after five seconds.
        """

        async def handle(event: Event) -> None:
            project = commanded_project(event.topic)
            if project is None:
                raise Invalid("malformed_event", f"The topic {event.topic} names no project.")
            origin = _origin(project, event)
            if await self._parts.writer.answered(project, _said(origin)) is None:
                answer = await self._outcome(project, kind, origin, event, act)
                if isinstance(answer, CommandRefused) and answer.problem.code in may_come:
                    self._wait(origin.reply_to, CATCH_UP_S)
                await self._parts.writer.reply(project, replace(origin, request_id=_said(origin)), answer)

        self._table[command_type(kind)] = handle

    def consumer(self) -> Consumer:
        """Return what takes the commands of all projects, and hears what the others were answered."""
        parts, reads_all = self._parts, self._service == READS_ALL
        return Consumer(
            parts.bus,
            f"{self._service}.commands",
            [EVERY_TOPIC, TOPICS["answers"]],
            self._table,
            random=parts.random,
            code_version=parts.code_version,
            other=_refuse_unknown if reads_all else None,
            buries_unreadable=reads_all,
        )

    async def _outcome(self, project: str, kind: type[C], origin: Origin, event: Event, act: Act[C]) -> Fact:
        try:
            command = read_command(kind, event)
            await self._follow(project, command, event)
            return CommandAccepted(command=event.type, about=await act(project, command, origin))
        except _FINAL as error:
            return CommandRefused(problem=problem_of(error))

    async def _heard(self, event: Event) -> None:
        """Remember how a command was answered, by whichever service."""
        if event.subject.startswith("command/"):
            stream = StreamId.parse(event.subject)
            facet = ACCEPTED if event.type == fact_type(CommandAccepted) else REFUSED
            row = Row(ANSWERED, stream.project, stream.id, 1, stream.id, b"{}", facet)
            await self._parts.views.upsert([row])

    async def _follow(self, project: str, command: Command, event: Event) -> None:
        """Return once the command that this one comes after was accepted.

        Raises `Unavailable` until then, `Conflict` (`after_refused`) when it was refused and
        `NotFound` (`after_unknown`) when it was not answered for two minutes.
        """
        if command.after is None:
            return
        row = await self._parts.views.get(ANSWERED, project, command_id(event.source, command.after))
        if row is None:
            self._wait(f"{project} {command_id(event.source, event.id)}", AFTER_WAIT_S)
            raise _after_unknown(command.after)
        if row.facet == REFUSED:
            raise Conflict(
                "after_refused",
                f"The command {command.after!r}, which comes before this one, was refused.",
                todo="Mend that one, then send both again under new ids.",
            )

    def _wait(self, name: str, seconds: float) -> None:
        """Raise `Unavailable` for so long since the first call of that name."""
        now = self._parts.clock.monotonic()
        since = self._waiting.setdefault(name, now)
        if len(self._waiting) > MOST_WAITING:
            self._waiting.popitem(last=False)
        if now - since < seconds:
            raise Unavailable("not_caught_up", "What the command depends on has not come yet.")
        self._waiting.pop(name, None)


def _after_unknown(after: str) -> NotFound:
    return NotFound(
        "after_unknown",
        f"The command {after!r} was not answered within {AFTER_WAIT_S:.0f} s.",
        why="`after` names the id of a command of the same source and project.",
        todo="Send that one first, then this one under a new id.",
    )


def read_command(kind: type[C], event: Event) -> C:
    """Return the command that an event carries. Raises `Invalid`, with the places of what is wrong."""
    raw = event.value()
    try:
        parse(raw)
        found = read_body(kind, raw)
    except Invalid as error:
        raise _in_data(error) from None
    if not isinstance(found, kind):
        raise Invalid("malformed_event", f"The data of {event.type} does not fit its schema.")
    return found


def _in_data(error: Invalid) -> Invalid:
    """Return what is wrong with a command's data with the places that it has in the message, as by REST."""
    places = [replace(one, pointer="/data" + one.pointer) for one in error.violations]
    return Invalid(error.code, error.what, why=error.why, todo=error.todo, violations=places)


def asked_resources(wanted: Resources) -> AskedResources:
    """Return what a command asks for, within the same bounds as by REST. Raises `Invalid`, with the places.

    The contract itself allows less, so that a command of an older producer is refused, not put aside.
    """
    try:
        read_body(AskedResources, orjson.dumps(wanted.model_dump()))
    except Invalid as error:
        places = [Violation("/data/resources" + one.pointer, one.code, one.detail) for one in error.violations]
        raise Invalid(error.code, error.what, why=error.why, todo=error.todo, violations=places) from None
    return AskedResources(**wanted.model_dump())


def problem_of(error: ClocheError) -> Problem:
    """Return an error as an answer carries it."""
    violations = [{"pointer": one.pointer, "code": one.code, "detail": one.detail} for one in error.violations]
    message = " ".join(part for part in (error.what, error.why) if part)
    extra = {**error.extra, **({"errors": violations} if violations else {})}
    return Problem(code=error.code, message=message, todo=error.todo, extra=extra)


def _origin(project: str, event: Event) -> Origin:
    """Return the origin of what a command does: whoever may write the topic acts, in the command's own chain."""
    name = command_id(event.source, event.id)
    return Origin(
        Actor(f"topic:{project}", request=f"{event.source} {event.id}"),
        correlation=event.correlation,
        request_id=name,
        reply_to=f"command/{project}/{name}",
        cause=event.id,
        traceparent=event.traceparent,
    )


def _said(origin: Origin) -> str:
    """Return under which id the answer is kept; the effect keeps its own outcome under the command's."""
    return f"{origin.request_id}.said"


async def _refuse_unknown(event: Event) -> None:
    if commanded_project(event.topic) is not None and event.type not in BY_TYPE:
        raise Invalid("unknown_command", f"No service knows the command {event.type}.")
