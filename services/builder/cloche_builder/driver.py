"""Driver: works on open builds as the journal shows them; nothing that it remembers decides anything.

It is woken by events and looks around every few seconds. For each open build it claims, adopts,
takes over, stops or leaves alone; a claim's insert decides who works, and a result counts only under
the newest claim.
"""

import asyncio
import contextlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from cloche_builder.diary import Diary, log_id
from cloche_builder.domain.builds import CANCELED, Build, Claim, decide_claim, decide_end, problem_of
from cloche_builder.handlers import SERVICE, Builds
from cloche_builder.ports import BuildLogs
from cloche_builder.settings import BuilderSettings
from cloche_builder.tenure import Tenure
from cloche_builder.workshop import Job, Made
from cloche_shared.contracts.facts import ImageBuildFailed, ImageBuilt
from cloche_shared.contracts.references import Problem
from cloche_shared.errors import ClocheError, Conflict, Failed, Internal, Unavailable, is_store_away
from cloche_shared.journal.commit import StreamId
from cloche_shared.notes import notes_of
from cloche_shared.ports.blobs import BlobStore
from cloche_shared.ports.journal import OutcomeUnknownError
from cloche_shared.ports.platform import Clock
from cloche_shared.ports.resolver import Say

RECORD_AGAIN_S = 1.0
STORE_AGAIN_S = 2.0
STOP_S = 5.0

_TROUBLE = (Unavailable, OutcomeUnknownError, TimeoutError, ConnectionError)
_log = notes_of(__name__)


class Makes(Protocol):
    """What does the work (`Workshop`)."""

    async def make(self, job: Job, say: Say) -> Made:
        """Build, or raise what is wrong."""


class OpenBuilds(Protocol):
    """Where open builds are found after a start (a view)."""

    async def find(self) -> Sequence[StreamId]:
        """Return all of them; some may be closed already, the newest may be missing."""


@dataclass(frozen=True, slots=True)
class Site:
    """What a driver needs besides the builds themselves."""

    workshop: Makes
    logs: BuildLogs
    blobs: BlobStore
    clock: Clock
    open_builds: OpenBuilds
    settings: BuilderSettings


@dataclass(slots=True)
class _Work:
    attempt: int
    task: asyncio.Task[None]


class Driver:
    """One builder. `tenure.holder` is its id; a restart under the same id adopts at once."""

    def __init__(self, builds: Builds, site: Site, tenure: Tenure) -> None:
        self._builds = builds
        self._site = site
        self._tenure = tenure
        self._open: dict[StreamId, None] = {}
        self._work: dict[StreamId, _Work] = {}
        self._wake = asyncio.Event()
        self._looked = float("-inf")

    def wake(self, stream: StreamId) -> None:
        """Look at a build soon."""
        self._open.setdefault(stream)
        self._wake.set()

    def known(self) -> Sequence[StreamId]:
        """Return the builds that are known to be open."""
        return tuple(self._open)

    def tenure_changed(self, held: bool) -> None:  # noqa: FBT001 - the callback of a lease
        """Go to work with the lease; stop all work without it: others may take it over."""
        if held:
            self._wake.set()
        else:
            self._abandon()

    def _abandon(self) -> None:
        for work in self._work.values():
            work.task.cancel()

    async def run(self) -> None:
        """Drive for ever. When it is cancelled, work ends where it is, unrecorded, to be adopted later."""
        try:
            while True:
                try:
                    await self._look_around()
                    await self._drive()
                except _TROUBLE as error:
                    _log.warning("driver_waits", builder=self._tenure.holder, error=str(error))
                    await asyncio.sleep(RECORD_AGAIN_S)
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(self._site.settings.sweep_s):
                        await self._wake.wait()
        finally:
            self._abandon()
            await asyncio.gather(*(work.task for work in self._work.values()), return_exceptions=True)

    async def _look_around(self) -> None:
        """Find open builds of before and of other builders, and look at others' leases; not on every wake-up."""
        now = self._site.clock.monotonic()
        if now - self._looked < self._site.settings.sweep_s:
            return
        self._looked = now
        for stream in await self._site.open_builds.find():
            self._open.setdefault(stream)
        claims = [(await self._builds.streams.get(stream)).state.claim for stream in tuple(self._open)]
        others = {claim.builder for claim in claims if claim is not None} - {self._tenure.holder}
        await self._tenure.observe(others)

    async def _drive(self) -> None:
        self._wake.clear()
        for stream in tuple(self._open):
            build = (await self._builds.streams.get(stream)).state
            if build.is_open:
                await self._reconcile(stream, build)
            elif stream not in self._work:
                del self._open[stream]

    async def _reconcile(self, stream: StreamId, build: Build) -> None:
        work = self._work.get(stream)
        claim = build.claim
        if work is not None:
            superseded = claim is None or claim.attempt != work.attempt
            if superseded or not build.waiters:
                await self._stop(stream, work, build)
        elif self._may_take(claim):
            await self._take(stream, build)

    def _may_take(self, claim: Claim | None) -> bool:
        if not self._tenure.held:
            return False
        return claim is None or claim.builder == self._tenure.holder or self._tenure.is_dead(claim.builder)

    async def _take(self, stream: StreamId, build: Build) -> None:
        """Claim a build that nobody works on; one that nobody waits for needs no free hand."""
        if build.waiters and len(self._work) >= self._site.settings.parallel:
            return
        if build.owed:
            await self._builds.settle(stream)
        over = build.claim.attempt if build.claim is not None else None
        changed = await self._builds.change(
            stream,
            build.waiters[0].correlation if build.waiters else str(stream),
            lambda state: decide_claim(state, self._tenure.holder, at=self._builds.now(), over=over),
        )
        if not changed.facts:
            return
        state = changed.state
        if state.claim is None:
            await self._builds.settle(stream, at_least=changed.seq)
        elif state.claim.attempt == (over or build.claims) + 1:
            self._start(stream, state, state.claim, over)

    def _start(self, stream: StreamId, build: Build, claim: Claim, over: int | None) -> None:
        work = self._attempt(stream, build, claim, over)
        task = asyncio.create_task(work, name=f"build-{stream.id[:12]}-{claim.attempt}")
        self._work[stream] = _Work(claim.attempt, task)
        task.add_done_callback(lambda _: self._finished(stream, claim.attempt))

    def _finished(self, stream: StreamId, attempt: int) -> None:
        work = self._work.get(stream)
        if work is not None and work.attempt == attempt:
            del self._work[stream]
        self.wake(stream)

    async def _stop(self, stream: StreamId, work: _Work, build: Build) -> None:
        """End work that nobody waits for, or that somebody else has taken over."""
        if work.task.done():
            return
        work.task.cancel()
        await asyncio.wait([work.task], timeout=STOP_S)
        claim = build.claim
        if claim is None or claim.attempt != work.attempt or not work.task.done():
            return
        diary = self._diary(stream, work.attempt)
        await self._finish(stream, work.attempt, diary, CANCELED, seconds=0.0)

    # --- one attempt

    def _diary(self, stream: StreamId, attempt: int) -> Diary:
        site = self._site
        return Diary(site.logs, log_id(stream, attempt), self._builds.now, site.settings.log_limit)

    async def _attempt(self, stream: StreamId, build: Build, claim: Claim, over: int | None) -> None:
        diary = self._diary(stream, claim.attempt)
        began = self._site.clock.monotonic()
        result: Made | Problem
        try:
            async with asyncio.timeout(self._site.settings.timeout_s):
                if over is not None:
                    await diary.go_on(log_id(stream, over))
                else:
                    # a crash may have come between the former result and the end of its live log
                    await self._site.logs.remove(log_id(stream, claim.attempt - 1))
                await diary.say(f"Build {stream.id[:12]}, attempt {claim.attempt}, by {claim.builder}")
                result = await self._made(_job(stream, build, claim), diary)
        except TimeoutError:
            result = problem_of(_too_long(self._site.settings.timeout_s))
        except ClocheError as error:
            result = problem_of(error)
        except Exception as error:  # noqa: BLE001 - a defect of ours ends this build, not the builder
            _log.exception("build_crashed", build=str(stream), attempt=claim.attempt, error=repr(error))
            result = problem_of(_defect())
        seconds = self._site.clock.monotonic() - began
        await self._finish(stream, claim.attempt, diary, result, seconds=seconds)

    async def _made(self, job: Job, diary: Diary) -> Made:
        """Do the work; a store that does not answer is no fault of the build, which begins again once it does."""
        while True:
            try:
                return await self._site.workshop.make(job, diary.say)
            except Unavailable as error:
                if not is_store_away(error):
                    raise
                await diary.say(f"{error.what} Waiting for it.")
            await asyncio.sleep(STORE_AGAIN_S)

    async def _finish(
        self, stream: StreamId, attempt: int, diary: Diary, result: Made | Problem, *, seconds: float
    ) -> None:
        """Ship the log, record the result under the attempt's claim, answer, and let the log's readers go."""
        while True:
            try:
                log = await self._shipped(stream, diary, result, seconds)
                await self._record(stream, self._fact(attempt, result, seconds, log))
            except Conflict as error:
                _log.warning("result_refused", build=str(stream), attempt=attempt, code=error.code)
            except _TROUBLE as error:
                _log.warning("result_waits", build=str(stream), attempt=attempt, error=str(error))
                await asyncio.sleep(RECORD_AGAIN_S)
                continue
            break
        await diary.close()

    async def _shipped(self, stream: StreamId, diary: Diary, result: Made | Problem, seconds: float) -> str:
        """Return the digest of the kept log; a log that cannot be kept never costs the result."""
        try:
            await diary.last(_last_line(result, seconds))
            return await diary.ship(self._site.blobs.space(SERVICE, stream.project))
        except _TROUBLE as error:
            _log.warning("log_not_kept", build=str(stream), error=str(error))
            return ""

    async def _record(self, stream: StreamId, fact: ImageBuilt | ImageBuildFailed) -> None:
        build = (await self._builds.streams.get(stream)).state
        correlation = build.waiters[0].correlation if build.waiters else str(stream)
        changed = await self._builds.change(stream, correlation, lambda state: decide_end(state, fact))
        await self._builds.settle(stream, at_least=changed.seq)

    def _fact(self, attempt: int, result: Made | Problem, seconds: float, log: str) -> ImageBuilt | ImageBuildFailed:
        at = self._builds.now()
        if isinstance(result, Made):
            return ImageBuilt(
                lock_digest=result.lock_digest,
                image=result.image,
                seconds=round(seconds, 3),
                artefacts=result.artefacts,
                bytes=result.bytes,
                attempt=attempt,
                log=log,
                at=at,
            )
        not_before = "" if result.code == CANCELED.code else self._builds.later(self._site.settings.backoff_s)
        return ImageBuildFailed(
            problem=result, seconds=round(seconds, 3), attempt=attempt, log=log, not_before=not_before, at=at
        )


def _job(stream: StreamId, build: Build, claim: Claim) -> Job:
    if build.definition is None:
        raise Internal("build_without_definition", "The build's definition is not known.")
    lock = "" if claim.solves else build.lock_digest
    return Job(stream.project, build.definition_hash, build.definition, lock, outlook=build.outlook)


def _last_line(result: Made | Problem, seconds: float) -> str:
    if isinstance(result, Made) and result.outlook:
        return f"Foresaw {result.artefacts} packages in {seconds:.1f} s; nothing was changed"
    if isinstance(result, Made):
        return f"Built {result.lock_digest}: {result.artefacts} artefacts, {result.bytes} bytes, in {seconds:.1f} s"
    return " ".join(part for part in (f"Failed ({result.code}):", result.message, result.todo) if part)


def _too_long(seconds: float) -> Failed:
    return Failed(
        "build_timeout",
        f"The build took longer than {seconds:g} s.",
        todo="See in the log what took so long; an administrator can raise `builder.timeout_s`.",
    )


def _defect() -> Internal:
    return Internal(
        "build_crashed",
        "The builder failed.",
        why="This is a defect of Cloche.",
        todo="Build again; if it happens again, report it with the server's log.",
    )
