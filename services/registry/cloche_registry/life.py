"""REST of what happens to environments besides registering: check, difference, clone, history, who uses them."""

from collections.abc import Mapping, Sequence
from typing import Annotated

import orjson
from fastapi import APIRouter, Query
from starlette.responses import Response

from cloche_registry.definitions import candidate, with_requirements
from cloche_registry.domain import environments as domain
from cloche_registry.domain.environments import Environment
from cloche_registry.handlers import Environments
from cloche_registry.rows import environment_json
from cloche_registry.schemas import (
    CheckEnvironment,
    CheckView,
    CloneEnvironment,
    DifferenceView,
    EnvironmentView,
    HistoryEntry,
    UseView,
)
from cloche_registry.uses import RUNS_SEEN, uses_page
from cloche_shared.contracts.common import Name
from cloche_shared.contracts.definition import Definition
from cloche_shared.contracts.references import Version
from cloche_shared.definitions.difference import differences
from cloche_shared.definitions.rules import Finding, check_name, findings
from cloche_shared.errors import Invalid
from cloche_shared.http.caller import Caller, may
from cloche_shared.http.conditions import Once, etag_of
from cloche_shared.http.paging import Page, PageQuery, Paging
from cloche_shared.http.position_wait import views_caught_up
from cloche_shared.http.replies import Reply
from cloche_shared.http.strict_json import Json
from cloche_shared.journal.commit import Written, written
from cloche_shared.store.wheel_refs import referring

Read = Annotated[Caller, may("environments.read")]
Write = Annotated[Caller, may("environments.write")]
_MADE = {201: {"model": EnvironmentView, "description": "A new version."}}


def add_life(routes: APIRouter, handlers: Environments, installation: str) -> None:
    """Add the routes."""
    _add_check(routes, handlers)
    _add_clone(routes, handlers)
    _add_difference(routes, handlers)
    _add_history(routes, handlers)
    _add_uses(routes, handlers, installation)


# --- check


def _add_check(routes: APIRouter, handlers: Environments) -> None:
    @routes.post("/check", response_model=CheckView, operation_id="check_environment")
    async def check(caller: Read, body: Json[CheckEnvironment]) -> Response:
        """Say what is wrong with a definition and what may surprise, before anything is registered or runs."""
        absent = await _absent_wheels(handlers, caller.project, body.definition)
        return Reply(orjson.dumps(_checked(handlers, body, absent)))


async def _absent_wheels(handlers: Environments, project: str, definition: Definition | None) -> list[Finding]:
    """Return a fault for each private wheel that the project does not have."""
    refs = referring(definition).python.wheels if definition is not None else ()
    absent = [number for number, ref in enumerate(refs) if not await handlers.wheels.knows(project, ref)]
    detail = "It was not uploaded to this project."
    return [Finding("error", f"/definition/python/wheels/{one}", "wheel_not_found", detail) for one in absent]


def _checked(handlers: Environments, body: CheckEnvironment, absent: Sequence[Finding]) -> dict[str, object]:
    recipe = handlers.recipe
    problems: list[Finding] = [*absent]
    try:
        check_name(body.name or "")
    except Invalid as error:
        problems += _told(error)
    try:
        definition = with_requirements(body.definition, body.requirements)
    except Invalid as error:
        problems += _told(error)
        return _answer(problems, None)
    found = findings(definition, recipe.where)
    if body.requirements is None:
        found = [Finding(one.severity, f"/definition{one.pointer}", one.code, one.detail) for one in found]
    problems += found
    wrong = any(one.severity == "error" for one in problems)
    digest = None if wrong else candidate(definition, recipe, created_at="", created_by="").definition_hash
    return _answer(problems, digest)


def _told(error: Invalid) -> list[Finding]:
    if not error.violations:
        return [Finding("error", "", error.code, error.what)]
    return [Finding("error", one.pointer, one.code, one.detail) for one in error.violations]


def _answer(problems: Sequence[Finding], digest: str | None) -> dict[str, object]:
    shown = [
        {"severity": one.severity, "pointer": one.pointer, "code": one.code, "detail": one.detail} for one in problems
    ]
    return {
        "valid": not any(one.severity == "error" for one in problems),
        "definition_hash": digest,
        "problems": shown,
    }


# --- clone


def _add_clone(routes: APIRouter, handlers: Environments) -> None:
    @routes.post(
        "/{name}/clone",
        response_model=EnvironmentView,
        operation_id="clone_environment",
        responses=_MADE,  # type: ignore[arg-type] # FastAPI's type is wider
    )
    async def clone(caller: Write, once: Once, name: Name, body: Json[CloneEnvironment]) -> Response:
        """Register the definition of a version under another name; as it was written, so it may be locked anew."""
        state = await handlers.find(caller.project, name)
        number = domain.find_version(name, state, body.version, body.label)
        origin = caller.origin(request_id=once.request_id(caller.project))
        definition = state.versions[number - 1].definition
        made = await handlers.register(caller.project, body.name, definition, origin, fingerprint=once.fingerprint)
        caller.wrote(handlers.streams.id(caller.project, body.name), made.seq)
        content = environment_json(body.name, made.state, made.number)
        return Reply(content, 201 if made.new else 200, etag=etag_of(made.state.changes))


# --- difference


def _add_difference(routes: APIRouter, handlers: Environments) -> None:
    @routes.get("/{name}/diff", response_model=DifferenceView, operation_id="diff_environment")
    async def diff(
        caller: Read,
        name: Name,
        *,
        version: Annotated[Version | None, Query(description="A version; the latest if left out.")] = None,
        base: Annotated[Version | None, Query(description="What it is compared with; the one before.")] = None,
        base_name: Annotated[Name | None, Query(description="Another environment to compare it with.")] = None,
    ) -> Response:
        """Show what differs between two versions, of one environment or of two."""
        state = await handlers.find(caller.project, name)
        number = domain.find_version(name, state, version, None)
        other_name = base_name or name
        other = state if base_name is None else await handlers.find(caller.project, base_name)
        fallback = str(max(1, number - 1)) if base_name is None else None
        before = domain.find_version(other_name, other, base or fallback, None)
        return Reply(orjson.dumps(_difference((other_name, other, before), (name, state, number))))


Place = tuple[str, Environment, int]


def _difference(before: Place, after: Place) -> dict[str, object]:
    sides = [(name, str(number), state.versions[number - 1]) for name, state, number in (before, after)]
    shown = [
        {"name": name, "version": number, "definition_hash": one.definition_hash, "python": one.python}
        for name, number, one in sides
    ]
    one, other = (side[2].effective for side in sides)
    changes = [
        {"pointer": change.pointer, "before": change.before, "after": change.after}
        for change in differences(one, other)
    ]
    same = sides[0][2].definition_hash == sides[1][2].definition_hash
    return {"base": shown[0], "other": shown[1], "same_hash": same, "changes": changes}


# --- history


def _add_history(routes: APIRouter, handlers: Environments) -> None:
    @routes.get("/{name}/history", response_model=Page[HistoryEntry], operation_id="environment_history")
    async def history(caller: Read, name: Name, paging: Paging) -> Response:
        """Show every change of an environment, oldest first: what happened, when and by whom."""
        state = await handlers.find(caller.project, name, deleted=True)
        after = _after(paging, state.changes)
        found = await handlers.history(caller.project, name, after, paging.limit)
        items = [_entry(one) for one in map(written, found)]
        last = after + len(items)
        token = paging.token(str(last), "") if items and last < state.changes else None
        return Reply(orjson.dumps({"items": items, "next_page_token": token}))


def _after(paging: PageQuery, last: int) -> int:
    if paging.after is None:
        return 0
    if not paging.after[0].isdecimal() or int(paging.after[0]) > last:
        raise Invalid("invalid_page_token", "The page token is not one of this list.")
    return int(paging.after[0])


def _entry(commit: Written) -> dict[str, object]:
    facts = [_fact(kind, data) for kind, data in commit.facts]
    return {"seq": commit.seq, "at": commit.at, "actor": commit.actor.subject, "facts": facts}


def _fact(kind: str, data: Mapping[str, object]) -> dict[str, object]:
    version, label, digest = (data.get(name) for name in ("environment_version", "label", "definition_hash"))
    return {
        "type": kind,
        "version": None if version is None else str(version),
        "label": label,
        "definition_hash": digest,
    }


# --- uses


def _add_uses(routes: APIRouter, handlers: Environments, installation: str) -> None:
    waits = views_caught_up(installation, handlers.views, {"run": RUNS_SEEN})

    @routes.get("/{name}/uses", response_model=Page[UseView], operation_id="environment_uses", dependencies=[waits])
    async def uses(
        caller: Read,
        name: Name,
        paging: Paging,
        *,
        ended: Annotated[bool, Query(description="The runs that ended, instead of what uses it now.")] = False,
    ) -> Response:
        """List the runs, models and services that use an environment; these keep it from being deleted."""
        await handlers.find(caller.project, name, deleted=True)
        return Reply(await uses_page(handlers.views, caller.project, name, paging, ended=ended))
