"""Routes of the hottest commands: documented by FastAPI, served without its resolver.

    @lean(routes, "/things", Lean("things.write", NewThing), operation_id="make_thing", ...)
    async def make(caller: Write, once: Once, body: Json[NewThing]) -> Response: ...

Resolving `caller`, `once` and `body` generically costs more than the command itself. The signature
stays what FastAPI reads for the document and what `create_app` checks.
"""

from collections.abc import Awaitable, Callable, Coroutine, Mapping
from dataclasses import dataclass
from typing import Any, Final

from fastapi import APIRouter, Request, Response
from pydantic import BaseModel
from starlette.requests import ClientDisconnect
from starlette.types import ASGIApp, Receive, Scope, Send

from cloche_shared.http.caller import HEADER, Action
from cloche_shared.http.conditions import RequestKey, check_key, fingerprint_of
from cloche_shared.http.exchange import exchange_of
from cloche_shared.http.routes import StrictRoute, refuse_unknown
from cloche_shared.http.strict_json import parse, read_body

_NO_KEY: Final = RequestKey()
_PROJECT: Final = HEADER.encode()
_IDEMPOTENCY_KEY: Final = b"idempotency-key"

Endpoint = Callable[..., Awaitable[Response]]


@dataclass(frozen=True, slots=True)
class Lean:
    """What a lean route takes: the action that its caller may do, and the model of its body."""

    action: str
    body: type[BaseModel]


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
        made: Response = await self.endpoint(caller=caller, once=once, body=body)
        return made


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

    It stands behind the front, which answers what a route raises as FastAPI's handlers would; `paths`
    maps whole paths to routes. Everything else goes on to `app`.
    """

    def __init__(self, app: ASGIApp, paths: Mapping[str, LeanRoute]) -> None:
        self._app = app
        self._paths = dict(paths)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one connection of ASGI."""
        route = self._paths.get(scope["path"]) if scope.get("method") == "POST" else None
        if route is None:
            await self._app(scope, receive, send)
            return
        scope["route"] = route
        made = await route.answer(scope, receive)
        await made(scope, receive, send)


def request_key(scope: Scope, given: str | None, raw: bytes) -> RequestKey:
    """Return the request's identity by its `Idempotency-Key`. Raises `Invalid` (`invalid_idempotency_key`)."""
    key = check_key(given)
    if not key:
        return _NO_KEY
    return RequestKey(key, fingerprint_of(scope["method"], scope["path"], scope["query_string"], raw))
