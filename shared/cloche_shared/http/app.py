"""One app from the routers of one service, or of all four."""

import asyncio
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from http import HTTPStatus
from typing import Final, cast

import orjson
from fastapi import APIRouter, FastAPI, Request, Response
from fastapi.dependencies.models import Dependant
from fastapi.exceptions import RequestValidationError
from fastapi.routing import APIRoute
from starlette.exceptions import HTTPException
from starlette.responses import RedirectResponse
from starlette.routing import BaseRoute
from starlette.types import Receive, Scope, Send

from cloche_shared.access import ACTIONS
from cloche_shared.errors import ClocheError, Internal
from cloche_shared.http import docs_page
from cloche_shared.http.caller import Action
from cloche_shared.http.exchange import exchange_of
from cloche_shared.http.front import Front, FrontParts
from cloche_shared.http.health import Check, Version, system_router
from cloche_shared.http.lean import Shortcut
from cloche_shared.http.problems import Problem, invalid_from, rendered, routing_error
from cloche_shared.metrics import render_all

PREFIX: Final = "/api/v1"
NAME_WORDS: Final = 2
"""Words of a summary that FastAPI makes of a function's name."""
_SCHEMA_REF: Final = "#/components/schemas/{model}"


@dataclass(frozen=True, slots=True)
class AppParts:
    """What an app is put together from, besides its routers.

    `openapi` is the document that was made at build time, as bytes; None: it is made when first asked
    for. `checks` are the parts that `/readyz` names; `figures` is what `/metrics` shows.
    """

    version: Version
    front: FrontParts
    checks: Mapping[str, Check] = field(default_factory=dict)
    openapi: bytes | None = None
    figures: Callable[[], bytes] = render_all


class App:
    """The ASGI app: the front, and FastAPI behind it (`api`)."""

    def __init__(self, api: FastAPI, front: Front, drain: asyncio.Event) -> None:
        self.api = api
        self.drain = drain
        self._front = front

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one connection of ASGI."""
        await self._front(scope, receive, send)


def create_app(routers: Iterable[APIRouter], parts: AppParts) -> App:
    """Return the app. Raises `Internal` (`unguarded_route`) when a route names no action."""
    api = _fastapi(parts.version.version)
    routers = tuple(routers)
    api.state.known = [route for one in routers for route in one.routes if isinstance(route, APIRoute)]
    system = system_router(parts.version, parts.checks, parts.front.drain, parts.figures)
    api.state.system = [route for route in system.routes if isinstance(route, APIRoute)]
    api.include_router(system)
    for one in routers:
        _refuse_unguarded(one.routes)
        api.include_router(one, prefix=PREFIX)
    _add_documents(api, parts.openapi)
    shortcut = Shortcut(api, PREFIX, api.state.known)
    return App(api, Front(shortcut, parts.version.installation, parts.front), parts.front.drain)


def _fastapi(version: str) -> FastAPI:
    return FastAPI(
        title="Cloche",
        version=version,
        openapi_url=None,
        docs_url=None,
        redoc_url=None,
        redirect_slashes=False,
        exception_handlers={
            ClocheError: _on_error,
            HTTPException: _on_http_exception,
            RequestValidationError: _on_invalid,
            Exception: _on_error,
        },
    )


def _refuse_unguarded(routes: Iterable[BaseRoute]) -> None:
    for route in routes:
        if not isinstance(route, APIRoute) or not _guarded(route.dependant):
            raise Internal("unguarded_route", f"The route {getattr(route, 'path', route)!r} names no action.")


def _guarded(dependant: Dependant) -> bool:
    return bool(action_of(dependant))


def action_of(dependant: Dependant) -> str:
    """Return the action that a route asks for, an empty text where it asks for none."""
    if isinstance(dependant.call, Action):
        return dependant.call.action
    return next(filter(None, map(action_of, dependant.dependencies)), "")


# --- errors


def _problem(request: Request, error: Exception) -> Response:
    exchange = exchange_of(request)
    exchange.code = getattr(error, "code", "internal")
    status, headers, body = rendered(error, request_id=exchange.request_id, instance=exchange.path)
    response = Response(body, status)
    response.raw_headers = headers
    return response


async def _on_error(request: Request, error: Exception) -> Response:
    return _problem(request, error)


async def _on_http_exception(request: Request, error: Exception) -> Response:
    found = cast("HTTPException", error)
    return _problem(request, routing_error(found.status_code, _methods(request) or found.headers))


def _methods(request: Request) -> dict[str, str]:
    """Return the `Allow` header of a path: the router itself names the first route's methods only."""
    path = request.scope["path"].removeprefix(PREFIX)
    routes: list[APIRoute] = request.app.state.known
    found = {method for route in routes if route.path_regex.match(path) for method in route.methods or ()}
    found |= {"HEAD"} if "GET" in found else set()
    return {"allow": ", ".join(sorted(found))} if found else {}


async def _on_invalid(request: Request, error: Exception) -> Response:
    return _problem(request, invalid_from(cast("RequestValidationError", error).errors()))


# --- documents


def openapi_document(api: FastAPI) -> bytes:
    """Return the OpenAPI document; made at build time (`cloche-openapi`) and served as a file."""
    whole = api.openapi()
    schemas = whole.setdefault("components", {}).setdefault("schemas", {})
    problem = Problem.model_json_schema(ref_template=_SCHEMA_REF)
    schemas.update(problem.pop("$defs", {}))
    schemas["HttpProblem"] = problem  # `Problem` is what runs, builds and services show of themselves
    for unused in ("HTTPValidationError", "ValidationError"):
        schemas.pop(unused, None)
    for path in whole["paths"].values():
        for operation in path.values():
            _name(operation)
    for place, route in _places(api):
        for method in route.methods or ():
            _say_role(whole["paths"].get(place, {}).get(method.lower()), action_of(route.dependant))
    return orjson.dumps(whole, option=orjson.OPT_SORT_KEYS)


def _places(api: FastAPI) -> list[tuple[str, APIRoute]]:
    """Return every route of FastAPI's with its whole path."""
    system, known = api.state.system, api.state.known
    return [(route.path_format, route) for route in system] + [(PREFIX + route.path_format, route) for route in known]


def _say_role(operation: dict[str, object] | None, action: str) -> None:
    """Name the role that an operation asks for, where OpenAPI 3.1 has a place for roles, and its action."""
    if operation is not None and action:
        operation["security"] = [{"token": [ACTIONS[action]]}]
        operation["x-cloche-action"] = action


def _name(operation: dict[str, str]) -> None:
    """Let the first sentence of a description be the summary, where that is only a function's name."""
    first, _, rest = operation.get("description", "").partition(".")
    if first and len(operation.get("summary", "").split()) <= NAME_WORDS:
        operation["summary"] = first.strip()
        operation["description"] = rest.strip()


def _add_documents(api: FastAPI, ready: bytes | None) -> None:
    made = [ready] if ready is not None else []

    async def openapi(_: Request) -> Response:
        if not made:
            made.append(openapi_document(api))
        return Response(made[0], media_type="application/json")

    api.add_route("/openapi.json", openapi, include_in_schema=False)
    for path, page in docs_page.pages().items():
        api.add_route(path, _page(page), include_in_schema=False)
    api.add_route("/", _to_docs, include_in_schema=False)
    api.add_route("/favicon.ico", _no_icon, include_in_schema=False)


async def _to_docs(_: Request) -> Response:
    """Lead a person who opens the server's address in a browser to something readable."""
    return RedirectResponse("/docs")


async def _no_icon(_: Request) -> Response:
    return Response(status_code=HTTPStatus.NO_CONTENT, headers={"cache-control": "max-age=86400"})


def _page(page: docs_page.Page) -> Callable[[Request], Response]:
    headers = {"content-security-policy": docs_page.POLICY, "cache-control": "no-cache"}

    async def show(_: Request) -> Response:
        return Response(page.body, media_type=page.media_type, headers=headers)

    return show  # type: ignore[return-value]  # Starlette takes coroutine functions too
