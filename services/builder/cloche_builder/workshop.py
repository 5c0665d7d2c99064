"""The work of one build: resolve, fetch, lock, prove."""

from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, replace
from urllib.parse import urlsplit, urlunsplit

from cloche_builder.conda import CondaTools, asks_conda, conda_lock, conda_resolution, wish_of
from cloche_builder.ports import Prove, Warm
from cloche_shared.contracts.definition import Artefact, Definition, Lock, WheelRef
from cloche_shared.errors import Failed, NotFound
from cloche_shared.ports.blobs import Blobs, BlobStore
from cloche_shared.ports.conda import CondaRecord, CondaWish
from cloche_shared.ports.platform import Http
from cloche_shared.ports.resolver import Choice, Ground, OwnWheel, Resolution, Resolver, Say
from cloche_shared.store.artefacts import Sources, Stage, fetch, make_lock
from cloche_shared.store.hashing import canonical_json, lock_bytes, lock_digest
from cloche_shared.store.packages import foreseen

OWNER = "builder"
UPLOADS = "registry"
"""Whose blobs private wheels are uploaded to."""
_GONE = frozenset({"package_not_found", "hash_mismatch", "url_not_allowed"})


@dataclass(frozen=True, slots=True)
class Job:
    """What is to be built. `lock_digest`: the lock that is to be restored; empty: a new one is made.

    With `outlook` it is only said what a new lock would hold.
    """

    scope: str
    definition_hash: str
    definition: Definition
    lock_digest: str = ""
    outlook: bool = False


@dataclass(frozen=True, slots=True)
class Made:
    """What was built: the lock, and how many artefacts and bytes it names. A process target has no image.

    Of an outlook `lock_digest` names the packages that were chosen (`cloche_shared.store.packages`).
    """

    lock_digest: str
    artefacts: int
    bytes: int
    image: str = ""
    outlook: bool = False


@dataclass(frozen=True, slots=True)
class Tools:
    """What a workshop works with.

    `warm` and `prove` belong to a node's files where the builder has one; `stage` is needed where
    blobs lie on another machine. Without `conda` no conda packages can be had.
    """

    resolver: Resolver
    http: Http
    blobs: BlobStore
    prove: Prove | None = None
    warm: Warm | None = None
    stage: Stage | None = None
    conda: CondaTools | None = None
    permitted: Callable[[], Awaitable[None]] | None = None
    """Returns when a solve may begin, so that no two builders solve one definition at the same time."""


class Workshop:
    """Makes locks and their artefacts."""

    def __init__(self, tools: Tools) -> None:
        self._tools = tools

    async def make(self, job: Job, say: Say) -> Made:
        """Build; everything that the returned lock names is in the scope's blobs then.

        Raises `Failed` with the codes of `Resolver`, `fetch` and `NodeFiles`, or `Unavailable`.
        """
        blobs = self._tools.blobs.space(OWNER, job.scope)
        if job.outlook:
            return await self._foreseen(job, blobs, say)
        own = await own_wheels(job.definition, job.scope, self._tools, blobs)
        lock = await self._restored(job, blobs, say) if job.lock_digest else None
        if lock is None:
            lock = await self._solved(job, own, blobs, say)
        stored = await blobs.put_bytes(lock_bytes(lock))
        if self._tools.prove is not None:
            await say("Making the environment on this machine")
            prefix = await self._tools.prove(stored.digest, lock, blobs)
            for warning in prefix.warnings:
                await say(f"Warning: {warning}")
        return Made(stored.digest, len(lock.artefacts), sum(artefact.size for artefact in lock.artefacts))

    async def _solved(self, job: Job, own: Sequence[OwnWheel], blobs: Blobs, say: Say) -> Lock:
        if asks_conda(job.definition):
            return await self._solved_on_conda(job, own, blobs, say)
        resolution = await self._resolved(job, say, None, own)
        artefacts = await self._fetched(resolution, blobs, say)
        return make_lock(job.definition_hash, resolution, artefacts)

    async def _resolved(self, job: Job, say: Say, ground: Ground | None, own: Sequence[OwnWheel]) -> Resolution:
        await self._permitted()
        if own:
            return await self._tools.resolver.resolve(job.definition, say, ground, own)
        if ground is not None:
            return await self._tools.resolver.resolve(job.definition, say, ground)
        return await self._tools.resolver.resolve(job.definition, say)

    async def _permitted(self) -> None:
        if self._tools.permitted is not None:
            await self._tools.permitted()

    async def _solved_on_conda(self, job: Job, own: Sequence[OwnWheel], blobs: Blobs, say: Say) -> Lock:
        """Choose conda's packages first, then pip's to fit them."""
        tools, wish, records = await self._conda_records(job, say)
        resolution = conda_resolution(records, wish, tools.platform)
        sources = Sources(self._tools.http, blobs, self._tools.resolver, say, self._tools.stage)
        artefacts = await fetch(resolution, sources)
        resolution = replace(resolution, indexes=())
        if job.definition.python.pip or own:
            ground = await self._ground(tools, make_lock(job.definition_hash, resolution, artefacts), blobs, say)
            resolution = await self._resolved(job, say, ground, own)
            artefacts += await fetch(resolution, sources)
        return conda_lock(job.definition_hash, wish, records, resolution, artefacts)

    async def _conda_records(self, job: Job, say: Say) -> tuple[CondaTools, CondaWish, tuple[CondaRecord, ...]]:
        tools = self._tools.conda
        if tools is None:
            raise _no_conda()
        wish = wish_of(job.definition, tools)
        await self._permitted()
        return tools, wish, await tools.solver.solve(wish, say)

    async def _foreseen(self, job: Job, blobs: Blobs, say: Say) -> Made:
        """Choose as for a new lock, and fetch only what the choice depends on: conda's part, below pip's packages."""
        own = await own_wheels(job.definition, job.scope, self._tools, blobs)
        if not asks_conda(job.definition):
            resolution = await self._resolved(job, say, None, own)
            choices = resolution.choices
        else:
            tools, wish, records = await self._conda_records(job, say)
            resolution = conda_resolution(records, wish, tools.platform)
            choices = resolution.choices
            if job.definition.python.pip or own:
                sources = Sources(self._tools.http, blobs, self._tools.resolver, say, self._tools.stage)
                below = make_lock(job.definition_hash, resolution, await fetch(resolution, sources))
                distributions = await tools.solver.distributions(below.artefacts, blobs)
                ground = Ground(below.python, below.platform, "", distributions)
                choices += (await self._resolved(job, say, ground, own)).choices
        found = foreseen(job.definition_hash, resolution, choices)
        stored = await blobs.put_bytes(canonical_json(found.model_dump(mode="json")))
        return Made(stored.digest, len(choices), sum(choice.size or 0 for choice in choices), outlook=True)

    async def _ground(self, tools: CondaTools, lock: Lock, blobs: Blobs, say: Say) -> Ground:
        """Return what pip builds upon, with conda's own Python where it can be started on this machine."""
        distributions = await tools.solver.distributions(lock.artefacts, blobs)
        python = ""
        if self._tools.prove is not None:
            await say("Making conda's part on this machine")
            python = str((await self._tools.prove(lock_digest(lock), lock, blobs)).python)
        return Ground(lock.python, lock.platform, python, distributions)

    async def _fetched(self, resolution: Resolution, blobs: Blobs, say: Say) -> tuple[Artefact, ...]:
        tools = self._tools
        sources = Sources(tools.http, blobs, tools.resolver, say, tools.stage)
        warm = tools.warm
        if warm is None or any(choice.kind == "conda" for choice in resolution.choices):
            return await fetch(resolution, sources)

        async def ready(artefact: Artefact) -> None:
            await warm(resolution.python, artefact, blobs)

        return await fetch(resolution, sources, ready=ready)

    async def _restored(self, job: Job, blobs: Blobs, say: Say) -> Lock | None:
        """Return the known lock with all that it names back in the blobs; None when that cannot be had any more."""
        try:
            lock = Lock.model_validate_json(await blobs.read_bytes(job.lock_digest))
        except (NotFound, ValueError):
            await say("The lock is gone; solving again")
            return None
        missing = set(await blobs.missing([artefact.digest for artefact in lock.artefacts]))
        absent = [artefact for artefact in lock.artefacts if artefact.digest in missing]
        if any(artefact.kind == "built-wheel" for artefact in absent):
            await say("A wheel that was built here is gone; solving again")
            return None
        try:
            await self._fetched(_resolution(lock, absent, job.definition), blobs, say)
        except Failed as error:
            if error.code not in _GONE:
                raise
            await say(f"{error.what} Solving again")
            return None
        return lock


async def own_wheels(definition: Definition, scope: str, tools: Tools, blobs: Blobs) -> tuple[OwnWheel, ...]:
    """Take a definition's private wheels from what was uploaded into the build's blobs, by digest; return them.

    Raises `Failed` (`wheel_not_found`).
    """
    refs = definition.python.wheels
    uploads = tools.blobs.space(UPLOADS, scope)
    for digest in await blobs.missing([ref.digest for ref in refs]):
        here = await uploads.file(digest)
        try:
            await (blobs.put_file(here, digest=digest) if here else blobs.put(uploads.read(digest), digest=digest))
        except (NotFound, FileNotFoundError) as error:
            raise _no_wheel(next(ref.filename for ref in refs if ref.digest == digest)) from error
    sizes = await blobs.sizes([ref.digest for ref in refs])
    return tuple(
        [OwnWheel(ref.filename, ref.digest, sizes[ref.digest], await _place(ref, tools, blobs)) for ref in refs]
    )


async def _place(ref: WheelRef, tools: Tools, blobs: Blobs) -> str:
    here = await blobs.file(ref.digest)
    if here is not None:
        return str(here)
    return await tools.stage(blobs, ref.digest) if tools.stage is not None else ""


def _no_wheel(filename: str) -> Failed:
    return Failed(
        "wheel_not_found",
        f"The private wheel {filename} is not here.",
        todo="Upload it with `cloche wheel upload`, then build again.",
    )


def _resolution(lock: Lock, absent: list[Artefact], definition: Definition) -> Resolution:
    """Return what fetches the absent files of a lock, exactly these bytes."""
    users = _users(definition)
    choices = tuple(
        Choice(
            kind="conda" if artefact.kind == "conda" else "wheel",
            name=artefact.name,
            version=artefact.version,
            filename=artefact.filename,
            url=_with_user(artefact.url, users),
            hash=artefact.digest,
            size=artefact.size,
            build=artefact.build,
            subdir=artefact.subdir,
        )
        for artefact in absent
    )
    return Resolution(lock.python, "", lock.platform, choices, lock.pylock, tuple(_indexes(definition)))


def _no_conda() -> Failed:
    return Failed(
        "conda_not_available",
        "This builder does not resolve conda packages.",
        todo="Leave the conda packages out, or ask the administrator for a builder that has conda.",
    )


def _users(definition: Definition) -> dict[str, str]:
    """Return the credentials in index addresses, by host: a lock holds none."""
    parts = [urlsplit(url).netloc.rpartition("@") for url in _indexes(definition)]
    return {host.lower(): user for user, at, host in parts if at}


def _indexes(definition: Definition) -> list[str]:
    options = definition.python.pip_options
    named = (options.index_url, *options.extra_index_urls, *options.package_indexes.values())
    return [url for url in named if url is not None]


def _with_user(url: str, users: dict[str, str]) -> str:
    parts = urlsplit(url)
    user = users.get(parts.netloc.lower())
    return url if user is None else urlunsplit(parts._replace(netloc=f"{user}@{parts.netloc}"))
