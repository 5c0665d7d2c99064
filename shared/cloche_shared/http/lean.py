"""Routes of the hottest commands: documented by FastAPI, served without its resolver.

    @lean(routes, "/things", Lean("things.write", NewThing), operation_id="make_thing", ...)
    async def make(caller: Write, once: Once, body: Json[NewThing]) -> Response: ...

    @lean_show(routes, "/{thing_id}", Shown("things.read", THING_ID), operation_id="get_thing", ...)
    async def show(caller: Read, preferred: Preferred, thing_id: ThingId) -> Response: ...

Resolving `caller`, `once`, `preferred` and `body` generically costs more than the command itself. The
signature stays what FastAPI reads for the document and what `create_app` checks.
"""

import re
from collections.abc import Awaitable, Callable, Coroutine, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from fastapi import APIRouter, Request, Response
from fastapi.routing import APIRoute
from pydantic import BaseModel
from starlette.requests import ClientDisconnect
from starlette.types import ASGIApp, Receive, Scope, Send

from cloche_shared.errors import Invalid, Violation
from cloche_shared.http.caller import HEADER, Action
from cloche_shared.http.conditions import (
    LONGEST_PREFER,
    Preference,
    RequestKey,
    check_key,
    fingerprint_of,
    parse_prefer,
)
from cloche_shared.http.exchange import exchange_of
from cloche_shared.http.routes import StrictRoute, refuse_unknown
from cloche_shared.http.strict_json import parse, read_body

_NO_KEY: Final = RequestKey()
_PROJECT: Final = HEADER.encode()
_IDEMPOTENCY_KEY: Final = b"idempotency-key"
_PREFER: Final = b"prefer"

Endpoint = Callable[..., Awaitable[Response]]


@dataclass(frozen=True, slots=True)
class Lean:
    """What a lean route takes: the action that its caller may do, and the model of its body.

    With `prefers` it also takes `preferred`.
    """

    action: str
    body: type[BaseModel]
    prefers: bool = False


@dataclass(frozen=True, slots=True)
class Shown:
    """What a lean route takes that shows one thing: the action that its caller may do, and how ids look."""

    action: str
    ids: re.Pattern[str]


def lean(routes: APIRouter, path: str, takes: Lean, **documented: Any) -> Callable[[Endpoint], Endpoint]:  # noqa: ANN401 - FastAPI's own keywords
    """Return a decorator that adds a POST route for `(caller, once, body)`."""

    def add(endpoint: Endpoint) -> Endpoint:
        routes.add_api_route(path, endpoint, methods=["POST"], route_class_override=_route_class(takes), **documented)
        return endpoint

    return add


class LeanRoute(StrictRoute):
    """Reads the three parts itself; `takes` and `guard` are set by the class that `lean` makes."""

    takes: Lean
    guard: Action

    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        """Return the handler, which needs nothing of FastAPI."""

        async def handler(request: Request) -> Response:
            return await self.answer(request.scope, request.receive)

        return handler

    async def answer(self, scope: Scope, receive: Receive) -> Response:
        """Answer a request."""
        exchange = exchange_of(scope)
        if exchange.accept:
            self.refuse_unaccepted(exchange.accept)
        if scope["query_string"]:
            refuse_unknown(Request(scope), frozenset())
        # of a header that comes twice the first counts, as with every other route
        headers: dict[bytes, bytes] = dict(reversed(scope["headers"]))
        caller = self.guard.admit(exchange, _text(headers.get(_PROJECT)))
        raw = await _whole_body(receive)
        parse(raw)
        body = read_body(self.takes.body, raw)
        once = request_key(scope, _text(headers.get(_IDEMPOTENCY_KEY)), raw)
        asked = {"preferred": _preferred(headers)} if self.takes.prefers else {}
        made: Response = await self.endpoint(caller=caller, once=once, body=body, **asked)
        return made


def lean_show(routes: APIRouter, path: str, takes: Shown, **documented: Any) -> Callable[[Endpoint], Endpoint]:  # noqa: ANN401 - FastAPI's own keywords
    """Return a decorator that adds a GET route for `(caller, preferred, <id>)`; the id is the path's last part."""

    def add(endpoint: Endpoint) -> Endpoint:
        kind = type("LeanShow", (LeanShow,), {"takes": takes, "guard": Action(takes.action)})
        routes.add_api_route(path, endpoint, methods=["GET"], route_class_override=kind, **documented)
        return endpoint

    return add


class LeanShow(StrictRoute):
    """Shows one thing; whatever else is asked of it than that, and how long to wait, FastAPI answers."""

    takes: Shown
    guard: Action

    async def answer(self, scope: Scope, name: str) -> Response:
        """Answer a request for the thing of that id."""
        exchange = exchange_of(scope)
        if exchange.accept:
            self.refuse_unaccepted(exchange.accept)
        headers: dict[bytes, bytes] = dict(reversed(scope["headers"]))
        caller = self.guard.admit(exchange, _text(headers.get(_PROJECT)))
        asked = {"preferred": _preferred(headers), self.name_of_id: name}
        made: Response = await self.endpoint(caller=caller, **asked)
        return made

    @property
    def name_of_id(self) -> str:
        """The id's name in the path."""
        return self.path.rpartition("{")[2].rstrip("}")


def _preferred(headers: Mapping[bytes, bytes]) -> Preference:
    """Return what the caller prefers. Raises `Invalid` (`invalid_field`) as FastAPI's check of the header does."""
    given = headers.get(_PREFER, b"")
    if len(given) > LONGEST_PREFER:
        why, place = f"String should have at most {LONGEST_PREFER} characters.", "#header/prefer"
        raise Invalid(
            "invalid_field",
            f"The request is not valid at `{place}`.",
            why=why,
            todo="Correct what `errors` points at.",
            violations=[Violation(place, "invalid_field", why)],
        )
    return parse_prefer(_text(given))


def _text(header: bytes | None) -> str | None:
    return None if header is None else header.decode("latin-1")


async def _whole_body(receive: Receive) -> bytes:
    """Return the body. Raises `ClientDisconnect` when it ends before its end."""
    parts: list[bytes] = []
    while True:
        message = await receive()
        if message["type"] == "http.disconnect":
            raise ClientDisconnect
        parts.append(message.get("body", b""))
        if not message.get("more_body", False):
            return parts[0] if len(parts) == 1 else b"".join(parts)


def _route_class(takes: Lean) -> type[LeanRoute]:
    return type("LeanRoute", (LeanRoute,), {"takes": takes, "guard": Action(takes.action)})


class Shortcut:
    """Serves lean routes without the way through FastAPI's middlewares and routers, which costs more than a command.

    It stands behind the front, which answers what a route raises as FastAPI's handlers would; `routes`
    are all routes below `prefix`, of which several may have one path. Everything else goes on to `app`.
    """

    def __init__(self, app: ASGIApp, prefix: str, routes: Sequence[APIRoute]) -> None:
        self._app = app
        self._paths = {prefix + route.path: route for route in routes if isinstance(route, LeanRoute)}
        shows = (route for route in routes if isinstance(route, LeanShow))
        self._shows = {(prefix + route.path).rpartition("/")[0]: route for route in shows}

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one connection of ASGI."""
        method = scope.get("method")
        if method == "POST" and (route := self._paths.get(scope["path"])):
            scope["route"] = route
            made = await route.answer(scope, receive)
        elif method == "GET" and (place := self._shown(scope)):
            scope["route"], name = place
            made = await scope["route"].answer(scope, name)
        else:
            await self._app(scope, receive, send)
            return
        await made(scope, receive, send)

    def _shown(self, scope: Scope) -> tuple[LeanShow, str] | None:
        head, _, name = scope["path"].rpartition("/")
        route = self._shows.get(head)
        if route is None or scope["query_string"] or not route.takes.ids.fullmatch(name):
            return None
        return route, name


def request_key(scope: Scope, given: str | None, raw: bytes) -> RequestKey:
    """Return the request's identity by its `Idempotency-Key`. Raises `Invalid` (`invalid_idempotency_key`)."""
    if given is None:
        return _NO_KEY
    key = check_key(given, [value.decode("latin-1") for name, value in scope["headers"] if name == _IDEMPOTENCY_KEY])
    return RequestKey(key, fingerprint_of(scope["method"], scope["path"], scope["query_string"], raw))
