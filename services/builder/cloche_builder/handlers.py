"""What the builder does for a request or an event: load, decide, record, answer."""

import asyncio
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass
from datetime import timedelta

from cloche_builder.domain import builds as build_domain
from cloche_builder.domain import requests as request_domain
from cloche_builder.domain.builds import Ask, Build, Waiter
from cloche_builder.domain.explaining import Subject, explain
from cloche_builder.domain.names import (
    KIND,
    PUBLIC,
    build_definition,
    build_key,
    own_reason,
    scope_of,
    shown_id,
)
from cloche_builder.domain.requests import BuildRequest
from cloche_builder.settings import BuilderSettings
from cloche_builder.signals import Signals
from cloche_shared.contracts.definition import Lock
from cloche_shared.contracts.facts import BuildSubmitted, Explanation, ImageProvided, ImageRefused, Target
from cloche_shared.contracts.references import Problem, ResolvedEnvironment
from cloche_shared.errors import Invalid, NotFound
from cloche_shared.journal.commit import Actor, Origin, StreamId
from cloche_shared.journal.streams import Changed, Decision, Streams
from cloche_shared.journal.writer import Writer
from cloche_shared.ports.blobs import BlobStore
from cloche_shared.ports.platform import Clock

SERVICE = "builder"
KNOWN_LOCKS = 256

Wake = Callable[[StreamId], None]


@dataclass(frozen=True, slots=True)
class Question:
    """An aggregate asks for an image: its event's id, and what it wants."""

    request_id: str
    reply_to: str
    project: str
    correlation: str
    environment: ResolvedEnvironment
    target: Target = "process"
    refresh: bool = False
    insists: bool = False
    outlook: bool = False

    @property
    def origin(self) -> Origin:
        """The origin of the answer."""
        return Origin(
            Actor(f"service:{SERVICE}"),
            self.correlation,
            request_id=self.request_id,
            reply_to=self.reply_to,
            cause=self.request_id,
        )


def _owed_origin(waiter: Waiter) -> Origin:
    return Origin(
        Actor(f"service:{SERVICE}"),
        waiter.correlation,
        request_id=waiter.request_id,
        reply_to=waiter.reply_to,
        cause=waiter.request_id,
    )


class Builds:
    """Everything that is done to builds, except building."""

    def __init__(
        self, streams: Streams[Build], writer: Writer, blobs: BlobStore, clock: Clock, settings: BuilderSettings
    ) -> None:
        self.streams = streams
        self.signals = Signals()
        self.wake: Wake = lambda _stream: None
        self._writer = writer
        self._blobs = blobs
        self._clock = clock
        self._settings = settings
        self._contents: OrderedDict[tuple[str, str], tuple[str, ...]] = OrderedDict()

    def now(self) -> str:
        """Return the time of record."""
        return self._writer.now()

    def later(self, seconds: float) -> str:
        """Return the time of record so many seconds from now."""
        return (self._clock.now() + timedelta(seconds=seconds)).isoformat()

    def _stream(self, question: Question) -> StreamId:
        settings = self._settings
        definition = question.environment.definition
        scope = scope_of(
            definition, question.project, settings.public, settings.default_index, settings.public_channels
        )
        key = build_key(
            question.environment.definition_hash, question.target, settings.platform, outlook=question.outlook
        )
        return StreamId(KIND, scope, key)

    def named(
        self, environment: ResolvedEnvironment, project: str, target: Target, *, outlook: bool = False
    ) -> StreamId:
        """Return the build of an environment for a project. Raises `Invalid`."""
        return self._stream(Question("", "", project, "", environment, target, outlook=outlook))

    def known_as(self, definition_hash: str, project: str) -> tuple[StreamId, ...]:
        """Return the builds that a definition's hash may mean for a project. Raises `Invalid`."""
        key = build_key(definition_hash, "process", self._settings.platform)
        return tuple(StreamId(KIND, scope, key) for scope in (project, PUBLIC))

    async def explained(self, environment: ResolvedEnvironment, project: str, target: Target) -> Explanation:
        """Return what a build would do now, and why. Raises `Invalid`."""
        settings = self._settings
        stream = self.named(environment, project, target)
        build = (await self.streams.get(stream)).state
        reason = own_reason(environment.definition, settings.public, settings.default_index, settings.public_channels)
        return explain(
            Subject(
                build,
                shown_id(stream),
                environment.definition_hash,
                environment.definition,
                reason,
                settings.default_index,
                await self._missing(stream.project, build),
            )
        )

    async def _missing(self, scope: str, build: Build) -> int | None:
        """Return how many of a lock's files are gone; None where the lock is."""
        if not build.lock_digest:
            return 0
        try:
            digests = await self._content(scope, build.lock_digest)
        except (NotFound, ValueError):
            return None
        gone = await self._blobs.space(SERVICE, scope).missing([build.lock_digest, *digests])
        return None if build.lock_digest in gone else len(gone)

    async def request(self, question: Question) -> None:
        """Let somebody wait for an image, or answer at once; a question that was answered does nothing."""
        if await self._writer.answered(question.project, question.request_id) is not None:
            return
        try:
            stream = self._stream(question)
        except Invalid as error:
            refused = ImageRefused(problem=build_domain.problem_of(error))
            await self._writer.reply(question.project, question.origin, refused)
            return
        changed = await self._ask(stream, question)
        answer = build_domain.answer_to(changed.state, question.request_id, stream.project, shown_id(stream))
        if answer is not None:
            await self._writer.reply(question.project, question.origin, answer)
        if changed.state.is_open:
            self.wake(stream)

    async def _ask(self, stream: StreamId, question: Question) -> Changed[Build]:
        present = await self.streams.get(stream)
        whole = question.outlook or await self._is_whole(stream.project, present.state)
        broken = [] if whole else [present.state.lock_digest]
        environment = question.environment
        ask = Ask(
            Waiter(
                request_id=question.request_id,
                reply_to=question.reply_to,
                project=question.project,
                correlation=question.correlation,
                refresh=question.refresh,
            ),
            definition_hash=environment.definition_hash,
            definition=build_definition(environment.definition, self._settings.default_python),
            target=question.target,
            environment=f"{environment.name}:{environment.version}",
            insists=question.insists,
            outlook=question.outlook,
        )
        return await self.change(
            stream,
            question.correlation,
            lambda build: build_domain.decide_request(
                build, ask, now=self._clock.now(), at=self.now(), backoff_s=self._settings.backoff_s, broken=broken
            ),
            cause=question.request_id,
        )

    async def change(
        self, stream: StreamId, correlation: str, decide: Callable[[Build], Decision], *, cause: str = ""
    ) -> Changed[Build]:
        """Record what is decided, and tell those who follow the build."""
        origin = Origin(Actor(f"service:{SERVICE}"), correlation, cause=cause, follows=True)
        changed = await self.streams.change(stream, origin, decide)
        if changed.facts:
            self.signals.notify(str(stream))
        return changed

    async def _is_whole(self, scope: str, build: Build) -> bool:
        """Whether the lock and all that it names are in the blobs; nothing usable is whole."""
        if not build.usable:
            return True
        blobs = self._blobs.space(SERVICE, scope)
        try:
            digests = await self._content(scope, build.lock_digest)
        except (NotFound, ValueError):
            return False
        return not await blobs.missing([build.lock_digest, *digests])

    async def _content(self, scope: str, lock_digest: str) -> tuple[str, ...]:
        """Return the digests that a lock names; a lock never changes, so they are remembered."""
        place = (scope, lock_digest)
        known = self._contents.get(place)
        if known is None:
            raw = await self._blobs.space(SERVICE, scope).read_bytes(lock_digest)
            known = tuple(artefact.digest for artefact in Lock.model_validate_json(raw).artefacts)
            self._contents[place] = known
            if len(self._contents) > KNOWN_LOCKS:
                self._contents.popitem(last=False)
        return known

    async def settle(self, stream: StreamId, *, at_least: int = 0) -> None:
        """Answer everybody whom the last result is owed; harmless when they were answered."""
        build = (await self.streams.get(stream, at_least=at_least)).state
        answers = (
            (waiter, build_domain.answer_to(build, waiter.request_id, stream.project, shown_id(stream)))
            for waiter in build.owed
        )
        await asyncio.gather(
            *(
                self._writer.reply(waiter.project, _owed_origin(waiter), answer)
                for waiter, answer in answers
                if answer is not None
            )
        )

    async def release(self, stream: StreamId, reply_to: str, cause: str) -> None:
        """Drop an aggregate that has ended from those who wait; it gets its one answer first."""
        build = (await self.streams.get(stream)).state
        gone = [waiter for waiter in build.waiters if waiter.reply_to == reply_to]
        withdrawn = ImageRefused(problem=build_domain.WITHDRAWN, build_id=shown_id(stream))
        for waiter in gone:
            await self._writer.reply(waiter.project, _owed_origin(waiter), withdrawn)
        if gone:
            correlation = gone[0].correlation
            await self.change(
                stream, correlation, lambda build: build_domain.decide_release(build, reply_to), cause=cause
            )
            self.wake(stream)


class Requests:
    """What is done to requests for a build by name."""

    def __init__(self, streams: Streams[BuildRequest], builds: Builds) -> None:
        self.streams = streams
        self._builds = builds

    async def submit(
        self, project: str, request_id: str, wanted: BuildSubmitted, origin: Origin, *, fingerprint: str = ""
    ) -> Changed[BuildRequest]:
        """Accept a request under an id of ours. Raises `Conflict` (`idempotency_key_reused`)."""
        stamped = wanted.model_copy(update={"at": self._builds.now()})
        changed = await self.streams.change(
            self.streams.id(project, request_id),
            origin,
            lambda state: request_domain.decide_submit(state, stamped, request_id),
            fingerprint=fingerprint,
        )
        self._builds.signals.notify(str(changed.stream))
        return changed

    async def assign(self, stream: StreamId, environment: ResolvedEnvironment, origin: Origin) -> None:
        """Take the registry's answer: what is only asked for an explanation gets it at once."""
        asked = (await self.streams.get(stream)).state
        try:
            if asked.purpose == "explain":
                told = await self._builds.explained(environment, stream.project, asked.target)
                at = self._builds.now()
                await self._change(
                    stream, origin, lambda state: request_domain.decide_explain(state, environment, told, at)
                )
                return
            present = self._builds.named(environment, stream.project, asked.target)
            drift = asked.purpose == "drift"
            build = self._builds.named(environment, stream.project, asked.target, outlook=drift)
        except Invalid as error:
            await self.fail(stream, build_domain.problem_of(error), origin)
            return
        base = (await self._builds.streams.get(present)).state.lock_digest
        await self._change(
            stream,
            origin,
            lambda state: request_domain.decide_assign(state, environment, shown_id(build), build.project, base=base),
        )

    async def complete(self, stream: StreamId, answer: ImageProvided, origin: Origin) -> None:
        """Take the build's answer."""
        at = self._builds.now()
        await self._change(stream, origin, lambda state: request_domain.decide_complete(state, answer, at))

    async def fail(self, stream: StreamId, problem: Problem, origin: Origin) -> None:
        """Take a refusal."""
        at = self._builds.now()
        await self._change(stream, origin, lambda state: request_domain.decide_fail(state, problem, at))

    async def _change(self, stream: StreamId, origin: Origin, decide: Callable[[BuildRequest], Decision]) -> None:
        changed = await self.streams.change(stream, origin, decide)
        if changed.facts:
            self._builds.signals.notify(str(stream))


def question_of_request(state: BuildRequest, event_id: str, stream: StreamId, correlation: str) -> Question | None:
    """Return what a request asks its build; None before its references are resolved."""
    if state.environment is None:
        return None
    return Question(
        event_id,
        str(stream),
        stream.project,
        correlation,
        state.environment,
        state.target,
        refresh=state.refresh or state.purpose == "drift",
        insists=True,
        outlook=state.purpose == "drift",
    )
