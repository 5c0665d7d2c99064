"""Streams: the only way to change an aggregate.

Know the present, decide with a pure function, insert one document under `(stream, seq + 1)`. A
duplicate key means that somebody else was first: read on and decide again. The cached present may
be stale; that costs another round, never an invariant.
"""

import asyncio
from collections import OrderedDict
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field, replace
from typing import Generic, TypeVar

from pydantic import BaseModel

from cloche_shared.contracts.fact import Fact, read_fact
from cloche_shared.contracts.facts import TOPICS
from cloche_shared.errors import Unavailable
from cloche_shared.journal.answers import Outcome, answer_document
from cloche_shared.journal.commit import Commit, Origin, StreamId, Written, written
from cloche_shared.journal.snapshots import SNAPSHOT_EVERY, latest_snapshot, snapshot_document
from cloche_shared.journal.writer import Writer
from cloche_shared.ports.journal import Document, Verdict

S = TypeVar("S", bound=BaseModel)

CACHED_STREAMS = 20_000
PAGE = SNAPSHOT_EVERY


@dataclass(frozen=True, slots=True)
class Kind(Generic[S]):
    """A kind of aggregate: its name in keys, its state's class, and how facts change the state.

    `chain` returns the correlation of whoever asked for the aggregate, as far as the state knows it: what a
    service goes on with by itself belongs to that chain.
    """

    name: str
    state: type[S]
    evolve: Callable[[S, Fact], S]
    chain: Callable[[S], str] = lambda _state: ""


@dataclass(frozen=True, slots=True)
class Present(Generic[S]):
    """An aggregate as far as it is known: its state after document `seq` (0: it does not exist).

    `asked` maps the ids of requests, whose answers may not be written yet, to their outcomes.
    """

    state: S
    seq: int
    asked: Mapping[str, Outcome] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Decision:
    """What a decision function returns: facts to record, and what to tell whoever asked."""

    facts: Sequence[Fact] = ()
    answer: Fact | None = None
    json: Mapping[str, object] | None = None


@dataclass(frozen=True, slots=True)
class Changed(Generic[S]):
    """What became of a change. `replayed` tells that the request had acted before; `facts` are empty then."""

    stream: StreamId
    state: S
    seq: int
    facts: Sequence[Fact] = ()
    outcome: Outcome | None = None
    replayed: bool = False


class Streams(Generic[S]):
    """All aggregates of one kind in one service.

    With `exclusive` no other process writes to the journal, so the cache is the truth and a decision
    that inserts nothing needs no look at the store.
    """

    def __init__(self, kind: Kind[S], writer: Writer, *, exclusive: bool = False) -> None:
        self.kind = kind
        self._writer = writer
        self._exclusive = exclusive
        self._cache: OrderedDict[StreamId, Present[S]] = OrderedDict()
        self._locks: dict[StreamId, tuple[asyncio.Lock, int]] = {}

    def id(self, project: str, name: str) -> StreamId:
        """Return the stream of an aggregate of this kind."""
        return StreamId(self.kind.name, project, name)

    async def get(self, stream: StreamId, *, at_least: int = 0) -> Present[S]:
        """Return the present as far as this process can know it, fresh from the store when it is shared.

        `at_least` is a position that the caller knows of, from an event: the bus may deliver a fact
        before the writer that recorded it goes on.
        """
        present = self._cache.get(stream)
        if present is not None and self._exclusive and present.seq >= at_least:
            self._cache.move_to_end(stream)
            return present
        present = present or await self._load(stream)
        if not self._exclusive or present.seq < at_least:
            present = await self._catch_up(stream, present)
        self._keep(stream, present)
        return present

    def peek(self, stream: StreamId) -> Present[S] | None:
        """Return what is cached, without a look at the store."""
        return self._cache.get(stream)

    async def change(
        self,
        stream: StreamId,
        origin: Origin,
        decide: Callable[[S], Decision],
        *,
        fingerprint: str = "",
        check: Callable[[int], None] | None = None,
        new: bool = False,
    ) -> Changed[S]:
        """Decide and record; the facts are durable, and on their way, when it returns.

        `decide` may run several times and raises a `ClocheError` to refuse. A request that has acted
        before is answered with its outcome. `check` gets the number of the document that is decided on and
        may raise (`If-Match`). `new` says that the stream most likely does not exist yet, which spares
        a read; then `decide` must record something where there is nothing. Raises `Conflict`
        (`idempotency_key_reused`) when the request's id was used with another fingerprint.
        """
        ask = _checked(decide, check)
        async with self._lock(stream):
            present: Present[S] | Changed[S] | None = self._cache.get(stream)
            if present is None:
                present = Present(self.kind.state(), 0) if new else await self._load(stream)
            try:
                while isinstance(present, Present):
                    present = await self._try(stream, origin, ask, fingerprint, present)
            except asyncio.CancelledError:
                # the insert may have reached the store: what is cached is not known to be the head
                self._cache.pop(stream, None)
                raise
            return present

    async def _try(
        self,
        stream: StreamId,
        origin: Origin,
        decide: Callable[[Present[S]], Decision],
        fingerprint: str,
        present: Present[S],
    ) -> Changed[S] | Present[S]:
        """Return what was done, or the newer present on which to decide again."""
        known = await self._known(stream, origin, present)
        if known is not None:
            known.check(fingerprint)
            present = await self._acted_on(stream, present)
            return Changed(stream, present.state, present.seq, outcome=known, replayed=True)
        try:
            decision = decide(present)
        except Exception:
            newer = await self._newer(stream, present)
            if newer is None:
                raise
            return newer
        outcome = Outcome(decision.answer, decision.json, fingerprint) if origin.request_id else None
        if not decision.facts:
            return await self._nothing_new(stream, origin, present, outcome)
        return await self._insert(stream, origin, present, tuple(decision.facts), outcome)

    async def _acted_on(self, stream: StreamId, present: Present[S]) -> Present[S]:
        """Return what the store has of a stream that a request acted on, maybe in another process."""
        if not present.seq:
            present = await self._load(stream)
        elif not self._exclusive:
            return await self._catch_up(stream, present)
        self._keep(stream, present)
        return present

    async def _known(self, stream: StreamId, origin: Origin, present: Present[S]) -> Outcome | None:
        if not origin.request_id:
            return None
        return present.asked.get(origin.request_id) or await self._writer.answered(stream.project, origin.request_id)

    async def _newer(self, stream: StreamId, present: Present[S]) -> Present[S] | None:
        if self._exclusive:
            return None
        newer = await self._catch_up(stream, present)
        return newer if newer.seq > present.seq else None

    async def _nothing_new(
        self, stream: StreamId, origin: Origin, present: Present[S], outcome: Outcome | None
    ) -> Changed[S] | Present[S]:
        newer = await self._newer(stream, present)
        if newer is not None:
            return newer
        self._keep(stream, present)
        if outcome is not None:
            said = await self._writer.answer(stream.project, origin, outcome)
            return Changed(stream, present.state, present.seq, outcome=said, replayed=said is not outcome)
        return Changed(stream, present.state, present.seq)

    async def _insert(
        self, stream: StreamId, origin: Origin, present: Present[S], facts: tuple[Fact, ...], outcome: Outcome | None
    ) -> Changed[S] | Present[S]:
        seq = present.seq + 1
        origin = origin.behind(stream, present.seq)
        if origin.follows and (chain := self.kind.chain(present.state)):
            origin = replace(origin, correlation=chain)
        commit = Commit(
            self._writer.unique(), facts, origin, self._writer.now(), outcome.to_json() if outcome is not None else None
        )
        topic = TOPICS.get(self.kind.name, "")
        effect = Document(stream.key(seq), commit.body(), topic, str(stream))
        answer = answer_document(written(effect)) if outcome is not None else None
        verdicts = await self._writer.append([effect] if answer is None else [effect, answer])
        if verdicts[0] is not Verdict.INSERTED:
            return await self._catch_up(stream, present if present.seq else await self._load(stream))
        state = present.state
        for fact in facts:
            state = self.kind.evolve(state, fact)
        asked = present.asked
        if outcome is not None and not self._writer.atomic:
            asked = {**asked, origin.request_id: outcome}
        now = Present(state, seq, asked)
        self._keep(stream, now)
        await self._snapshot(stream, now)
        return Changed(stream, state, seq, facts, outcome)

    async def _snapshot(self, stream: StreamId, present: Present[S]) -> None:
        """Keep a snapshot where one is due; the change is durable whether or not that works."""
        if present.seq % SNAPSHOT_EVERY == 0:
            with suppress(Unavailable):
                await self._writer.append([snapshot_document(stream, present.seq, present.state, present.asked)])

    async def _load(self, stream: StreamId) -> Present[S]:
        present = Present(self.kind.state(), 0)
        documents = await self._writer.journal.read(f"{stream}/", limit=PAGE)
        if len(documents) == PAGE:
            snapshot = await latest_snapshot(self._writer.journal, stream, self.kind.state)
            if snapshot is not None:
                present = Present(snapshot.state, snapshot.seq, snapshot.asked)
                documents = await self._writer.journal.read(f"{stream}/", after=stream.key(present.seq), limit=PAGE)
        while documents:
            for document in documents:
                present = self._apply(present, written(document), sent=document.sent)
            if len(documents) < PAGE:
                break
            await self._snapshot(stream, present)
            documents = await self._writer.journal.read(f"{stream}/", after=stream.key(present.seq), limit=PAGE)
        return present

    async def _catch_up(self, stream: StreamId, present: Present[S]) -> Present[S]:
        """Read on by key: quick on every server, right however stale the present is."""
        while (document := await self._writer.journal.get(stream.key(present.seq + 1))) is not None:
            present = self._apply(present, written(document), sent=document.sent)
        self._keep(stream, present)
        return present

    def _apply(self, present: Present[S], commit: Written, *, sent: bool) -> Present[S]:
        state = present.state
        for type_name, data in commit.facts:
            fact = read_fact(type_name, data)
            if fact is not None:
                state = self.kind.evolve(state, fact)
        asked = present.asked
        if commit.request_id and commit.outcome is not None and not sent and not self._writer.atomic:
            asked = {**asked, commit.request_id: Outcome.from_json(commit.outcome)}
        return Present(state, commit.seq, asked)

    def forget_asked(self, stream: StreamId, request_id: str) -> None:
        """Drop a request id once its answer is known to be written (the relay tells)."""
        present = self._cache.get(stream)
        if present is not None and request_id in present.asked:
            left = {known: outcome for known, outcome in present.asked.items() if known != request_id}
            self._cache[stream] = replace(present, asked=left)

    def _keep(self, stream: StreamId, present: Present[S]) -> None:
        known = self._cache.get(stream)
        if known is None or known.seq <= present.seq:
            self._cache[stream] = present
        self._cache.move_to_end(stream)
        if len(self._cache) > CACHED_STREAMS:
            self._cache.popitem(last=False)

    @asynccontextmanager
    async def _lock(self, stream: StreamId) -> AsyncIterator[None]:
        lock, users = self._locks.get(stream, (None, 0))
        lock = lock or asyncio.Lock()
        self._locks[stream] = (lock, users + 1)
        try:
            async with lock:
                yield
        finally:
            lock, users = self._locks[stream]
            if users == 1:
                del self._locks[stream]
            else:
                self._locks[stream] = (lock, users - 1)


def _checked(decide: Callable[[S], Decision], check: Callable[[int], None] | None) -> Callable[[Present[S]], Decision]:
    def ask(present: Present[S]) -> Decision:
        if check is not None:
            check(present.seq)
        return decide(present.state)

    return ask
