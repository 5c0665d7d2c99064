"""What one request carries from the front to its route, under `scope["cloche"]`."""

import asyncio
from collections.abc import Collection
from dataclasses import dataclass, field
from typing import Final, cast

from starlette.requests import HTTPConnection
from starlette.types import Scope

from cloche_shared.access import DEFAULT_PROJECT, Principal
from cloche_shared.errors import ClocheError, Internal

KEY: Final = "cloche"


@dataclass(slots=True)
class Exchange:
    """One request and what is known of its answer.

    `projects` are those that exist. `code` is that of the error it was answered with. `route` is the template
    of the path within its app (`/runs/{id}`), `position` what the caller has seen, `wrote` the places
    (`stream@seq`) that this request wrote; `accept` the media types that are asked for where not any will do;
    `refused` is set by the front when it cuts the request short, `drain` is set when the server ends.
    """

    request_id: str
    traceparent: str
    address: str
    method: str
    path: str
    position: str = ""
    accept: bytes = b""
    principal: Principal | None = None
    projects: Collection[str] = (DEFAULT_PROJECT,)
    project: str = ""
    route: str = ""
    status: int = 0
    code: str = ""
    refused: ClocheError | None = None
    drain: asyncio.Event | None = None
    wrote: list[str] = field(default_factory=list)

    @property
    def trace_id(self) -> str:
        """The trace's 32 hex digits."""
        return self.traceparent[3:35]


def exchange_of(source: HTTPConnection | Scope) -> Exchange:
    """Return the exchange of a request; raises `Internal` when no front stands before the app."""
    scope = source.scope if isinstance(source, HTTPConnection) else source
    found = scope.get(KEY)
    if found is None:
        raise Internal("no_front", "The app is not behind its front.")
    return cast("Exchange", found)
