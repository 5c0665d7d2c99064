"""Routers whose routes read JSON strictly and document every answer."""

from collections.abc import Callable, Coroutine
from typing import Any

from fastapi import APIRouter, Request, Response
from fastapi.routing import APIRoute

from cloche_shared.http.problems import problem_responses
from cloche_shared.http.strict_json import RawJson, parse


class _StrictRequest(Request):
    """Hands the body's checked bytes on, to be validated in JSON mode."""

    async def json(self) -> RawJson:
        raw = await self.body()
        return RawJson(raw)


class StrictRoute(APIRoute):
    """A route whose JSON body is checked by `strict_json.parse` first."""

    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        """Return the handler; without a body it is FastAPI's own."""
        inner = super().get_route_handler()
        if self.body_field is None:
            return inner

        async def handler(request: Request) -> Response:
            strict = _StrictRequest(request.scope, request.receive)
            raw = await strict.body()
            if raw:
                parse(raw)
            return await inner(strict)

        return handler


def router(tag: str, prefix: str = "") -> APIRouter:
    """Return a router of the API: `router("runs", "/runs")`. `create_app` puts `/api/v1` before it."""
    return APIRouter(prefix=prefix, tags=[tag], route_class=StrictRoute, responses=problem_responses())
