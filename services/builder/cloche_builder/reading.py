"""Reading builds as a user: what a project may see, and the log as it grows."""

import asyncio
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass

from cloche_builder.diary import log_id
from cloche_builder.domain.builds import Build
from cloche_builder.domain.names import stream_of
from cloche_builder.domain.requests import BuildRequest
from cloche_builder.handlers import SERVICE, Builds, Requests
from cloche_builder.ports import BuildLogs, LogPiece
from cloche_builder.shown import BuildView, build_shown, request_shown
from cloche_shared.contracts.definition import Lock
from cloche_shared.errors import NotFound, Unavailable
from cloche_shared.journal.commit import StreamId
from cloche_shared.notes import notes_of
from cloche_shared.ports.blobs import BlobStore
from cloche_shared.store.packages import Packages, read_packages

LOOK_AGAIN_S = 1.0
Follower = Callable[[str, int], AsyncIterator[bytes]]
"""Yields a build's log from an offset on, as the builder of that name has it; nothing when it cannot be asked."""

_log = notes_of(__name__)


@dataclass(frozen=True, slots=True)
class Found:
    """What an id names for a project: a build, or a request and its build once that is known."""

    seq: int
    stream: StreamId
    request: BuildRequest | None
    build_stream: StreamId | None
    build: Build | None

    @property
    def settled(self) -> bool:
        """Whether nothing more will happen by itself."""
        if self.request is not None:
            return self.request.ended
        return self.build is None or not self.build.is_open

    @property
    def outcome(self) -> str:
        """The digest of the newest lock, or of the outlook; empty while there is none."""
        digest = self.request.lock_digest if self.request is not None else ""
        return digest or (self.build.lock_digest if self.build is not None else "")

    @property
    def base(self) -> str:
        """The digest of the lock before; empty where there was none."""
        if self.request is not None:
            return self.request.base
        return self.build.base if self.build is not None else ""

    def lock_digest(self, digest: str = "") -> str:
        """Return the digest of a lock: the newest, or the one that is named if it is one of this build's.

        Empty where there is none, and of an outlook, which is none.
        """
        if self.build is None or self.build.outlook:
            return ""
        known = {*self.build.locks, self.outcome}
        return self.outcome if not digest else digest if digest in known else ""

    def shown(self, project: str) -> BuildView:
        """Return it as the project sees it."""
        if self.request is not None:
            return request_shown(self.stream, self.request, self.build)
        return build_shown(self.stream, self.build or Build(), project)


def unknown_build(build_id: str) -> NotFound:
    """Return the error for an id that names nothing for this project."""
    return NotFound(
        "build_not_found",
        f"There is no build {build_id[:128]}.",
        todo="`cloche env build` prints the id of its build; GET /builds lists those of the project.",
    )


def no_lock(why: str = "") -> NotFound:
    """Return the error for a lock that is not there."""
    return NotFound(
        "lock_not_found", "There is no such lock.", why=why, todo="Wait until the build has completed, or build it."
    )


class Reader:
    """Reads on behalf of a project: of a build only those know that asked for it. `mine` is this builder's id."""

    def __init__(
        self, builds: Builds, requests: Requests, logs: BuildLogs, blobs: BlobStore, *, mine: str = ""
    ) -> None:
        self._mine = mine
        self._builds = builds
        self._requests = requests
        self._logs = logs
        self._blobs = blobs

    async def find(self, build_id: str, project: str) -> Found:
        """Return what an id names. Raises `NotFound` (`build_not_found`)."""
        stream = stream_of(build_id, project)
        if stream is not None:
            present = await self._builds.streams.get(stream)
            if present.state.asked_by(project) is None:
                raise unknown_build(build_id)
            return Found(present.seq, stream, None, stream, present.state)
        asked = self._requests.streams.id(project, build_id)
        request = await self._requests.streams.get(asked)
        if not request.seq:
            raise unknown_build(build_id)
        build_stream = stream_of(request.state.build_id, project)
        build = (await self._builds.streams.get(build_stream)).state if build_stream is not None else None
        if build is not None and request.state.purpose == "explain" and build.asked_by(project) is None:
            # who only asked what would be done has not asked for the build
            build_stream, build = None, None
        return Found(request.seq, asked, request.state, build_stream, build)

    async def named(self, definition_hash: str, project: str) -> list[BuildView]:
        """Return the builds of a definition that the project asked for, its own before everybody's."""
        views = []
        for stream in self._builds.known_as(definition_hash, project):
            build = (await self._builds.streams.get(stream)).state
            if build.asked_by(project) is not None:
                views.append(build_shown(stream, build, project))
        return views

    async def lock(self, found: Found, digest: str = "") -> Lock:
        """Return the lock; an older one by its `digest`. Raises `NotFound` (`lock_not_found`) where there is none."""
        return Lock.model_validate_json(await self._document(found, found.lock_digest(digest)))

    async def _document(self, found: Found, digest: str) -> bytes:
        if not digest or found.build_stream is None:
            raise no_lock()
        try:
            return await self._blobs.space(SERVICE, found.build_stream.project).read_bytes(digest)
        except NotFound as error:
            raise no_lock("It is no longer kept; building again makes it anew.") from error

    async def packages(self, found: Found, digest: str = "") -> Packages:
        """Return what a lock names, or what an outlook foresees. Raises as `lock` does."""
        return read_packages(await self._document(found, digest or found.outcome))

    async def changes(self, found: Found) -> tuple[Packages | None, Packages]:
        """Return the packages of the lock before, and of the newest one or the outlook. Raises as `lock` does."""
        base = found.base
        before = await self.packages(found, base) if base else None
        return before, await self.packages(found)

    async def log(self, found: Found, offset: int = 0) -> AsyncIterator[LogPiece]:
        """Yield what there is of the newest attempt's log, from `offset`."""
        stream, build = found.build_stream, found.build
        if stream is None or build is None or not build.claims:
            return
        digest = build.log_of(build.claims)
        if not digest:
            async for piece in self._logs.read(log_id(stream, build.claims), offset):
                yield piece
            return
        async for chunk in self._kept(stream, digest, offset):
            yield LogPiece(offset, chunk)
            offset += len(chunk)

    async def _kept(self, stream: StreamId, digest: str, offset: int) -> AsyncIterator[bytes]:
        blobs = self._blobs.space(SERVICE, stream.project)
        if (await blobs.size(digest) or 0) > offset:
            async for chunk in blobs.read(digest, start=offset):
                yield chunk

    async def follow(
        self, build_id: str, project: str, offset: int = 0, elsewhere: Follower | None = None
    ) -> AsyncIterator[LogPiece]:
        """Yield the log from `offset` as it grows, until the build (or the request) has ended.

        What another builder writes is asked there through `elsewhere`.
        """
        while True:
            since = self._builds.signals.count
            found = await self.find(build_id, project)
            pieces = self.log(found, offset) if self._is_here(found) else self._there(found, offset, elsewhere)
            async for piece in pieces:
                yield piece
                offset = piece.offset + len(piece.data)
            if found.settled:
                return
            await self._news(found, offset, since)

    async def follow_here(self, build_id: str, project: str, offset: int) -> AsyncIterator[LogPiece]:
        """Yield the log from `offset` as it grows, as long as this builder writes it."""
        while True:
            since = self._builds.signals.count
            found = await self.find(build_id, project)
            async for piece in self.log(found, offset):
                yield piece
                offset = piece.offset + len(piece.data)
            if found.settled or not self._is_here(found):
                return
            await self._news(found, offset, since)

    def builder_of(self, found: Found) -> str:
        """Return the other builder that has the live log; empty when there is none."""
        claim = found.build.claim if found.build is not None else None
        return "" if claim is None or claim.builder == self._mine else claim.builder

    def _is_here(self, found: Found) -> bool:
        return not self.builder_of(found)

    async def _there(self, found: Found, offset: int, elsewhere: Follower | None) -> AsyncIterator[LogPiece]:
        if elsewhere is None:
            return
        try:
            async for data in elsewhere(self.builder_of(found), offset):
                yield LogPiece(offset, data)
                offset += len(data)
        except Unavailable as error:
            _log.info("log_elsewhere_broke_off", build=str(found.build_stream), error=str(error))

    async def _news(self, found: Found, offset: int, since: int) -> None:
        """Wait for another line, a claim, or the end; at most a second, so that nothing is missed for long."""
        signals = self._builds.signals
        stream, build = found.build_stream, found.build
        if stream is None or build is None or not build.is_open:
            await signals.wait(str(found.stream), LOOK_AGAIN_S, since=since)
        elif build.claim is None or not self._is_here(found):
            await signals.wait(str(stream), LOOK_AGAIN_S, since=since)
        elif signals.count == since:
            await self._logs.changed(log_id(stream, build.claims), offset, LOOK_AGAIN_S)

    async def wait(self, build_id: str, project: str, seconds: float) -> Found:
        """Return what the id names once it has settled, or as it is after so many seconds."""
        loop = asyncio.get_running_loop()
        until = loop.time() + seconds
        while True:
            since = self._builds.signals.count
            found = await self.find(build_id, project)
            left = until - loop.time()
            if found.settled or left <= 0:
                return found
            await self._builds.signals.wait(str(found.stream), min(left, LOOK_AGAIN_S), since=since)
