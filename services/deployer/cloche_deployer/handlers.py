"""What the deployer does for commands, and for answers that others give."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import TypeVar

from cloche_deployer.domain import (
    ServiceState,
    decide_delete,
    decide_deploy,
    decide_failed,
    decide_placed,
    decide_provided,
    decide_rekey,
    decide_resolved,
    decide_update,
    evolve,
)
from cloche_shared.contracts.envelope import Event
from cloche_shared.contracts.fact import Fact, fact_type, read_fact
from cloche_shared.contracts.facts import (
    ImageProvided,
    ImageRefused,
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
from cloche_shared.store.snapshots import check_snapshot
from cloche_shared.store.variables import check_variables

G = TypeVar("G", bound=Fact)

KIND = Kind("service", ServiceState, evolve)
_ASKING = (ServiceSubmitted, ServicePreparing, ReplicaRequested)
_CHAIN = frozenset(fact_type(fact) for fact in (ServiceSubmitted, RevisionProvided, ReplicaPlaced))
_PAGE = 500


@dataclass(frozen=True, slots=True)
class Deployment:
    """A command: bring a revision of a service up."""

    name: str
    spec: ServiceSpec
    references: References


class Handlers:
    """Commands and answers, each as one decision on one stream."""

    def __init__(self, streams: Streams[ServiceState], writer: Writer, blobs: BlobStore, max_snapshot: int) -> None:
        self.streams = streams
        self._writer = writer
        self._blobs = blobs
        self._max_snapshot = max_snapshot

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
        await self._answered(event, ImageProvided, ImageRefused, decide_provided)

    async def placed(self, event: Event) -> None:
        """Take the runner's answer: GPUs, or none."""
        await self._answered(event, ReplicaAllocated, ReplicaRefused, decide_placed)

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
