"""The caller of a route: principal, project and what it may do.

    async def submit(caller: Annotated[Caller, may("runs.write")]) -> Reply: ...

Every route of the API names its action this way; `create_app` refuses an app with one that does not.
"""

import re
from dataclasses import dataclass
from typing import Final, cast

from fastapi import Depends, Request
from fastapi.openapi.models import HTTPBearer as HTTPBearerModel
from fastapi.params import Depends as Dependency
from fastapi.security.base import SecurityBase

from cloche_shared.access import ACTIONS, EVERY_PROJECT, Principal
from cloche_shared.errors import Forbidden, Internal, Invalid, NotFound
from cloche_shared.http.exchange import Exchange, exchange_of
from cloche_shared.journal.commit import Actor, Origin

HEADER: Final = "cloche-project"
DEFAULT_PROJECT: Final = "default"
_NAME: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,254}").fullmatch


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


def choose_project(principal: Principal, header: str | None) -> str:
    """Return the project of a request.

    Raises `Invalid` (`invalid_name`, `project_required`) and `NotFound` (`project_not_found`): a
    project of others looks like one that does not exist.
    """
    if not header:
        if len(principal.projects) == 1:
            return DEFAULT_PROJECT if principal.projects[0] == EVERY_PROJECT else principal.projects[0]
        if principal.opens(DEFAULT_PROJECT):
            return DEFAULT_PROJECT
        raise Invalid(
            "project_required", "The token opens several projects.", todo="Name one in the header Cloche-Project."
        )
    if not _NAME(header):
        raise Invalid("invalid_name", "The header Cloche-Project does not hold a project's name.")
    if not principal.opens(header):
        raise NotFound("project_not_found", "There is no such project for this token.")
    return header


class Action(SecurityBase):
    """A dependency: the caller, when it may do the action; denied otherwise."""

    def __init__(self, action: str) -> None:
        if action not in ACTIONS:
            raise Internal("unknown_action", f"The table of actions has no {action!r}.")
        self.action = action
        self.model = HTTPBearerModel(description="`Authorization: Bearer cloche_…`")
        self.scheme_name = "token"

    async def __call__(self, request: Request) -> Caller:
        """Return the caller; raises `Forbidden` (`not_allowed`)."""
        return self.admit(exchange_of(request), request.headers.get(HEADER))

    def admit(self, exchange: Exchange, wanted: str | None) -> Caller:
        """Return the caller; `wanted` is the project that its header names. Raises as a call does."""
        principal = exchange.principal
        if principal is None or not principal.may(self.action):
            raise Forbidden(
                "not_allowed",
                f"This token may not do {self.action}.",
                why=f"It needs the role {ACTIONS[self.action]} or a higher one.",
                todo="Ask an administrator for a key with that role.",
            )
        project = choose_project(principal, wanted)
        exchange.project = project
        return Caller(principal, project, exchange)


def may(action: str) -> Dependency:
    """Return the mark that asks for a caller with this permission.

    `caller: Annotated[Caller, may("runs.write")]`
    """
    return cast("Dependency", Depends(Action(action)))
