"""Who uses an environment: runs, services and models, from what their owners told.

One row for each of them in the view `environment.uses`. Its facet is `+<environment>` while it would be
missed if the environment went, `<environment>` when it is history, and `-` when it is gone or uses none.
Whoever is given a reference has his row before, so that what others tell later is never missed. Nothing is
decided on this but whether a deletion is refused; who refers to a version keeps it anyway.
"""

from collections.abc import Mapping, Sequence
from typing import Final

import orjson

from cloche_registry.domain.models import Model
from cloche_shared.contracts.envelope import Event
from cloche_shared.contracts.fact import fact_type
from cloche_shared.contracts.facts import (
    RunCanceled,
    RunCompleted,
    RunFailed,
    RunPreparing,
    RunSubmitted,
    ServiceDeleted,
    ServiceDeployed,
    ServicePreparing,
    ServiceSubmitted,
)
from cloche_shared.errors import Conflict
from cloche_shared.http.paging import PageQuery, page_bytes
from cloche_shared.journal.commit import StreamId
from cloche_shared.ports.views import Row, Views

USES: Final = "environment.uses"
RUNS_SEEN: Final = "runs.seen"
GONE: Final = "-"
SHOWN: Final = 20
"""How many uses an error names."""

_ENDED: Final = frozenset(fact_type(fact) for fact in (RunCompleted, RunFailed, RunCanceled))
_BEGUN: Final = frozenset(fact_type(fact) for fact in (RunSubmitted, RunPreparing, ServicePreparing, ServiceDeployed))
_DELETED: Final = fact_type(ServiceDeleted)
_PREPARING: Final = fact_type(ServicePreparing)
_RUN: Final = fact_type(RunSubmitted)
_SERVICE: Final = fact_type(ServiceSubmitted)


def use_row(event: Event) -> Row | None:
    """Return the row of the run or service that a fact is about; None where the fact changes nothing here."""
    stream = StreamId.parse(event.subject)
    key = f"{stream.kind}/{stream.id}"
    if event.type == _DELETED:
        return Row(USES, stream.project, key, event.sequence, key, b"{}", GONE)
    if event.type == _PREPARING and event.data.get("revision") != 1:
        return None  # the revision before it has the traffic until this one is deployed
    if event.type not in _ENDED | _BEGUN:
        return None
    name, version = _environment(event.data)
    ended = event.type in _ENDED
    if not name and not ended:
        return None  # the default one: its row is there since it was looked up
    facet = GONE if not name else name if ended else f"+{name}"
    body = _body(stream.kind, stream.id, version, active=not ended)
    return Row(USES, stream.project, key, event.sequence, key, body, facet)


def use_of_reference(event: Event, name: str) -> Row | None:
    """Return the row of a run, or of a service's first revision, that is about to be given an environment."""
    if event.type == _SERVICE and event.data.get("revision") != 1:
        return None  # the revision before it has the traffic until this one is deployed
    if event.type not in {_RUN, _SERVICE}:
        return None
    stream = StreamId.parse(event.subject)
    key = f"{stream.kind}/{stream.id}"
    _, version = _environment(event.data)
    body = _body(stream.kind, stream.id, version, active=True)
    return Row(USES, stream.project, key, event.sequence, key, body, f"+{name}")


def _environment(data: Mapping[str, object]) -> tuple[str, str]:
    """Return name and version as far as a fact knows them."""
    references = data.get("references")
    found = data.get("environment") or (references.get("environment") if isinstance(references, dict) else None)
    if not isinstance(found, dict):
        return "", ""
    return str(found.get("name") or ""), str(found.get("version") or "")


def _body(kind: str, name: str, version: str, *, active: bool) -> bytes:
    return orjson.dumps({"kind": kind, "id": name, "environment_version": version, "active": active})


def model_use_rows(stream: StreamId, state: Model, seq: int) -> Sequence[Row]:
    """Return the row of a model: the environment in which its newest version with one was made."""
    made = next((one for one in reversed(state.versions) if one.environment_name), None)
    if made is None:
        return ()
    key = f"model/{stream.id}"
    body = _body("model", stream.id, made.environment_version, active=True)
    facet = GONE if state.deleted else f"+{made.environment_name}"
    return [Row(USES, stream.project, key, seq, key, body, facet)]


async def uses_page(views: Views, project: str, name: str, paging: PageQuery, *, ended: bool) -> bytes:
    """Return a page of the uses of an environment: those that hold it, or the runs that ended."""
    facet = name if ended else f"+{name}"
    rows = await views.page(USES, project, facet=facet, after=paging.after, limit=paging.limit + 1)
    return page_bytes(rows, paging)


async def in_use(views: Views, project: str, name: str) -> Conflict | None:
    """Return why an environment cannot be deleted (`environment_in_use`), None where nothing uses it."""
    rows = await views.page(USES, project, facet=f"+{name}", limit=SHOWN + 1)
    if not rows:
        return None
    found = [orjson.loads(row.body) for row in rows[:SHOWN]]
    named = ", ".join(f"{one['kind']} {one['id']}" for one in found)
    more = " and more" if len(rows) > SHOWN else ""
    return Conflict(
        "environment_in_use",
        f"The environment {name!r} is in use.",
        why=f"It is used by {named}{more}.",
        todo="End or delete these first, archive the environment instead, or delete it with `force`.",
        extra={"uses": found},
    )
