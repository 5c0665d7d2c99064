"""The app of a process: the surfaces of the services that live in it, behind one front."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

from cloche_shared.access import AccessTable
from cloche_shared.http.app import App, AppParts, create_app
from cloche_shared.http.exchange import Exchange
from cloche_shared.http.files import FILE_RULES
from cloche_shared.http.front import FrontParts
from cloche_shared.http.health import Check, Version
from cloche_shared.http.policy import FrontPolicy
from cloche_shared.logs import AccessNotes, Log, crash_note
from cloche_shared.metrics import RequestMetrics, render_all
from cloche_shared.ports.platform import Clock, Random
from cloche_shared.service import Service


@dataclass(frozen=True, slots=True)
class ProcessParts:
    """What a process gives to its app. `openapi` is the document that was made at build time, None where there is none.

    `checks` are those of the process itself, besides the services'.
    """

    version: Version
    access: AccessTable
    log: Log
    clock: Clock
    random: Random
    policy: FrontPolicy
    openapi: bytes | None = None
    checks: Mapping[str, Check] = field(default_factory=dict)


def whole_app(services: Sequence[Service], parts: ProcessParts) -> App:
    """Return the app of all services of a process."""
    notes, figures = AccessNotes(parts.log), RequestMetrics()

    # each service has a record of refusals; a process of several needs one
    finished = next((service.surface.finished for service in services if service.surface.finished is not None), None)

    def note(exchange: Exchange, seconds: float) -> None:
        notes(exchange, seconds)
        figures(exchange, seconds)
        if finished is not None:
            finished(exchange)

    front = FrontParts(
        access=parts.access,
        clock=parts.clock,
        random=parts.random,
        policy=replace(parts.policy, routes=(*parts.policy.routes, *FILE_RULES)),
        ahead=[app for service in services for app in service.surface.ahead],
        note=note,
        crashed=crash_note(parts.log),
    )
    checks = {f"{service.name}.{name}": check for service in services for name, check in service.surface.checks.items()}
    return create_app(
        [service.surface.router for service in services],
        AppParts(
            version=parts.version,
            front=front,
            checks={**parts.checks, **checks},
            openapi=parts.openapi,
            figures=lambda: render_all(figures, [service.surface.figures for service in services]),
        ),
    )
