"""What the deployer does for commands, and for answers that others give."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from typing import TypeVar

from cloche_deployer.domain import (
    ServiceState,
    decide_delete,
    decide_deploy,
    decide_displaced,
    decide_failed,
    decide_placed,
    decide_provided,
    decide_rekey,
    decide_resolved,
    decide_update,
    evolve,
)
from cloche_deployer.views import LIVE, NODE_VIEW
from cloche_shared.contracts.envelope import Event
from cloche_shared.contracts.fact import Fact, fact_type, read_fact
from cloche_shared.contracts.facts import (
    ImageProvided,
    ImageRefused,
    NodeLost,
    ReferencesRefused,
    ReferencesResolved,
    ReplicaAllocated,
    ReplicaPlaced,
    ReplicaRefused,
    ReplicaRequested,
    RevisionProvided,
    ServicePreparing,
    ServiceSubmitted,
)
from cloche_shared.contracts.references import References
from cloche_shared.contracts.services import ServiceSpec
from cloche_shared.journal.commit import Actor, Origin, StreamId, written
from cloche_shared.journal.streams import Changed, Decision, Kind, Streams
from cloche_shared.journal.writer import Writer
from cloche_shared.ports.blobs import BlobStore
from cloche_shared.ports.views import Row, Views
from cloche_shared.store.snapshots import check_snapshot
from cloche_shared.store.variables import check_variables

G = TypeVar("G", bound=Fact)

KIND = Kind("service", ServiceState, evolve)
_ASKING = (ServiceSubmitted, ServicePreparing, ReplicaRequested)
_CHAIN = frozenset(fact_type(fact) for fact in (ServiceSubmitted, RevisionProvided, ReplicaPlaced))
_PAGE = 500
NODES_SEEN = "nodes-seen"
_EVERY = "*"
_HERE, _LOST = "here", "lost"


@dataclass(frozen=True, slots=True)
class Deployment:
    """A command: bring a revision of a service up."""

    name: str
    spec: ServiceSpec
    references: References


@dataclass(frozen=True, slots=True)
class Stores:
    """Where a deployer's journal, lists and blobs are."""

    writer: Writer
    views: Views
    blobs: BlobStore


class Handlers:
    """Commands and answers, each as one decision on one stream.

    `many` tells that several nodes may take services, so that each revision asks the runner for its place.
    """

    def __init__(
        self, streams: Streams[ServiceState], stores: Stores, max_snapshot: int, *, many: bool = False
    ) -> None:
        self.streams = streams
        self._writer = stores.writer
        self._views = stores.views
        self._blobs = stores.blobs
        self._max_snapshot = max_snapshot
        self._many = many

    async def deploy(
        self,
        project: str,
        command: Deployment,
        origin: Origin,
        *,
        update: bool,
        fingerprint: str = "",
        check: Callable[[int], None] | None = None,
    ) -> Changed[ServiceState]:
        """Take a new name, or ask for a new revision of a service."""
        await self._check(project, command.spec)
        decide = decide_update if update else decide_deploy
        return await self.streams.change(
            self.streams.id(project, command.name),
            origin,
            lambda state: decide(state, command.spec, command.references),
            fingerprint=fingerprint,
            check=check,
        )

    async def rekey(self, stream: StreamId, which: str, origin: Origin, fingerprint: str = "") -> Changed[ServiceState]:
        """Replace one of the keys."""
        return await self.streams.change(
            stream, origin, lambda state: decide_rekey(state, which), fingerprint=fingerprint
        )

    async def delete(
        self, stream: StreamId, origin: Origin, fingerprint: str = "", check: Callable[[int], None] | None = None
    ) -> Changed[ServiceState]:
        """Give up the name; the driver ends the workers."""
        return await self.streams.change(stream, origin, decide_delete, fingerprint=fingerprint, check=check)

    async def _check(self, project: str, spec: ServiceSpec) -> None:
        check_variables(spec.variables)
        space = self._blobs.space("deployer", project)
        await check_snapshot(space, spec.snapshot, spec.entry_script, "services", self._max_snapshot)

    # --- answers of the others

    async def resolved(self, event: Event) -> None:
        """Take the registry's answer: resolved, or refused."""
        await self._answered(event, ReferencesResolved, ReferencesRefused, decide_resolved)

    async def provided(self, event: Event) -> None:
        """Take the builder's answer: provided, or refused."""
        await self._answered(event, ImageProvided, ImageRefused, partial(decide_provided, many=self._many))

    async def placed(self, event: Event) -> None:
        """Take the runner's answer: a node and GPUs, or none."""
        await self._answered(event, ReplicaAllocated, ReplicaRefused, decide_placed)
        answer = read_fact(event.type, event.data)
        if isinstance(answer, ReplicaAllocated) and event.subject.startswith("service/"):
            seen = await self._views.get(NODES_SEEN, _EVERY, answer.node)
            if seen is not None and seen.facet == _LOST:
                await self._displace(StreamId.parse(event.subject), answer.node, event)

    async def node_seen(self, event: Event) -> None:
        """Remember whether a node is there; when it is lost, ask for other places for what lived on it.

        The row is written first: an answer that names this node and is handled later finds it.
        """
        node = StreamId.parse(event.subject).id
        lost = event.type == fact_type(NodeLost)
        facet = _LOST if lost else _HERE
        await self._views.upsert([Row(NODES_SEEN, _EVERY, node, event.sequence, node, b"{}", facet)])
        if lost:
            for stream in await living(self._views):
                await self._displace(stream, node, event)

    async def _displace(self, stream: StreamId, node: str, event: Event) -> None:
        state = (await self.streams.get(stream)).state
        if node in state.holding.values():
            origin = Origin.of_event(event, "deployer")
            await self.streams.change(stream, origin, lambda state: decide_displaced(state, node))

    async def _answered(
        self,
        event: Event,
        good: type[G],
        bad: type[ReferencesRefused] | type[ImageRefused] | type[ReplicaRefused],
        decide: Callable[[ServiceState, int, G], Decision],
    ) -> None:
        if not event.subject.startswith("service/"):
            return
        asked = await self._asked(event)
        answer = read_fact(event.type, event.data)
        if asked is None:
            return
        stream, revision = asked
        origin = Origin.of_event(event, "deployer")
        if isinstance(answer, good):
            await self.streams.change(stream, origin, lambda state: decide(state, revision, answer))
        elif isinstance(answer, bad):
            await self.streams.change(stream, origin, lambda state: decide_failed(state, revision, answer.problem))

    async def origin_of(self, stream: StreamId, revision: int) -> Origin:
        """Return the origin of what is done for a revision: it goes on with the chain that asked for it."""
        origin, after = Origin(Actor("service:deployer"), correlation=f"{stream}#{revision}"), ""
        while documents := await self._writer.journal.read(f"{stream}/", after=after, limit=_PAGE):
            for document in documents:
                after = document.key
                commit = written(document)
                for index, (type_name, data) in enumerate(commit.facts):
                    if type_name in _CHAIN and data.get("revision") == revision:
                        cause = f"{document.key}#{index}"
                        origin = replace(
                            origin, correlation=commit.correlation, cause=cause, traceparent=commit.traceparent
                        )
            if len(documents) < _PAGE:
                break
        return origin

    async def _asked(self, event: Event) -> tuple[StreamId, int] | None:
        """Return the stream and the revision of the question that an answer names."""
        key, _, index = event.causation.rpartition("#")
        document = await self._writer.journal.get(key) if key else None
        if document is None:
            return None
        commit = written(document)
        type_name, data = commit.facts[int(index)]
        question = read_fact(type_name, data)
        return (commit.stream, question.revision) if isinstance(question, _ASKING) else None


async def living(views: Views) -> list[StreamId]:
    """Return every service that exists or still holds a place, of all projects."""
    found: list[StreamId] = []
    after: tuple[str, str] | None = None
    while True:
        rows = await views.page(NODE_VIEW, _EVERY, facet=LIVE, after=after, limit=_PAGE)
        found.extend(StreamId.parse(f"service/{row.key}") for row in rows)
        if len(rows) < _PAGE:
            return found
        after = (rows[-1].sort, rows[-1].key)
