"""Routers whose routes read JSON strictly and document every answer."""

from collections.abc import Callable, Coroutine, Iterator
from http import HTTPStatus
from typing import Any, Final

from fastapi import APIRouter, Request, Response
from fastapi.dependencies.models import Dependant
from fastapi.routing import APIRoute

from cloche_shared.http.exchange import exchange_of
from cloche_shared.http.policy import accept_error
from cloche_shared.http.problems import invalid_from, problem_responses
from cloche_shared.http.strict_json import RawJson, parse

_UNKNOWN: Final = "This route has no such parameter"


class _StrictRequest(Request):
    """Hands the body's checked bytes on, to be validated in JSON mode."""

    async def json(self) -> RawJson:
        raw = await self.body()
        return RawJson(raw)


class StrictRoute(APIRoute):
    """A route whose JSON body is checked by `strict_json.parse` first."""

    def refuse_unaccepted(self, accept: bytes) -> None:
        """Raise `Invalid` (`not_acceptable`) before anything is done whose answer could not be read."""
        refused = accept_error(accept, media_types_of(self))
        if refused is not None:
            raise refused

    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        """Return the handler: FastAPI's own behind the checks of Accept, query and body."""
        inner = super().get_route_handler()
        known = frozenset(_query_names(self.dependant))
        has_body = self.body_field is not None

        async def handler(request: Request) -> Response:
            if accept := exchange_of(request).accept:
                self.refuse_unaccepted(accept)
            if request.scope["query_string"]:
                refuse_unknown(request, known)
            if not has_body:
                return await inner(request)
            strict = _StrictRequest(request.scope, request.receive)
            raw = await strict.body()
            if raw:
                parse(raw)
            return await inner(strict)

        return handler


def media_types_of(route: APIRoute) -> frozenset[str]:
    """Return the media types of a route's good answers, as its document names them; none where they are empty."""
    if route.status_code == HTTPStatus.NO_CONTENT:
        return frozenset()
    kind: object = getattr(route.response_class, "value", route.response_class)
    own = getattr(kind, "media_type", None)
    found = {own.partition(";")[0]} if isinstance(own, str) else set()
    for status, told in route.responses.items():
        if str(status).startswith("2"):
            found |= {media.partition(";")[0] for media in told.get("content", ())}
    return frozenset(found)


def _query_names(dependant: Dependant) -> Iterator[str]:
    yield from (param.alias for param in dependant.query_params)
    for inner in dependant.dependencies:
        yield from _query_names(inner)


def refuse_unknown(request: Request, known: frozenset[str]) -> None:
    """Raise `Invalid` (`unknown_field`) for a query that the route does not have: no filter is silently lost."""
    unknown = [name for name in request.query_params if name not in known]
    if unknown:
        raise invalid_from(
            [{"loc": ("query", name[:256]), "type": "extra_forbidden", "msg": _UNKNOWN} for name in unknown]
        )


def router(tag: str, prefix: str = "") -> APIRouter:
    """Return a router of the API: `router("runs", "/runs")`. `create_app` puts `/api/v1` before it."""
    return APIRouter(prefix=prefix, tags=[tag], route_class=StrictRoute, responses=problem_responses())
