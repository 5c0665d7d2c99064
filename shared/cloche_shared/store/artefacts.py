"""From a resolution to stored artefacts: download, verify, build what has no wheel, keep by digest.

Everything runs in a pipeline per package: while one wheel is downloaded, another is already handed
to `ready`, which unpacks and compiles it. Only ports are used here.
"""

import asyncio
import posixpath
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import unquote, urlsplit

from cloche_shared.contracts.definition import Artefact, Lock
from cloche_shared.errors import ClocheError, Failed, Invalid, Unavailable
from cloche_shared.ports.blobs import Blob, Blobs
from cloche_shared.ports.platform import Http, HttpAnswer
from cloche_shared.ports.resolver import Choice, Resolution, Resolver, Say
from cloche_shared.store.hashing import without_credentials
from cloche_shared.store.together import together

AT_ONCE = 8
TRIES = 4
BACKOFF_SECONDS = 0.4
READ_SECONDS = 60.0
MAX_BYTES = 16 << 30

Ready = Callable[[Artefact], Awaitable[None]]
"""Called once for each artefact as soon as its bytes are stored."""

Stage = Callable[[Blobs, str], Awaitable[str]]
"""Gives a path of this machine with a blob's bytes, where blobs lie elsewhere."""

_OK = 200
_REFUSED = frozenset({401, 403, 407})
_GONE = frozenset({404, 410})


@dataclass(frozen=True, slots=True)
class Sources:
    """What `fetch` works with. `stage` is needed only where `blobs.file` gives no path."""

    http: Http
    blobs: Blobs
    resolver: Resolver
    say: Say
    stage: Stage | None = None


async def fetch(resolution: Resolution, sources: Sources, *, ready: Ready | None = None) -> tuple[Artefact, ...]:
    """Return the artefacts of a resolution, by name; all of them are stored then.

    Raises `Failed` (code `index_auth`, `unreachable`, `hash_mismatch`, `package_not_found`, `url_not_allowed`, or those
    of `Resolver.build_wheel`); `extra["package"]` names the package.
    """
    slots = asyncio.Semaphore(AT_ONCE)
    largest_first = sorted(resolution.choices, key=lambda choice: -(choice.size or 0))
    found = await together(_one(resolution, choice, sources, slots, ready) for choice in largest_first)
    return tuple(sorted(found, key=lambda artefact: artefact.name))


def make_lock(definition_hash: str, resolution: Resolution, artefacts: tuple[Artefact, ...]) -> Lock:
    """Return the lock of a resolution whose artefacts are stored."""
    return Lock(
        definition_hash=definition_hash,
        python=resolution.python,
        platform=resolution.platform,
        artefacts=artefacts,
        pylock=resolution.pylock,
    )


async def _one(
    resolution: Resolution, choice: Choice, sources: Sources, slots: asyncio.Semaphore, ready: Ready | None
) -> Artefact:
    async with slots:
        blob = await _download(choice, sources, (*resolution.indexes, *resolution.package_indexes))
    await sources.say(f"Downloaded {choice.filename} ({_readable(blob.size)})")
    if choice.kind == "sdist":
        artefact = await _built(resolution, choice, blob, sources)
    else:
        artefact = _artefact(choice, blob)
    if ready is not None:
        await ready(artefact)
    return artefact


def _artefact(choice: Choice, blob: Blob) -> Artefact:
    return Artefact(
        kind="conda" if choice.kind == "conda" else "wheel",
        name=choice.name,
        version=choice.version,
        filename=choice.filename,
        url=without_credentials(choice.url),
        digest=blob.digest,
        size=blob.size,
        build=choice.build,
        subdir=choice.subdir,
    )


async def _built(resolution: Resolution, choice: Choice, source: Blob, sources: Sources) -> Artefact:
    await sources.say(f"Building a wheel of {choice.name} {choice.version} from source")
    path = await _path(sources, source.digest)
    built = await sources.resolver.build_wheel(resolution, choice, path, sources.say)
    try:
        blob = await sources.resolver.keep(built, sources.blobs)
    finally:
        await sources.resolver.release(built)
    wheel = _artefact(choice, blob)
    return wheel.model_copy(update={"kind": "built-wheel", "filename": built.filename, "source_digest": source.digest})


async def _path(sources: Sources, digest: str) -> str:
    path = await sources.blobs.file(digest)
    if path is not None:
        return str(path)
    return "" if sources.stage is None else await sources.stage(sources.blobs, digest)


async def _download(choice: Choice, sources: Sources, beside: Sequence[str]) -> Blob:
    """Return the stored file, trying again while the index does not answer; `beside` are the indexes."""
    if choice.hash is not None:
        size = await sources.blobs.size(choice.hash)
        if size is not None:
            return Blob(choice.hash, size)
    for count in range(1, TRIES + 1):
        try:
            return await _attempt(choice, sources, beside)
        except Unavailable as error:
            if error.code != "unreachable" or count == TRIES:
                raise _named(error, choice) from error
            await sources.say(f"{choice.filename}: {error.what} Trying again.")
            await asyncio.sleep(BACKOFF_SECONDS * 2**count)
        except Invalid as error:
            raise _mismatch(error, choice) from error
        except Failed as error:
            error.extra.setdefault("package", choice.name)
            raise
    raise AssertionError("the last attempt returns or raises")


async def _attempt(choice: Choice, sources: Sources, beside: Sequence[str]) -> Blob:
    if choice.kind == "conda" and choice.url.startswith("file:"):
        return await _from_folder(choice, sources)
    async with sources.http.get(choice.url, timeout=READ_SECONDS, beside=beside) as answer:
        if answer.status != _OK:
            raise _status_error(choice, answer)
        return await sources.blobs.put(_body(answer), digest=choice.hash, limit=MAX_BYTES)


async def _from_folder(choice: Choice, sources: Sources) -> Blob:
    """Store a package of a channel that is a folder, which the solver was allowed to read."""
    path = Path(unquote(urlsplit(choice.url).path))
    try:
        return await sources.blobs.put_file(path, digest=choice.hash)
    except FileNotFoundError as error:
        raise Failed(
            "package_not_found",
            f"The channel's folder no longer has {choice.filename}.",
            todo="Ask for another version of the package.",
        ) from error


async def _body(answer: HttpAnswer) -> AsyncIterator[bytes]:
    async for chunk in answer.body:
        yield chunk


def _status_error(choice: Choice, answer: HttpAnswer) -> ClocheError:
    where = posixpath.basename(choice.filename)
    extra = {"package": choice.name, "status": answer.status}
    if answer.status in _REFUSED:
        return Failed(
            "index_auth",
            f"The package index refused to give {where}.",
            why=f"It answered {answer.status}.",
            todo="Check the user name and token in the index address.",
            extra=extra,
        )
    if answer.status in _GONE:
        return Failed(
            "package_not_found",
            f"The package index no longer has {where}.",
            why=f"It answered {answer.status}.",
            todo="Ask for another version of the package.",
            extra=extra,
        )
    return Unavailable("unreachable", f"The package index answered {answer.status}.", extra=extra)


def _named(error: ClocheError, choice: Choice) -> Failed:
    return Failed(
        error.code,
        f"{choice.filename} could not be fetched.",
        why=error.what,
        todo=error.todo or "See that the package index can be reached, then build again.",
        extra={"package": choice.name},
    )


def _mismatch(error: Invalid, choice: Choice) -> Failed:
    return Failed(
        "hash_mismatch" if error.code == "digest_mismatch" else error.code,
        f"{choice.filename} is not the file that the index announced.",
        why=error.why,
        todo="Build again; if it happens again, the index or a proxy changes the file.",
        extra={"package": choice.name},
    )


def _readable(size: int) -> str:
    return f"{size / 1e6:.1f} MB" if size >= 100_000 else f"{max(size // 1000, 1)} kB"  # noqa: PLR2004 - 0.1 MB
