"""The caller of a route: principal, project and what it may do.

    async def submit(caller: Annotated[Caller, may("runs.write")]) -> Reply: ...

Every route of the API names its action this way; `create_app` refuses an app with one that does not.
"""

from collections.abc import Collection
from dataclasses import dataclass
from typing import Final, cast

from fastapi import Depends, Request
from fastapi.openapi.models import HTTPBearer as HTTPBearerModel
from fastapi.params import Depends as Dependency
from fastapi.security.base import SecurityBase

from cloche_shared.access import ACTIONS, DEFAULT_PROJECT, EVERY_PROJECT, Principal, is_project_name
from cloche_shared.errors import Forbidden, Internal, Invalid, NotFound
from cloche_shared.http.exchange import Exchange, exchange_of
from cloche_shared.journal.commit import Actor, Origin

HEADER: Final = "cloche-project"


@dataclass(frozen=True, slots=True)
class Caller:
    """Who asks, and for which project."""

    principal: Principal
    project: str
    exchange: Exchange

    @property
    def actor(self) -> Actor:
        """Who is recorded in the commit: subject, address, request id."""
        return Actor(self.principal.subject, self.exchange.address, self.exchange.request_id)

    def origin(self, *, correlation: str = "", request_id: str = "") -> Origin:
        """Return the origin of what this request does; without a correlation the trace's id is taken."""
        return Origin(
            actor=self.actor,
            correlation=correlation or self.exchange.trace_id,
            request_id=request_id,
            traceparent=self.exchange.traceparent,
        )

    def wrote(self, stream: object, seq: int) -> None:
        """Note a place that this request wrote: it travels back as `Cloche-Position`."""
        self.exchange.wrote.append(f"{stream}@{seq}")


def choose_project(principal: Principal, header: str | None, known: Collection[str]) -> str:
    """Return the project of a request; `known` are those that exist.

    A key that names its projects was issued for projects that exist; one that opens every project opens
    those that do. Raises `Invalid` (`invalid_name`, `project_required`) and `NotFound`
    (`project_not_found`): a project of others looks like one that does not exist.
    """
    if not header:
        if len(principal.projects) == 1:
            return DEFAULT_PROJECT if principal.projects[0] == EVERY_PROJECT else principal.projects[0]
        if principal.opens(DEFAULT_PROJECT):
            return DEFAULT_PROJECT
        raise Invalid(
            "project_required", "The token opens several projects.", todo="Name one in the header Cloche-Project."
        )
    if not is_project_name(header):
        raise Invalid("invalid_name", "The header Cloche-Project does not hold a project's name.")
    if header in principal.projects or (EVERY_PROJECT in principal.projects and header in known):
        return header
    raise project_not_found()


def project_not_found() -> NotFound:
    """Return the error for a project that does not exist, or is not open to the caller: nobody can tell which."""
    return NotFound(
        "project_not_found",
        "There is no such project for this token.",
        todo="Choose one from `cloche project list`, or ask an administrator.",
    )


class Action(SecurityBase):
    """A dependency: the caller, when it may do the action; denied otherwise.

    `anywhere`: it concerns no single project, so a key that opens several need not name one.
    """

    def __init__(self, action: str, *, anywhere: bool = False) -> None:
        if action not in ACTIONS:
            raise Internal("unknown_action", f"The table of actions has no {action!r}.")
        self.action = action
        self._anywhere = anywhere
        self.model = HTTPBearerModel(description="`Authorization: Bearer cloche_…`")
        self.scheme_name = "token"

    async def __call__(self, request: Request) -> Caller:
        """Return the caller; raises `Forbidden` (`not_allowed`)."""
        return self.admit(exchange_of(request), request.headers.get(HEADER))

    def admit(self, exchange: Exchange, wanted: str | None) -> Caller:
        """Return the caller; `wanted` is the project that its header names. Raises as a call does."""
        principal = exchange.principal
        if principal is None:
            raise self._forbidden()
        if self._anywhere and not wanted and EVERY_PROJECT not in principal.projects:
            wanted = principal.projects[0]
        project = choose_project(principal, wanted, exchange.projects)
        exchange.project = project
        if not principal.may(self.action):
            raise self._forbidden()
        return Caller(principal, project, exchange)

    def _forbidden(self) -> Forbidden:
        return Forbidden(
            "not_allowed",
            f"This token may not do {self.action}.",
            why=f"It needs the role {ACTIONS[self.action]} or a higher one.",
            todo="Ask an administrator for a key with that role.",
        )


def may(action: str, *, anywhere: bool = False) -> Dependency:
    """Return the mark that asks for a caller with this permission, `anywhere`: without a project.

    `caller: Annotated[Caller, may("runs.write")]`
    """
    return cast("Dependency", Depends(Action(action, anywhere=anywhere)))
