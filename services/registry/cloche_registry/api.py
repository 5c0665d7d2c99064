"""REST of the registry: environments and models."""

from collections.abc import Callable, Sequence
from typing import Annotated

import orjson
from fastapi import APIRouter, Query
from starlette.responses import Response, StreamingResponse

from cloche_registry.definitions import with_requirements
from cloche_registry.domain import environments as environment_domain
from cloche_registry.domain import models as model_domain
from cloche_registry.domain.curated import CURATED
from cloche_registry.domain.environments import Environment
from cloche_registry.handlers import OWNER, Environments, ModelDraft, Models, outcome_version
from cloche_registry.life import add_life
from cloche_registry.rows import ACTIVE, ARCHIVED, ENVIRONMENTS, MODELS, environment_json, model_json, model_parts
from cloche_registry.schemas import (
    EnvironmentView,
    LabelVersion,
    ModelDetail,
    ModelView,
    RegisterEnvironment,
    RegisterModel,
)
from cloche_registry.uses import RUNS_SEEN
from cloche_shared.contracts.common import Name
from cloche_shared.contracts.references import Label, Version
from cloche_shared.definitions.rules import check_name
from cloche_shared.errors import Invalid, Violation
from cloche_shared.http.caller import Caller, may
from cloche_shared.http.conditions import IfMatch, Matching, Once, RequestKey, etag_of
from cloche_shared.http.files import BYTES, download
from cloche_shared.http.lean import Lean, lean
from cloche_shared.http.paging import Page, PageQuery, Paging, page_bytes
from cloche_shared.http.position_wait import views_caught_up
from cloche_shared.http.replies import Reply
from cloche_shared.http.routes import router
from cloche_shared.http.strict_json import Json
from cloche_shared.journal.streams import Decision
from cloche_shared.ports.blobs import BlobStore
from cloche_shared.store.paths import check_path

Read = Annotated[Caller, may("environments.read")]
Write = Annotated[Caller, may("environments.write")]
Delete = Annotated[Caller, may("environments.delete")]
ReadModel = Annotated[Caller, may("models.read")]
WriteModel = Annotated[Caller, may("models.write")]
DeleteModel = Annotated[Caller, may("models.delete")]
WhichVersion = Annotated[Version | None, Query(description="A version; the latest if left out.")]
WhichLabel = Annotated[Label | None, Query(description="A label, instead of a version.")]

_MADE_ENVIRONMENT = {201: {"model": EnvironmentView, "description": "A new version."}}
_MADE_MODEL = {201: {"model": ModelView, "description": "A new version."}}


def versions_page(last: int, paging: PageQuery, show: Callable[[int], bytes]) -> Reply:
    """Return a page of the versions `last` … 1, newest first."""
    top = last
    if paging.after is not None:
        if not paging.after[0].isdecimal():
            raise Invalid("invalid_page_token", "The page token is not one of this list.")
        top = min(last, int(paging.after[0]) - 1)
    bottom = max(0, top - paging.limit)
    items: Sequence[bytes] = [show(number) for number in range(top, bottom, -1)]
    token = paging.token(str(bottom + 1), "") if bottom else None
    return Reply(b'{"items":[' + b",".join(items) + b'],"next_page_token":' + orjson.dumps(token) + b"}")


def _matched(matching: IfMatch, decide: Callable[[Environment], Decision]) -> Callable[[Environment], Decision]:
    def check(state: Environment) -> Decision:
        if state.versions:
            matching.check(state.changes)
        return decide(state)

    return check


class _EnvironmentApi:
    """What the routes of environments share."""

    def __init__(self, handlers: Environments) -> None:
        self.handlers = handlers

    async def change(
        self,
        caller: Caller,
        once: RequestKey,
        name: str,
        decide: Callable[[Environment], Decision],
        *,
        unused: bool = False,
    ) -> Reply:
        """Apply a decision and show the latest version; with `unused` only where nothing uses the environment.

        Curated environments stay as they are.
        """
        check_name(name)
        origin = caller.origin(request_id=once.request_id(caller.project))
        apply = self.handlers.delete if unused else self.handlers.change
        changed = await apply(caller.project, name, origin, decide, once.fingerprint)
        caller.wrote(changed.stream, changed.seq)
        state = changed.state
        return Reply(environment_json(name, state, len(state.versions)), etag=etag_of(state.changes))

    async def curated(self, caller: Caller) -> Reply:
        """Return the list of curated environments, all of them."""
        found = [(name, await self.handlers.find(caller.project, name)) for name in CURATED]
        items = b",".join(environment_json(name, state, len(state.versions)) for name, state in found)
        return Reply(b'{"items":[' + items + b'],"next_page_token":null}')

    async def register(self, caller: Caller, once: RequestKey, body: RegisterEnvironment) -> Reply:
        """Register and show the version."""
        definition = with_requirements(body.definition, body.requirements)
        origin = caller.origin(request_id=once.request_id(caller.project))
        made = await self.handlers.register(caller.project, body.name, definition, origin, fingerprint=once.fingerprint)
        caller.wrote(self.handlers.streams.id(caller.project, body.name), made.seq)
        content = environment_json(body.name, made.state, made.number)
        return Reply(content, 201 if made.new else 200, etag=etag_of(made.state.changes))


def environment_routes(handlers: Environments, installation: str) -> APIRouter:
    """Return the routes of environments."""
    routes = router("environments", "/environments")
    api = _EnvironmentApi(handlers)
    list_waits = views_caught_up(installation, handlers.views, {"environment": ENVIRONMENTS})

    @lean(
        routes,
        "",
        Lean("environments.write", RegisterEnvironment),
        response_model=EnvironmentView,
        operation_id="register_environment",
        responses=_MADE_ENVIRONMENT,
    )
    async def register(caller: Write, once: Once, body: Json[RegisterEnvironment]) -> Response:
        """Register a definition. One that equals the latest version as a whole is that version (200)."""
        return await api.register(caller, once, body)

    @routes.get("", response_model=Page[EnvironmentView], operation_id="list_environments", dependencies=[list_waits])
    async def list_all(
        caller: Read,
        paging: Paging,
        *,
        archived: Annotated[bool, Query(description="Those that were archived, instead of the others.")] = False,
        curated: Annotated[bool, Query(description="The curated ones, also those that nobody used yet.")] = False,
    ) -> Response:
        """List environments by name, each with its latest version."""
        if curated:
            return await api.curated(caller)
        rows = await handlers.views.page(
            ENVIRONMENTS,
            caller.project,
            facet=ARCHIVED if archived else ACTIVE,
            after=paging.after,
            limit=paging.limit + 1,
        )
        return Reply(page_bytes(rows, paging))

    _environment_versions(routes, handlers)
    _environment_changes(routes, api)
    _environment_delete(routes, api, installation)
    add_life(routes, handlers, installation)
    return routes


def _environment_versions(routes: APIRouter, handlers: Environments) -> None:
    @routes.get("/{name}", response_model=EnvironmentView, operation_id="get_environment")
    async def show(caller: Read, name: Name, version: WhichVersion = None, label: WhichLabel = None) -> Response:
        """Show the latest version, or the one that a version or label names."""
        if version is not None and label is not None:
            raise Invalid(
                "invalid_field",
                "A version and a label were given.",
                todo="Give one of them.",
                violations=[Violation("#query/label", "invalid_field", "Not beside a version.")],
            )
        state = await handlers.find(caller.project, name)
        number = environment_domain.find_version(name, state, version, label)
        return Reply(environment_json(name, state, number), etag=etag_of(state.changes))

    @routes.get("/{name}/versions", response_model=Page[EnvironmentView], operation_id="list_environment_versions")
    async def versions(caller: Read, name: Name, paging: Paging) -> Response:
        """List the versions, newest first."""
        state = await handlers.find(caller.project, name)
        return versions_page(len(state.versions), paging, lambda number: environment_json(name, state, number))


def _environment_changes(routes: APIRouter, api: _EnvironmentApi) -> None:
    @routes.put("/{name}/labels/{label}", response_model=EnvironmentView, operation_id="label_environment")
    async def put_label(
        caller: Write, once: Once, matching: Matching, name: Name, label: Label, body: Json[LabelVersion]
    ) -> Response:
        """Let a label name a version."""
        decide = _matched(matching, lambda state: environment_domain.decide_label(state, name, label, body.version))
        return await api.change(caller, once, name, decide)

    @routes.delete("/{name}/labels/{label}", response_model=EnvironmentView, operation_id="unlabel_environment")
    async def delete_label(caller: Write, once: Once, matching: Matching, name: Name, label: Label) -> Response:
        """Take a label away."""
        decide = _matched(matching, lambda state: environment_domain.decide_unlabel(state, name, label))
        return await api.change(caller, once, name, decide)

    @routes.post("/{name}/archive", response_model=EnvironmentView, operation_id="archive_environment")
    async def archive(caller: Write, once: Once, matching: Matching, name: Name) -> Response:
        """Hide it from lists; references keep working."""
        decide = _matched(matching, lambda state: environment_domain.decide_archive(state, name, archived=True))
        return await api.change(caller, once, name, decide)

    @routes.post("/{name}/restore", response_model=EnvironmentView, operation_id="restore_environment")
    async def restore(caller: Write, once: Once, matching: Matching, name: Name) -> Response:
        """Show it in lists again."""
        decide = _matched(matching, lambda state: environment_domain.decide_archive(state, name, archived=False))
        return await api.change(caller, once, name, decide)


def _environment_delete(routes: APIRouter, api: _EnvironmentApi, installation: str) -> None:
    waits = views_caught_up(installation, api.handlers.views, {"run": RUNS_SEEN})

    @routes.delete("/{name}", response_model=EnvironmentView, operation_id="delete_environment", dependencies=[waits])
    async def delete(
        caller: Delete,
        once: Once,
        matching: Matching,
        name: Name,
        *,
        force: Annotated[bool, Query(description="Also where runs, services or models use it.")] = False,
    ) -> Response:
        """Put a tombstone where nothing uses it: new references are refused, and the name stays taken.

        What uses a version keeps it, also with `force`.
        """
        decide = _matched(matching, lambda state: environment_domain.decide_delete(state, name))
        return await api.change(caller, once, name, decide, unused=not force)


class _ModelApi:
    """What the routes of models share."""

    def __init__(self, handlers: Models, store: BlobStore) -> None:
        self.handlers = handlers
        self.store = store

    async def register(self, caller: Caller, once: RequestKey, body: RegisterModel) -> Reply:
        """Register and show the version."""
        draft = ModelDraft(body.name, body.description, body.tags)
        origin = caller.origin(request_id=once.request_id(caller.project))
        if body.from_run is not None and body.manifest is None:
            source = body.from_run
            changed = await self.handlers.register_from_run(
                caller.project, draft, source.run_id, source.path, origin, once.fingerprint
            )
        elif body.manifest is not None and body.from_run is None:
            changed = await self.handlers.register_files(caller.project, draft, body.manifest, origin, once.fingerprint)
        else:
            raise Invalid(
                "model_source",
                "A model has one source.",
                todo="Give exactly one of `manifest` and `from_run`.",
                violations=[Violation("/manifest", "model_source", "Exactly one of `manifest` and `from_run`.")],
            )
        caller.wrote(changed.stream, changed.seq)
        number = outcome_version(changed)
        return Reply(model_json(body.name, changed.state, number), 201, etag=etag_of(changed.state.changes))

    async def detail(self, caller: Caller, name: str, version: str | None) -> Reply:
        """Show a version and its files."""
        state = await self.handlers.find(caller.project, name)
        number = model_domain.find_version(name, state, version)
        tree = await self.handlers.manifest(caller.project, state.versions[number - 1].manifest)
        files = [entry.model_dump(mode="json") for entry in tree.files]
        whole = orjson.dumps({**model_parts(name, state, number), "files": files})
        return Reply(whole, etag=etag_of(state.changes))

    async def file(self, caller: Caller, name: str, path: str, version: str | None) -> Response:
        """Return one file."""
        check_path(path)
        state = await self.handlers.find(caller.project, name)
        number = model_domain.find_version(name, state, version)
        tree = await self.handlers.manifest(caller.project, state.versions[number - 1].manifest)
        found = next((entry for entry in tree.files if entry.path == path), None)
        if found is None:
            paths = [entry.path for entry in tree.files]
            raise model_domain.path_not_found(path, paths, f"Version {number} of the model {name!r}")
        space = self.store.space(OWNER, caller.project)
        return await download(space, found.digest, filename=path.rpartition("/")[2])

    async def delete(self, caller: Caller, once: RequestKey, matching: IfMatch, name: str) -> Reply:
        """Delete and show the latest version."""

        def decide(state: model_domain.Model) -> Decision:
            if state.versions:
                matching.check(state.changes)
            return model_domain.decide_delete(state, name)

        origin = caller.origin(request_id=once.request_id(caller.project))
        changed = await self.handlers.change(caller.project, name, origin, decide, once.fingerprint)
        caller.wrote(changed.stream, changed.seq)
        state = changed.state
        return Reply(model_json(name, state, len(state.versions)), etag=etag_of(state.changes))


def model_routes(handlers: Models, store: BlobStore, installation: str, runs_view: str) -> APIRouter:
    """Return the routes of models; `runs_view` says up to where each run was seen."""
    routes = router("models", "/models")
    api = _ModelApi(handlers, store)
    list_waits = views_caught_up(installation, handlers.views, {"model": MODELS})
    run_waits = views_caught_up(installation, handlers.views, {"run": runs_view})

    @routes.post(
        "",
        response_model=ModelView,
        status_code=201,
        operation_id="register_model",
        responses=_MADE_MODEL,  # type: ignore[arg-type]
        dependencies=[run_waits],
    )
    async def register(caller: WriteModel, once: Once, body: Json[RegisterModel]) -> Response:
        """Register files as the next version: files that were sent, or outputs of a run."""
        return await api.register(caller, once, body)

    @routes.get("", response_model=Page[ModelView], operation_id="list_models", dependencies=[list_waits])
    async def list_all(caller: ReadModel, paging: Paging) -> Response:
        """List models by name, each with its latest version."""
        rows = await handlers.views.page(
            MODELS, caller.project, facet=ACTIVE, after=paging.after, limit=paging.limit + 1
        )
        return Reply(page_bytes(rows, paging))

    @routes.get("/{name}", response_model=ModelDetail, operation_id="get_model")
    async def show(caller: ReadModel, name: Name, version: WhichVersion = None) -> Response:
        """Show a version and its files."""
        return await api.detail(caller, name, version)

    @routes.get("/{name}/versions", response_model=Page[ModelView], operation_id="list_model_versions")
    async def versions(caller: ReadModel, name: Name, paging: Paging) -> Response:
        """List the versions, newest first."""
        state = await handlers.find(caller.project, name)
        return versions_page(len(state.versions), paging, lambda number: model_json(name, state, number))

    @routes.get(
        "/{name}/files/{path:path}",
        response_class=StreamingResponse,
        operation_id="get_model_file",
        responses={
            200: {"content": {BYTES: {"schema": {"type": "string", "format": "binary"}}}, "description": "The bytes."}
        },
    )
    async def file(caller: ReadModel, name: Name, path: str, version: WhichVersion = None) -> Response:
        """Download one file."""
        return await api.file(caller, name, path, version)

    @routes.delete("/{name}", response_model=ModelView, operation_id="delete_model")
    async def delete(caller: DeleteModel, once: Once, matching: Matching, name: Name) -> Response:
        """Put a tombstone: new references are refused, what uses a version keeps it, the name stays taken."""
        return await api.delete(caller, once, matching, name)

    return routes
