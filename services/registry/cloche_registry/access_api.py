"""REST of projects and API keys (`/projects`, `/tokens`)."""

from collections.abc import Mapping, Sequence
from typing import Annotated

import orjson
from fastapi import APIRouter, Path, Query
from starlette.responses import Response

from cloche_registry.access_rows import (
    KEYS,
    KEYS_USED,
    PROJECTS,
    REVOKED,
    VALID,
    Shown,
    key_parts,
    key_shown,
    project_parts,
)
from cloche_registry.domain.keys import PROJECT
from cloche_registry.keys import KeyDraft, Keys
from cloche_registry.schemas import CreateProject, CreateToken, NewTokenView, ProjectName, ProjectView, TokenView
from cloche_shared.access import EVERY_PROJECT
from cloche_shared.errors import Forbidden
from cloche_shared.http.caller import Caller, may, project_not_found
from cloche_shared.http.conditions import Once, RequestKey
from cloche_shared.http.paging import Page, PageQuery, Paging, page_bytes
from cloche_shared.http.positions import caught_up
from cloche_shared.http.replies import Reply
from cloche_shared.http.routes import router
from cloche_shared.http.strict_json import Json
from cloche_shared.journal.commit import StreamId
from cloche_shared.ports.views import Row, Views

ReadProjects = Annotated[Caller, may("projects.read", anywhere=True)]
WriteProjects = Annotated[Caller, may("projects.write", anywhere=True)]
ReadKeys = Annotated[Caller, may("access.read")]
WriteKeys = Annotated[Caller, may("access.write")]
KeyId = Annotated[str, Path(pattern=r"^[A-Za-z0-9]{1,64}$", description="A token's id: its middle part.")]


class _Seen:
    """Waits until a list holds a place of the `access` streams."""

    def __init__(self, views: Views) -> None:
        self._views = views

    async def __call__(self, stream: StreamId, seq: int) -> None:
        if stream.id == PROJECT:
            await self._views.changed(PROJECTS, EVERY_PROJECT, stream.project, seq)
        else:
            await self._views.changed(KEYS, stream.project, stream.id, seq)


def project_routes(keys: Keys, views: Views, installation: str) -> APIRouter:
    """Return the routes of projects."""
    routes = router("access", "/projects")
    list_waits = caught_up(installation, {"access"}, _Seen(views))

    @routes.post("", response_model=ProjectView, status_code=201, operation_id="create_project")
    async def create(caller: WriteProjects, once: Once, body: Json[CreateProject]) -> Response:
        """Create a project. Only a token that opens every project may."""
        if not caller.principal.opens(EVERY_PROJECT):
            raise Forbidden(
                "token_opens_more",
                "Only a token that opens every project creates projects.",
                todo="Ask an administrator of the installation.",
            )
        origin = caller.origin(request_id=once.request_id(caller.project))
        changed = await keys.create_project(body.name, body.description, origin, once.fingerprint)
        caller.wrote(changed.stream, changed.seq)
        return _reply(project_parts(body.name, changed.state), 201, location=f"/api/v1/projects/{body.name}")

    @routes.get("", response_model=Page[ProjectView], operation_id="list_projects", dependencies=[list_waits])
    async def list_all(caller: ReadProjects, paging: Paging) -> Response:
        """List the projects that the token opens, by name."""
        if caller.principal.opens(EVERY_PROJECT):
            rows: Sequence[Row] = await views.page(PROJECTS, EVERY_PROJECT, after=paging.after, limit=paging.limit + 1)
        else:
            rows = await _rows_of(views, caller.principal.projects, paging)
        return Reply(page_bytes(rows, paging))

    @routes.get("/{name}", response_model=ProjectView, operation_id="get_project")
    async def show(caller: ReadProjects, name: ProjectName) -> Response:
        """Show a project. One of others looks like one that does not exist."""
        if not caller.principal.opens(name):
            raise project_not_found()
        return _reply(project_parts(name, await keys.project(name)))

    return routes


async def _rows_of(views: Views, names: Sequence[str], paging: PageQuery) -> list[Row]:
    last = paging.after[1] if paging.after is not None else ""
    wanted = sorted(name for name in names if name > last)[: paging.limit + 1]
    found = await views.some(PROJECTS, EVERY_PROJECT, wanted)
    return [found[name] for name in wanted if name in found]


class _Tokens:
    """What the routes of tokens share."""

    def __init__(self, keys: Keys, views: Views) -> None:
        self.keys = keys
        self.views = views

    async def create(self, caller: Caller, once: RequestKey, body: CreateToken) -> Reply:
        """Issue, and show the token."""
        others = sorted({*(body.projects or ()), caller.project})
        projects = (EVERY_PROJECT,) if EVERY_PROJECT in others else tuple(others)
        draft = KeyDraft(body.role, projects, body.expires, body.description)
        origin = caller.origin(request_id=once.request_id(caller.project))
        issued = await self.keys.issue(caller.project, caller.principal, draft, origin, once.fingerprint)
        caller.wrote(issued.changed.stream, issued.changed.seq)
        key_id = issued.key.key_id
        shown = key_shown(
            key_parts(caller.project, issued.changed.state, key_id), caller.principal, self.keys.now(), None
        )
        return _reply({**shown, "token": issued.token}, 201, location=f"/api/v1/tokens/{key_id}")

    async def page(self, caller: Caller, paging: PageQuery, facet: str) -> Reply:
        """Show a page, newest first."""
        rows = await self.views.page(
            KEYS, caller.project, facet=facet, after=paging.after, limit=paging.limit + 1, descending=True
        )
        shown = rows[: paging.limit]
        used = await self.views.some(KEYS_USED, EVERY_PROJECT, [row.key for row in shown])
        items = [self._shown(caller, orjson.loads(row.body), used.get(row.key)) for row in shown]
        token = paging.token(shown[-1].sort, shown[-1].key) if len(rows) > paging.limit else None
        return _reply({"items": items, "next_page_token": token})

    async def shown(self, caller: Caller, parts: Mapping[str, object]) -> Shown:
        """Return a key as the caller sees it."""
        return self._shown(caller, parts, await self.views.get(KEYS_USED, EVERY_PROJECT, str(parts["id"])))

    def _shown(self, caller: Caller, parts: Mapping[str, object], used: Row | None) -> Shown:
        last_used = orjson.loads(used.body)["at"] if used is not None else None
        return key_shown(parts, caller.principal, self.keys.now(), last_used)

    async def show(self, caller: Caller, key_id: str) -> Reply:
        """Show one."""
        _, state = await self.keys.find(caller.project, key_id)
        return _reply(await self.shown(caller, key_parts(caller.project, state, key_id)))

    async def revoke(self, caller: Caller, once: RequestKey, key_id: str) -> Reply:
        """Revoke, and show what became of it."""
        origin = caller.origin(request_id=once.request_id(caller.project))
        changed = await self.keys.revoke(caller.project, caller.principal, key_id, origin, once.fingerprint)
        caller.wrote(changed.stream, changed.seq)
        return _reply(await self.shown(caller, key_parts(caller.project, changed.state, key_id)))


def token_routes(keys: Keys, views: Views, installation: str) -> APIRouter:
    """Return the routes of tokens."""
    routes = router("access", "/tokens")
    tokens = _Tokens(keys, views)
    list_waits = caught_up(installation, {"access"}, _Seen(views))

    @routes.post("", response_model=NewTokenView, status_code=201, operation_id="create_token")
    async def create(caller: WriteKeys, once: Once, body: Json[CreateToken]) -> Response:
        """Create a token for this project, and for others that `projects` names. It is shown once."""
        return await tokens.create(caller, once, body)

    @routes.get("", response_model=Page[TokenView], operation_id="list_tokens", dependencies=[list_waits])
    async def list_all(
        caller: ReadKeys,
        paging: Paging,
        *,
        revoked: Annotated[bool, Query(description="Those that were revoked, instead of the others.")] = False,
    ) -> Response:
        """List the tokens that were issued in this project, or name it, newest first; never the tokens themselves."""
        return await tokens.page(caller, paging, REVOKED if revoked else VALID)

    @routes.get("/{token_id}", response_model=TokenView, operation_id="get_token")
    async def show(caller: ReadKeys, token_id: KeyId) -> Response:
        """Show a token that was issued in this project."""
        return await tokens.show(caller, token_id)

    @routes.delete("/{token_id}", response_model=TokenView, operation_id="revoke_token")
    async def revoke(caller: WriteKeys, once: Once, token_id: KeyId) -> Response:
        """Revoke a token: within a second it opens nothing any more, in any service."""
        return await tokens.revoke(caller, once, token_id)

    return routes


def _reply(parts: Mapping[str, object], status: int = 200, *, location: str | None = None) -> Reply:
    return Reply(orjson.dumps(parts), status, location=location)
