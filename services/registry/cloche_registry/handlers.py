"""What the registry does for commands and events: load, decide, record, answer."""

import difflib
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from cloche_registry.definitions import Recipe, candidate
from cloche_registry.domain import curated, environments, models
from cloche_registry.domain.environments import Environment, EnvironmentVersion
from cloche_registry.domain.models import Model, ModelVersion
from cloche_registry.ports import RunCopies
from cloche_registry.uses import in_use, use_of_reference
from cloche_registry.wheels import Wheels
from cloche_shared.contracts.definition import Definition
from cloche_shared.contracts.envelope import Event
from cloche_shared.contracts.fact import Fact, read_fact
from cloche_shared.contracts.facts import (
    BuildSubmitted,
    ReferencesRefused,
    ReferencesResolved,
    RunSubmitted,
    ServiceSubmitted,
)
from cloche_shared.contracts.files import Manifest
from cloche_shared.contracts.references import (
    EnvironmentRef,
    InlineEnvironment,
    ModelRef,
    Problem,
    References,
    ResolvedModel,
)
from cloche_shared.definitions.rules import check_name
from cloche_shared.errors import ClocheError, Conflict, Invalid, NotFound
from cloche_shared.journal.commit import Origin
from cloche_shared.journal.streams import Changed, Decision, Kind, Streams
from cloche_shared.journal.writer import Writer
from cloche_shared.ports.blobs import BlobStore
from cloche_shared.ports.journal import Document
from cloche_shared.ports.views import Views
from cloche_shared.store.hashing import manifest_bytes
from cloche_shared.store.paths import check_manifest, check_path, check_sizes

ENVIRONMENT: Final = Kind("environment", Environment, environments.evolve)
MODEL: Final = Kind("model", Model, models.evolve)

OWNER: Final = "registry"
NEAR_AMONG: Final = 1000
"""How many names a name that is not found is compared with."""


def is_temporary(error: ClocheError) -> bool:
    """Whether the same request may succeed later, so that it must not be answered now."""
    return not isinstance(error, Invalid | NotFound | Conflict)


async def near_names(views: Views, view: str, project: str, name: str) -> tuple[str, ...]:
    """Return up to three active names that look like `name`."""
    rows = await views.page(view, project, facet="active", limit=NEAR_AMONG)
    return tuple(difflib.get_close_matches(name, [row.key for row in rows], n=3, cutoff=0.6))


@dataclass(frozen=True, slots=True)
class Registered:
    """A version that a request registered, or found; `new` tells which."""

    state: Environment
    number: int
    new: bool
    seq: int


class Environments:
    """Commands on environments."""

    def __init__(
        self,
        streams: Streams[Environment],
        writer: Writer,
        views: Views,
        recipe: Recipe,
        wheels: Wheels,
    ) -> None:
        self.streams = streams
        self.wheels = wheels
        self.views = views
        self.recipe = recipe
        self._writer = writer

    def candidate(self, definition: Definition, created_by: str) -> EnvironmentVersion:
        """Return the version that a definition would be. Raises `Invalid`."""
        return candidate(definition, self.recipe, created_at=self._writer.now(), created_by=created_by)

    async def register(
        self, project: str, name: str, definition: Definition, origin: Origin, *, fingerprint: str = ""
    ) -> Registered:
        """Register a definition; one that equals the latest version is that version.

        Raises `Invalid` (`reserved_name`, and as `candidate` does), `NotFound` (`wheel_not_found`).
        """
        check_name(name)
        version = self.candidate(definition, origin.actor.subject)
        await self.wheels.check(project, version.definition)
        changed = await self.streams.change(
            self.streams.id(project, name),
            origin,
            lambda state: environments.decide_register(state, name, version),
            fingerprint=fingerprint,
            new=True,
        )
        said = changed.outcome.json if changed.outcome is not None else None
        if said is None:
            return Registered(changed.state, len(changed.state.versions), bool(changed.facts), changed.seq)
        return Registered(changed.state, int(str(said["version"])), bool(said["registered"]), changed.seq)

    async def change(
        self, project: str, name: str, origin: Origin, decide: Callable[[Environment], Decision], fingerprint: str = ""
    ) -> Changed[Environment]:
        """Apply one of the other decisions."""
        try:
            return await self.streams.change(self.streams.id(project, name), origin, decide, fingerprint=fingerprint)
        except NotFound as error:
            raise await self._with_near(error, project, name) from None

    async def delete(
        self, project: str, name: str, origin: Origin, decide: Callable[[Environment], Decision], fingerprint: str = ""
    ) -> Changed[Environment]:
        """Delete an environment that nothing uses. Raises `Conflict` (`environment_in_use`).

        Every reference that was given out is among the uses: they are written before it is given. One that is given
        while this goes on keeps its version, as with any deletion.
        """
        used = await in_use(self.views, project, name)

        def decide_unused(state: Environment) -> Decision:
            decision = decide(state)
            if decision.facts and used is not None:
                raise used
            return decision

        return await self.change(project, name, origin, decide_unused, fingerprint)

    async def history(self, project: str, name: str, after: int, limit: int) -> list[Document]:
        """Return the documents behind number `after`, oldest first."""
        stream = self.streams.id(project, name)
        return await self._writer.journal.read(f"{stream}/", after=stream.key(after), limit=limit)

    async def find(self, project: str, name: str, *, deleted: bool = False) -> Environment:
        """Return an environment, with `deleted` also one that was deleted.

        Raises `NotFound` (`environment_not_found`, `environment_deleted`).
        """
        present = await self.streams.get(self.streams.id(project, name))
        if deleted and present.state.deleted:
            return present.state
        try:
            return environments.existing(name, curated.as_found(present.state, name, self.candidate))
        except NotFound as error:
            raise await self._with_near(error, project, name) from None

    async def _with_near(self, error: NotFound, project: str, name: str) -> NotFound:
        if error.code != "environment_not_found":
            return error
        return environments.not_found(name, await near_names(self.views, "environments", project, name))


@dataclass(frozen=True, slots=True)
class ModelDraft:
    """What a caller says of a new model version besides its files."""

    name: str
    description: str
    tags: dict[str, str]


class Models:
    """Commands on models."""

    def __init__(
        self, streams: Streams[Model], writer: Writer, views: Views, store: BlobStore, runs: RunCopies, max_bytes: int
    ) -> None:
        self.streams = streams
        self.views = views
        self._writer = writer
        self._store = store
        self._runs = runs
        self._max_bytes = max_bytes

    async def register_files(
        self, project: str, draft: ModelDraft, manifest: str, origin: Origin, fingerprint: str = ""
    ) -> Changed[Model]:
        """Register files that were sent to `/files/models`. Raises `Invalid` (`files_missing`)."""
        tree = await self.manifest(project, manifest)
        models.refuse_empty(tree)
        check_manifest(tree, max_bytes=self._max_bytes)
        space = self._store.space(OWNER, project)
        missing = check_sizes(tree, await space.sizes({entry.digest for entry in tree.files}))
        if missing:
            raise models.files_missing(missing)
        return await self._record(project, draft, self._version(draft, manifest, tree, origin), origin, fingerprint)

    async def register_from_run(
        self, project: str, draft: ModelDraft, run_id: str, path: str, origin: Origin, fingerprint: str = ""
    ) -> Changed[Model]:
        """Register a file or folder of a finished run's outputs; its bytes are copied here first."""
        path = check_path(path.rstrip("/") or path, pointer="/from_run/path")
        run = await self._runs.finished(project, run_id)
        outputs = await self._outputs(project, run.outputs)
        tree = models.select(outputs, path, f"The run {run_id}")
        check_manifest(tree, max_bytes=self._max_bytes)
        manifest = await self._copy(project, tree)
        version = self._version(draft, manifest, tree, origin).model_copy(
            update={
                "run_id": run_id,
                "environment_name": run.environment_name,
                "environment_version": run.environment_version,
            }
        )
        return await self._record(project, draft, version, origin, fingerprint)

    async def manifest(self, project: str, digest: str) -> Manifest:
        """Return a tree that is kept here. Raises `Invalid` (`files_missing`, `invalid_manifest`)."""
        try:
            raw = await self._store.space(OWNER, project).read_bytes(digest)
        except NotFound:
            raise models.files_missing([digest]) from None
        return read_manifest(raw)

    async def find(self, project: str, name: str) -> Model:
        """Return a model. Raises `NotFound` (`model_not_found`, `model_deleted`)."""
        present = await self.streams.get(self.streams.id(project, name))
        try:
            return models.existing(name, present.state)
        except NotFound as error:
            raise await self._with_near(error, project, name) from None

    async def change(
        self, project: str, name: str, origin: Origin, decide: Callable[[Model], Decision], fingerprint: str = ""
    ) -> Changed[Model]:
        """Apply one of the other decisions."""
        try:
            return await self.streams.change(self.streams.id(project, name), origin, decide, fingerprint=fingerprint)
        except NotFound as error:
            raise await self._with_near(error, project, name) from None

    async def resolve(self, project: str, ref: ModelRef) -> ResolvedModel:
        """Return what a reference means."""
        return models.resolve(await self.find(project, ref.name), ref)

    async def _with_near(self, error: NotFound, project: str, name: str) -> NotFound:
        if error.code != "model_not_found":
            return error
        return models.not_found(name, await near_names(self.views, "models", project, name))

    def _version(self, draft: ModelDraft, manifest: str, tree: Manifest, origin: Origin) -> ModelVersion:
        return ModelVersion(
            manifest=manifest,
            size=sum(entry.size for entry in tree.files),
            tags=draft.tags,
            description=draft.description,
            created_at=self._writer.now(),
            created_by=origin.actor.subject,
        )

    async def _record(
        self, project: str, draft: ModelDraft, version: ModelVersion, origin: Origin, fingerprint: str
    ) -> Changed[Model]:
        return await self.streams.change(
            self.streams.id(project, draft.name),
            origin,
            lambda state: models.decide_register(state, draft.name, version),
            fingerprint=fingerprint,
        )

    async def _outputs(self, project: str, digest: str) -> Manifest:
        if not digest:
            return Manifest()
        raw = await self._store.space("runner", project).read_bytes(digest)
        return read_manifest(raw)

    async def _copy(self, project: str, tree: Manifest) -> str:
        """Copy the tree's files from the runner's blobs, then its manifest, whose digest is returned."""
        source, target = self._store.space("runner", project), self._store.space(OWNER, project)
        digests = sorted({entry.digest for entry in tree.files})
        for digest in await target.missing(digests):
            file = await source.file(digest)
            if file is not None:
                await target.put_file(file, digest=digest)
            else:
                await target.put(source.read(digest), digest=digest)
        return (await target.put_bytes(manifest_bytes(tree))).digest


def read_manifest(raw: bytes) -> Manifest:
    """Return a manifest from its JSON. Raises `Invalid` (`invalid_manifest`)."""
    try:
        return Manifest.model_validate_json(raw)
    except ValueError:
        raise Invalid(
            "invalid_manifest", "The blob is not a manifest.", todo="Send the JSON of a manifest, then name its digest."
        ) from None


class Resolver:
    """Answers whoever submitted references: exactly one `ReferencesResolved` or `ReferencesRefused`."""

    def __init__(
        self, environments_: Environments, models_: Models, writer: Writer, default: InlineEnvironment
    ) -> None:
        self._environments = environments_
        self._models = models_
        self._writer = writer
        self._default = default

    async def __call__(self, event: Event) -> None:
        """Handle an event that carries references."""
        references = references_of(event)
        origin = Origin.of_event(event, OWNER, asks=True)
        try:
            await self._answer(event, references, origin)
        except ClocheError as error:
            if is_temporary(error):
                raise
            await self._writer.reply(event.project, origin, ReferencesRefused(problem=problem_of(error)))

    async def _answer(self, event: Event, references: References, origin: Origin) -> None:
        project = event.project
        resolved = tuple([await self._models.resolve(project, ref) for ref in references.models])
        wanted = references.environment or self._default
        if (use := use_of_reference(event, wanted.name)) is not None:
            await self._environments.views.upsert([use])
        if isinstance(wanted, InlineEnvironment):
            check_name(wanted.name)
            version = self._environments.candidate(wanted.definition, event.actor or origin.actor.subject)
            await self._environments.wheels.check(project, version.definition)
            await self._register(project, wanted.name, version, resolved, origin)
        else:
            await self._refer(project, wanted, resolved, origin)

    async def _register(
        self,
        project: str,
        name: str,
        version: EnvironmentVersion,
        resolved: tuple[ResolvedModel, ...],
        origin: Origin,
    ) -> None:
        def decide(state: Environment) -> Decision:
            facts, found = environments.decide_inline(state, name, version)
            return Decision(facts, ReferencesResolved(environment=found, models=resolved))

        await self._environments.change(project, name, origin, decide)

    async def _refer(
        self, project: str, ref: EnvironmentRef, resolved: tuple[ResolvedModel, ...], origin: Origin
    ) -> None:
        def decide(state: Environment) -> Decision:
            facts, found = curated.decide_use(state, ref, self._environments.candidate)
            return Decision(facts, ReferencesResolved(environment=found, models=resolved))

        await self._environments.change(project, ref.name, origin, decide)


def references_of(event: Event) -> References:
    """Return the references that an event carries. Raises `Invalid` (`malformed_event`)."""
    fact: Fact | None = read_fact(event.type, event.data)
    if not isinstance(fact, RunSubmitted | ServiceSubmitted | BuildSubmitted):
        raise Invalid("malformed_event", f"{event.type} carries no references.")
    return fact.references


def problem_of(error: ClocheError) -> Problem:
    """Return an error as an answer carries it."""
    violations = [{"pointer": v.pointer, "code": v.code, "detail": v.detail} for v in error.violations]
    message = " ".join(part for part in (error.what, error.why) if part)
    extra = {**error.extra, **({"errors": violations} if violations else {})}
    return Problem(code=error.code, message=message, todo=error.todo, extra=extra)


def outcome_version(changed: Changed[Model]) -> int:
    """Return the version that a registration made, also when it is answered again."""
    said = changed.outcome.json if changed.outcome is not None else None
    return int(str(said["version"])) if said is not None else len(changed.state.versions)
