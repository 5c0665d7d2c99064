"""Routes of the hottest commands: documented by FastAPI, served without its resolver.

    @lean(routes, "/things", Lean("things.write", NewThing), operation_id="make_thing", ...)
    async def make(caller: Write, once: Once, body: Json[NewThing]) -> Response: ...

Resolving `caller`, `once` and `body` generically costs more than the command itself. The signature
stays what FastAPI reads for the document and what `create_app` checks.
"""

from collections.abc import Awaitable, Callable, Coroutine
from dataclasses import dataclass
from typing import Any, Final

from fastapi import APIRouter, Request, Response
from pydantic import BaseModel

from cloche_shared.http.caller import Action
from cloche_shared.http.conditions import RequestKey, check_key, fingerprint_of
from cloche_shared.http.routes import StrictRoute
from cloche_shared.http.strict_json import parse, read_body

_NO_KEY: Final = RequestKey()

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


def _route_class(takes: Lean) -> type[StrictRoute]:
    guard = Action(takes.action)

    class LeanRoute(StrictRoute):
        """Reads the three parts itself."""

        def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
            endpoint = self.endpoint

            async def handler(request: Request) -> Response:
                caller = await guard(request)
                raw = await request.body()
                parse(raw)
                body = read_body(takes.body, raw)
                answer: Response = await endpoint(caller=caller, once=request_key(request, raw), body=body)
                return answer

            return handler

    return LeanRoute


def request_key(request: Request, raw: bytes) -> RequestKey:
    """Return the request's identity. Raises `Invalid` (`invalid_idempotency_key`)."""
    key = check_key(request.headers.get("idempotency-key"))
    if not key:
        return _NO_KEY
    scope = request.scope
    return RequestKey(key, fingerprint_of(scope["method"], scope["path"], scope["query_string"], raw))
