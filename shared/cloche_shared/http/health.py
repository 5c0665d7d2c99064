"""Health, version and metrics, for people, load balancers and Prometheus."""

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from typing import Annotated, Final

from fastapi import APIRouter, Response
from pydantic import BaseModel

from cloche_shared.errors import ClocheError
from cloche_shared.http.caller import Caller, may
from cloche_shared.http.problems import problem_responses
from cloche_shared.http.replies import Reply

CHECK_S: Final = 2.0

Check = Callable[[], Awaitable[str | None]]
"""Says what is wrong with one part, in a few words without secrets, or None when it is well."""


class Health(BaseModel):
    """Whether the server is ready, and which parts are not."""

    status: str
    failing: dict[str, str] = {}


class Version(BaseModel):
    """What runs here."""

    name: str
    version: str
    installation: str


async def failing_parts(checks: Mapping[str, Check]) -> dict[str, str]:
    """Return the parts that are not well, with a reason each; no check takes longer than 2 s."""

    async def one(check: Check) -> str | None:
        try:
            async with asyncio.timeout(CHECK_S):
                return await check()
        except TimeoutError:
            return "no answer in time"
        except ClocheError as error:
            return error.code
        except Exception:  # noqa: BLE001 - a broken check is a failing part; its text could hold anything
            return "check failed"

    results = await asyncio.gather(*(one(check) for check in checks.values()))
    return {name: reason for name, reason in zip(checks, results, strict=True) if reason is not None}


def system_router(
    version: Version, checks: Mapping[str, Check], drain: asyncio.Event, figures: Callable[[], bytes]
) -> APIRouter:
    """Return the routes that every process has."""
    routes = APIRouter(tags=["system"], responses=problem_responses())

    async def ready() -> Response:
        failing = {"server": "draining"} if drain.is_set() else await failing_parts(checks)
        content = Health(status="failing" if failing else "ok", failing=failing)
        return Reply(content, 503 if failing else 200, headers={"retry-after": "1"} if failing else None)

    @routes.get("/livez", response_model=Health, summary="The process runs")
    async def livez() -> Response:
        return Reply(Health(status="ok"))

    unready: dict[int | str, dict[str, object]] = {503: {"description": "Some part is not ready.", "model": Health}}
    for path, summary in (("/readyz", "Every part is ready"), ("/healthz", "The same as /readyz")):
        routes.add_api_route(path, ready, response_model=Health, summary=summary, responses=unready, name=path[1:])

    @routes.get("/version", response_model=Version, summary="What runs here")
    async def show_version() -> Response:
        return Reply(version)

    @routes.get("/metrics", response_class=Response, summary="Figures for Prometheus")
    async def metrics(_: Annotated[Caller, may("metrics.read")]) -> Response:
        return Response(figures(), media_type="text/plain; version=0.0.4; charset=utf-8")

    return routes
