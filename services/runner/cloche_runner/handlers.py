"""What is done with runs and nodes: load, decide, record, and tell the board."""

import difflib
import hashlib
import uuid
from collections import OrderedDict
from collections.abc import Awaitable, Callable, Collection, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from typing import TypeVar

from pydantic import ValidationError

from cloche_runner.board import Board
from cloche_runner.domain import nodes as node_rules
from cloche_runner.domain import run_decisions as decisions
from cloche_runner.domain import runs as run_rules
from cloche_runner.domain.nodes import NODE_PROJECT, Claimant, Node, Tenancy
from cloche_runner.domain.runs import Run
from cloche_runner.settings import RunnerSettings
from cloche_shared.contracts.facts import ImageProvided, ReferencesResolved, ReplicaEnded, ReplicaRequested
from cloche_shared.contracts.files import Manifest
from cloche_shared.contracts.references import Problem, References
from cloche_shared.contracts.runs import RunSpec
from cloche_shared.errors import Conflict, Invalid, NotFound, TooLarge, Unavailable, Violation, is_disk_full
from cloche_shared.journal.commit import Actor, Origin, StreamId
from cloche_shared.journal.streams import Changed, Decision, Kind, Streams
from cloche_shared.journal.writer import Writer
from cloche_shared.ports.blobs import Blobs, BlobStore
from cloche_shared.ports.platform import Clock, Random
from cloche_shared.ports.reserve import NoReserve, Reserve
from cloche_shared.store.paths import check_manifest, check_path, check_sizes
from cloche_shared.store.variables import check_variables

SERVICE = "runner"
T = TypeVar("T")
KNOWN_SNAPSHOTS = 256
KNOWN_MANIFESTS, SMALL_MANIFEST = 256, 1_000
"""Manifests that are kept in memory, and the files of the largest of them."""
MANIFEST_LIMIT = 64 * 1024 * 1024


def run_kind() -> Kind[Run]:
    """Return how runs are kept."""
    return Kind("run", Run, run_rules.evolve, chain=lambda run: run.chain)


def node_kind() -> Kind[Node]:
    """Return how nodes are kept."""
    return Kind("node", Node, node_rules.evolve)


def service_origin(correlation: str = "", cause: str = "") -> Origin:
    """Return the origin of what the runner does by itself; within a chain each step follows the one before."""
    return Origin(Actor(f"service:{SERVICE}"), correlation or "runner", cause=cause, follows=bool(correlation))


@dataclass(frozen=True, slots=True)
class Core:
    """What all parts of the runner share. `board_is_truth`: no other process writes to the journal."""

    runs: Streams[Run]
    nodes: Streams[Node]
    writer: Writer
    board: Board
    blobs: BlobStore
    clock: Clock
    random: Random
    settings: RunnerSettings
    board_is_truth: bool = False
    reserve: Reserve = field(default_factory=NoReserve)
    manifests: OrderedDict[tuple[str, str], Manifest] = field(default_factory=OrderedDict)

    @property
    def tenancy(self) -> Tenancy:
        """Whose code this node runs; where no other process is there, everything is one user's."""
        settings = self.settings
        return Tenancy(shared=self.board_is_truth or settings.shared, project=settings.project)

    def space(self, project: str) -> Blobs:
        """Return the runner's blobs of a project."""
        return self.blobs.space(SERVICE, project)

    async def manifest(self, project: str, digest: str) -> Manifest:
        """Return a snapshot's manifest, read once for many runs of the same code. Raises as `read_manifest`."""
        known = self.manifests.get((project, digest))
        if known is None:
            known = await read_manifest(self.space(project), digest)
        if len(known.files) <= SMALL_MANIFEST:
            self.manifests[project, digest] = known
            self.manifests.move_to_end((project, digest))
            if len(self.manifests) > KNOWN_MANIFESTS:
                self.manifests.popitem(last=False)
        return known

    def after(self, seconds: float) -> str:
        """Return the time in some seconds, for a record."""
        moment = self.clock.now().astimezone(UTC) + timedelta(seconds=seconds)
        return _rfc3339(moment)

    async def change_run(
        self, stream: StreamId, origin: Origin, decide: Callable[[Run], Decision], **options: object
    ) -> Changed[Run]:
        """Change a run and put it on the board."""
        changed = await self.runs.change(stream, origin, decide, **options)  # type: ignore[arg-type]
        self.board.saw_run(stream, changed.state, changed.seq)
        return changed

    async def surely(self, work: Callable[[], Awaitable[T]]) -> T:
        """Record what must not wait for room on a full disk, in the room that is kept for that. Raises as `work`."""
        gave_up = False
        try:
            while True:
                try:
                    return await work()
                except Unavailable as error:
                    if not is_disk_full(error) or not self.reserve.give_up():
                        raise
                    gave_up = True
        finally:
            if gave_up:
                self.reserve.take_back()

    async def change_node(self, name: str, origin: Origin, decide: Callable[[Node], Decision]) -> Changed[Node]:
        """Change a node and put it on the board."""
        stream = self.nodes.id(NODE_PROJECT, name)
        changed = await self.nodes.change(stream, origin, decide)
        self.board.saw_node(stream, changed.state, changed.seq)
        return changed

    async def see(self, stream: StreamId, at_least: int = 0) -> None:
        """Put an aggregate on the board as it is now."""
        if stream.kind == "run":
            run = await self.runs.get(stream, at_least=at_least)
            self.board.saw_run(stream, run.state, run.seq)
        elif stream.kind == "node":
            node = await self.nodes.get(stream, at_least=at_least)
            self.board.saw_node(stream, node.state, node.seq)

    async def see_nodes(self) -> None:
        """Put every node on the board, each found by one key, whatever its history."""
        documents = await self.writer.journal.read("node/", limit=1)
        while documents:
            stream = StreamId.parse(documents[0].key)
            await self.see(stream)
            documents = await self.writer.journal.read("node/", after=f"{stream}/~", limit=1)

    async def release(self, node: str, holders: Sequence[str]) -> None:
        """Free what these holders have on a node; they are proven to have ended."""
        await self.surely(
            lambda: self.change_node(node, service_origin(), lambda state: node_rules.decide_release(state, holders))
        )


def _rfc3339(moment: datetime) -> str:
    return moment.isoformat(timespec="microseconds").replace("+00:00", "Z")


# --- commands


@dataclass(frozen=True, slots=True)
class Submission:
    """Who submits, and under which request id (empty: nobody will ask again).

    `joins`: a new run belongs to the chain of its origin, instead of beginning one.
    """

    origin: Origin
    fingerprint: str = ""
    joins: bool = False


class Commands:
    """What callers ask for."""

    def __init__(self, core: Core) -> None:
        self._core = core
        self._snapshots: OrderedDict[tuple[str, str], frozenset[str]] = OrderedDict()

    async def submit(self, project: str, spec: RunSpec, references: References, submission: Submission) -> Changed[Run]:
        """Accept a run.

        Raises `Invalid` (`invalid_argument`, `invalid_variable`, `reserved_variable`, `unsafe_path`,
        `snapshot_incomplete`, `script_not_found`), `TooLarge` (`snapshot_too_large`), `Forbidden`
        (`isolation_required`).
        """
        check_variables(spec.variables)
        check_path(spec.script, pointer="/script")
        _check_arguments(spec.arguments)
        await self._check_snapshot(project, spec)
        core = self._core
        asked = submission.origin.request_id
        run_id = _id_of(project, asked) if asked else core.random.uuid7()
        chain = submission.origin.correlation if submission.joins else ""
        origin = replace(submission.origin, correlation=chain or run_id)
        stream = core.runs.id(project, run_id)
        accepted = decisions.Accepted(run_id, core.writer.now(), origin.actor.subject, chain)
        nodes = await self._nodes_for(project)

        def decide(run: Run) -> Decision:
            node_rules.decide_admit(nodes, project)
            return decisions.decide_submit(run, spec, references, accepted)

        return await core.change_run(
            stream,
            origin,
            decide,
            fingerprint=submission.fingerprint,
            new=not asked,
        )

    async def _nodes_for(self, project: str) -> Collection[Node]:
        """Return the nodes as they are known here; those that are new are looked up before a project has none."""
        nodes = self._core.board.nodes
        if nodes and not any(node_rules.is_open_to(node, project) for node in nodes.values()):
            await self._core.see_nodes()
        return list(nodes.values())

    async def _check_snapshot(self, project: str, spec: RunSpec) -> None:
        key = (project, spec.snapshot)
        paths = self._snapshots.get(key)
        if paths is None:
            paths = await self._read_snapshot(project, spec.snapshot)
            self._snapshots[key] = paths
            if len(self._snapshots) > KNOWN_SNAPSHOTS:
                self._snapshots.popitem(last=False)
        self._snapshots.move_to_end(key)
        if spec.script not in paths:
            raise _script_not_found(spec.script, paths)

    async def _read_snapshot(self, project: str, digest: str) -> frozenset[str]:
        blobs = self._core.space(project)
        manifest = await read_manifest(blobs, digest)
        settings = self._core.settings
        try:
            check_manifest(manifest, max_files=settings.snapshot_files, max_bytes=settings.snapshot_bytes)
        except TooLarge as error:
            raise TooLarge("snapshot_too_large", error.what, why=error.why, todo=error.todo) from error
        missing = check_sizes(manifest, await blobs.sizes({entry.digest for entry in manifest.files}))
        if missing:
            raise _incomplete(f"{len(missing)} of its files are not here.", missing)
        return frozenset(entry.path for entry in manifest.files)

    async def cancel(
        self, project: str, run_id: str, submission: Submission, check: Callable[[int], None] | None = None
    ) -> Changed[Run]:
        """Ask for a run's end. Raises `NotFound` (`run_not_found`), and as `check` does of the number it is at."""
        core = self._core
        stream = core.runs.id(project, run_id)
        at = core.writer.now()

        def decide(run: Run) -> Decision:
            if not run.phase:
                raise decisions.run_not_found(run_id)
            decision = decisions.decide_cancel(run, at)
            return Decision(decision.facts, json={"id": run_id})

        # whoever ends a run frees what it fills
        return await core.surely(
            lambda: core.change_run(stream, submission.origin, decide, fingerprint=submission.fingerprint, check=check)
        )


def _check_arguments(arguments: Sequence[str]) -> None:
    """Refuse what no program can be given. Raises `Invalid` (code `invalid_argument`)."""
    found = [
        Violation(f"/arguments/{number}", "invalid_argument", "An argument holds a NUL.")
        for number, argument in enumerate(arguments)
        if "\0" in argument
    ]
    if found:
        raise Invalid("invalid_argument", "An argument cannot be passed to a program.", violations=found)


def _id_of(project: str, request_id: str) -> str:
    """Return the run id of a repeatable request, so that it makes one run however often it comes (UUID 8)."""
    raw = bytearray(hashlib.sha256(f"run\n{project}\n{request_id}".encode()).digest()[:16])
    raw[6] = 0x80 | (raw[6] & 0x0F)
    raw[8] = 0x80 | (raw[8] & 0x3F)
    return str(uuid.UUID(bytes=bytes(raw)))


async def read_manifest(blobs: Blobs, digest: str) -> Manifest:
    """Return a manifest. Raises `NotFound` (`snapshot_incomplete`) or `Invalid` (`invalid_manifest`)."""
    try:
        data = await blobs.read_bytes(digest, limit=MANIFEST_LIMIT)
    except NotFound as error:
        raise _incomplete("Its manifest is not here.", [digest]) from error
    try:
        return Manifest.model_validate_json(data)
    except ValidationError as error:
        raise Invalid(
            "invalid_manifest", "The snapshot's blob is not a manifest.", todo="Name the digest of a manifest."
        ) from error


def _incomplete(why: str, missing: Sequence[str]) -> Invalid:
    return Invalid(
        "snapshot_incomplete",
        "The snapshot is not complete.",
        why=why,
        todo="Send the missing blobs to /files/runs, then submit again.",
        violations=[Violation("/snapshot", "snapshot_incomplete", why)],
        extra={"missing": list(missing[:1000])},
    )


def _script_not_found(script: str, paths: frozenset[str]) -> Invalid:
    near = difflib.get_close_matches(script, sorted(paths), n=5, cutoff=0.4)
    near = near or sorted(path for path in paths if path.endswith(".py"))[:5]
    return Invalid(
        "script_not_found",
        f"The snapshot has no file {script!r}.",
        why=f"Near to it: {', '.join(near)}." if near else "It has no Python file at all.",
        todo="Name the script by its path inside the submitted folder.",
        violations=[Violation("/script", "script_not_found", "There is no such file in the snapshot.")],
        extra={"near": near},
    )


# --- answers of other services


class Answers:
    """What the other services' facts mean for runs and nodes. Every method is harmless when it comes again."""

    def __init__(self, core: Core) -> None:
        self._core = core

    async def _decide(self, stream: StreamId, origin: Origin, decide: Callable[[Run], Decision]) -> None:
        await self._core.change_run(stream, origin, decide)

    async def resolved(self, stream: StreamId, origin: Origin, answer: ReferencesResolved) -> None:
        """Take it that the registry knows what the run refers to."""
        await self._decide(stream, origin, lambda run: decisions.decide_preparing(run, answer))

    async def provided(self, stream: StreamId, origin: Origin, answer: ImageProvided) -> None:
        """Take it that the builder has the environment."""
        await self._decide(stream, origin, lambda run: decisions.decide_queued(run, answer))

    async def refused(self, stream: StreamId, origin: Origin, problem: Problem) -> None:
        """Fail the run: the registry or the builder cannot give what was asked."""
        at = self._core.writer.now()
        await self._decide(stream, origin, lambda run: decisions.decide_refused(run, problem, at))

    async def replica_requested(self, stream: StreamId, origin: Origin, fact: ReplicaRequested) -> None:
        """Answer a scoring replica that wants room, from the node that was looked at."""
        claimant = Claimant(replica_holder(stream, fact.revision, fact.replica), fact.resources, fact.within)
        nodes = {name: node for name, node in self._core.board.nodes.items() if node.is_here}
        if not nodes:
            raise Unavailable("no_node", "No node is there yet to answer for a replica.")
        chosen, changed = await self._answer_from(nodes, claimant, origin)
        said = await self._core.writer.answered(NODE_PROJECT, origin.request_id) if changed.facts else None
        if said is not None and getattr(said.answer, "node", "") != chosen:
            # another replica handled the same request, and its answer was the first
            await self._core.release(chosen, [claimant.holder])

    async def _answer_from(
        self, nodes: dict[str, Node], claimant: Claimant, origin: Origin
    ) -> tuple[str, Changed[Node]]:
        """Answer from the best of these nodes; one that another project was given meanwhile is passed over."""
        while True:
            chosen = node_rules.choose(nodes, claimant)
            is_last = len(nodes) == 1

            def decide(node: Node, name: str = chosen, *, must: bool = is_last) -> Decision:
                decision = node_rules.decide_replica(node, name, claimant)
                if not must and node_rules.is_isolated(decision):
                    raise Conflict("node_taken", "Another project was given the node meanwhile.")
                return decision

            try:
                return chosen, await self._core.change_node(chosen, origin, decide)
            except Conflict:
                del nodes[chosen]

    async def replica_ended(self, stream: StreamId, origin: Origin, fact: ReplicaEnded) -> None:
        """Free what a revision's replicas had: their workers are proven ended."""
        revision = f"{stream}#{fact.revision}"
        for name in list(self._core.board.nodes):
            await self._core.change_node(
                name, origin, lambda node: node_rules.decide_ended(node, revision, fact.replica)
            )


def replica_holder(stream: StreamId, revision: int, replica: int) -> str:
    """Return how a scoring replica is named in a node's stream."""
    return f"{stream}#{revision}.{replica}"
