"""Scoring workers on this node: prefix, code and models from blobs, processes under supervisors."""

import asyncio
import hashlib
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from cloche_deployer.domain import Revision
from cloche_deployer.scoring.ports import WorkerEnd
from cloche_shared.contracts.definition import Lock
from cloche_shared.contracts.files import FileEntry, Manifest
from cloche_shared.errors import Conflict
from cloche_shared.journal.commit import StreamId
from cloche_shared.ports.blobs import Blobs, BlobStore
from cloche_shared.ports.executor import Executor, Exit, Limits, Process, ProcessSpec
from cloche_shared.ports.node_files import NodeFiles
from cloche_shared.ports.platform import Random

OWNER = "deployer"
BASE_ENV = {"PATH": "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin", "LANG": "C.UTF-8"}
"""What every worker's environment begins with."""
ENDED_WITHIN = 0.05
"""Seconds in which an ended process tells so."""
LOG_SHOWN = 4000
_Ended = Callable[[Process], Awaitable[str]]
LOG_KEPT = 256 * 1024
LOCK_BYTES = 16 * 1024 * 1024
MODELS = "azureml-models"


@dataclass(frozen=True, slots=True)
class NodeParts:
    """What a node is made of. `runtime` holds `cloche_runtime`; `sockets` is a short, private folder."""

    executor: Executor
    files: NodeFiles
    blobs: BlobStore
    random: Random
    runtime: Path
    sockets: Path
    base_env: dict[str, str]
    orphan_after: float


def prefix_of(service: StreamId, incarnation: int, revision: int) -> str:
    """Return how the ids of a revision's processes begin; a user's text goes in as a digest only."""
    text = f"{service.project}/{service.id}/{incarnation}"
    return f"svc-{hashlib.sha256(text.encode()).hexdigest()[:16]}-r{revision}-"


class NodeStage:
    """Fulfils `Stage` with executor, files and blobs of this node."""

    def __init__(self, parts: NodeParts) -> None:
        self._parts = parts
        self._left: list[Process] = []

    async def sweep(self, keep: set[tuple[StreamId, int, int]]) -> None:
        prefixes = tuple(prefix_of(*one) for one in keep)
        for process in await self._parts.executor.adopt(OWNER):
            if process.id.startswith(prefixes) and not await _ended(process):
                self._left.append(process)
            else:
                await process.cancel(grace=0.0)
                await process.wait()
                await self._parts.executor.forget(process.id)

    async def end(self, service: StreamId, incarnation: int, revision: int) -> None:
        name = prefix_of(service, incarnation, revision)
        gone = [process for process in self._left if process.id.startswith(name)]
        self._left = [process for process in self._left if process not in gone]
        for process in gone:
            await process.cancel(grace=0.0)
            await process.wait()
            await self._parts.executor.forget(process.id)

    async def prepare(self, service: StreamId, incarnation: int, revision: Revision) -> "NodeWorkers":
        parts = self._parts
        space = parts.blobs.space("builder", revision.scope)
        lock = Lock.model_validate_json(await space.read_bytes(revision.lock_digest, limit=LOCK_BYTES))
        prefix = await parts.files.prefix(revision.lock_digest, lock, space)
        name = prefix_of(service, incarnation, revision.number)
        adopted = [process for process in self._left if process.id.startswith(name)]
        folders = _Folders(parts.files, kept=bool(adopted))
        space = parts.blobs.space("deployer", service.project)
        code = await folders.made(f"{name}code", space, lambda: _tree(space, revision.spec.snapshot))
        model_dir = await self._models(folders, f"{name}models", service, revision)
        home = await folders.made(f"{name}home", space, _no_files)
        scratch = await folders.made(f"{name}tmp", space, _no_files)
        env = {
            **parts.base_env,
            "HOME": str(home),
            "TMPDIR": str(scratch),
            **(revision.environment.definition.variables if revision.environment else {}),
            **revision.spec.variables,
            "PATH": f"{prefix.python.parent}:{parts.base_env.get('PATH', '')}",
            "AML_APP_ROOT": str(code),
            "AZUREML_ENTRY_SCRIPT": revision.spec.entry_script,
            "AZUREML_MODEL_DIR": model_dir,
            "CLOCHE_SCORING_ORPHAN_SECONDS": str(parts.orphan_after),
            "SERVICE_NAME": service.id,
            "SERVICE_VERSION": str(revision.number),
            "CUDA_VISIBLE_DEVICES": ",".join(revision.gpus),
            "NVIDIA_VISIBLE_DEVICES": ",".join(revision.gpus) or "void",
        }
        worker = parts.runtime / "cloche_runtime" / "scoring_worker.py"
        spec = ProcessSpec(
            id=name,
            owner=OWNER,
            argv=[str(prefix.python), "-u", str(worker)],
            cwd=code,
            env=env,
            limits=Limits(memory=revision.spec.resources.memory or None, orphan_after=parts.orphan_after),
            writes=folders.paths,
        )
        self._left = [process for process in self._left if process not in adopted]
        return NodeWorkers(parts, spec, adopted, folders.names)

    async def _models(self, folders: "_Folders", work_id: str, service: StreamId, revision: Revision) -> str:
        """Lay the models out as Azure does: one model, its own folder; several, the folder above them."""
        if not revision.models:
            return ""
        space = self._parts.blobs.space("registry", service.project)
        root = await folders.made(work_id, space, lambda: _models_tree(space, revision)) / MODELS
        only = revision.models[0]
        return str(root / only.name / only.version if len(revision.models) == 1 else root)


class _Folders:
    """The working folders of one revision: made afresh, or `kept` as they are under workers that live in them."""

    def __init__(self, files: NodeFiles, *, kept: bool) -> None:
        self._files = files
        self._kept = kept
        self.names: list[str] = []
        self.paths: list[Path] = []

    async def made(self, work_id: str, space: Blobs, tree: Callable[[], Awaitable[Manifest]]) -> Path:
        self.names.append(work_id)
        here = await self._files.folder(work_id) if self._kept else None
        self.paths.append(here or await self._files.checkout(work_id, await tree(), space))
        return self.paths[-1]


async def _tree(space: Blobs, digest: str) -> Manifest:
    return Manifest.model_validate_json(await space.read_bytes(digest))


async def _models_tree(space: Blobs, revision: Revision) -> Manifest:
    entries: list[FileEntry] = []
    for model in revision.models:
        below = f"{MODELS}/{model.name}/{model.version}"
        files = (await _tree(space, model.manifest)).files
        entries += [entry.model_copy(update={"path": f"{below}/{entry.path}"}) for entry in files]
    return Manifest(files=tuple(sorted(entries, key=lambda entry: entry.path)))


async def _no_files() -> Manifest:
    return Manifest(files=())


class NodeWorkers:
    """The workers of one revision (fulfils `RevisionWorkers`)."""

    def __init__(self, parts: NodeParts, spec: ProcessSpec, adopted: list[Process], folders: list[str]) -> None:
        self._parts = parts
        self._spec = spec
        self._adopted = adopted
        self._folders = folders
        self._living: dict[str, NodeWorker] = {}
        self._log = b""

    async def adopt(self) -> Sequence["NodeWorker"]:
        workers = [self._worker(process) for process in self._adopted]
        self._adopted = []
        found = []
        for worker in workers:
            if await asyncio.to_thread(Path(worker.socket).is_socket):
                found.append(worker)
            else:
                # it listens where an owner with another temporary folder put it, if it listens at all
                await worker.stop(grace=0.0)
        return found

    async def start(self) -> "NodeWorker":
        worker_id = self._spec.id + self._parts.random.uuid7().replace("-", "")[-12:]
        env = {**self._spec.env, "CLOCHE_SCORING_SOCKET": self._socket(worker_id)}
        spec = ProcessSpec(
            id=worker_id,
            owner=self._spec.owner,
            argv=self._spec.argv,
            cwd=self._spec.cwd,
            env=env,
            limits=self._spec.limits,
            writes=self._spec.writes,
        )
        starting = asyncio.ensure_future(self._parts.executor.start(spec))
        try:
            return self._worker(await asyncio.shield(starting))
        except asyncio.CancelledError:
            await self._undo(starting)
            raise

    async def _undo(self, starting: "asyncio.Future[Process]") -> None:
        """End a process whose start was given up, so that none is left without an owner."""
        process = await starting
        await process.cancel(grace=0.0)
        await process.wait()
        await self._parts.executor.forget(process.id)

    def log(self) -> bytes:
        return self._log

    def note(self, sentence: str) -> None:
        line = f"cloche: {datetime.now(UTC).isoformat(timespec='seconds')} {sentence}\n"
        self._log = (self._log + line.encode(errors="replace"))[-LOG_KEPT:]

    async def tail(self) -> bytes:
        parts = [await _tail_of(worker.process, LOG_KEPT) for worker in tuple(self._living.values())]
        return b"".join(parts)

    async def follow(self) -> AsyncIterator[bytes]:
        if self._living:
            newest = list(self._living.values())[-1]
            async for chunk in newest.process.log():
                yield chunk.data

    async def clear(self) -> None:
        for folder in self._folders:
            await self._parts.files.discard(folder)

    def _worker(self, process: Process) -> "NodeWorker":
        worker = NodeWorker(process, self._socket(process.id), self._ended, self._spec.limits)
        self._living[process.id] = worker
        return worker

    def _socket(self, worker_id: str) -> str:
        return str(self._parts.sockets / hashlib.sha256(worker_id.encode()).hexdigest()[:24])

    async def _ended(self, process: Process) -> str:
        """Keep what an ended worker wrote, then forget it; returns the last lines."""
        if self._living.pop(process.id, None) is None:
            return self._log[-LOG_SHOWN:].decode(errors="replace")
        await asyncio.to_thread(Path(self._socket(process.id)).unlink, missing_ok=True)
        log = await _tail_of(process, LOG_KEPT)
        self._log = (self._log + log)[-LOG_KEPT:]
        try:
            await self._parts.executor.forget(process.id)
        except Conflict:
            return ""
        return log[-LOG_SHOWN:].decode(errors="replace")


class NodeWorker:
    """One worker (fulfils `WorkerProcess`)."""

    def __init__(self, process: Process, socket: str, ended: _Ended, limits: Limits) -> None:
        self.process = process
        self._limits = limits
        self._socket = socket
        self._on_end = ended

    @property
    def id(self) -> str:
        return self.process.id

    @property
    def socket(self) -> str:
        return self._socket

    async def ended(self) -> WorkerEnd:
        end = await self.process.wait()
        return WorkerEnd(_sentence(end, self._limits), await self._on_end(self.process))

    async def stop(self, *, grace: float) -> None:
        await self.process.cancel(grace=grace)
        await self.process.wait()
        await self._on_end(self.process)


async def _ended(process: Process) -> bool:
    """Tell whether an adopted process has ended already."""
    waiting = asyncio.ensure_future(process.wait())
    done, _ = await asyncio.wait({waiting}, timeout=ENDED_WITHIN)
    waiting.cancel()
    return bool(done)


def _sentence(end: Exit, limits: Limits) -> str:
    if end.ending == "exited":
        return f"it exited with code {end.code}"
    if end.ending == "signaled":
        return f"it was ended by signal {end.signal}"
    if end.ending == "out_of_memory":
        return f"it used more memory than the service may, {(limits.memory or 0) / 2**20:.0f} MiB (out of memory)"
    return end.detail or end.ending.replace("_", " ")


async def _tail_of(process: Process, size: int) -> bytes:
    """Return the last `size` bytes of a log, reading little more than those."""
    kept = b""
    async for chunk in process.log(await _near_end(process, size), follow=False):
        kept = (kept + chunk.data)[-size:]
    return kept


async def _near_end(process: Process, size: int) -> int:
    """Return an offset between `size` and twice `size` before the log's end, 0 for a short log.

    A living process's log has no known length, so the end is looked for by halves.
    """
    low, high = 0, size
    while await _holds(process, high):
        low, high = high, high * 2
    while high - low > size:
        middle = (low + high) // 2
        if await _holds(process, middle):
            low = middle
        else:
            high = middle
    return max(0, low - size)


async def _holds(process: Process, offset: int) -> bool:
    return await anext(process.log(offset, follow=False), None) is not None
