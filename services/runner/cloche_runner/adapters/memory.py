"""Files of a node in memory, for simulations: prefixes, working folders, attempts."""

from collections.abc import Sequence
from pathlib import Path

import orjson

from cloche_runner.ports import AttemptPaths
from cloche_shared.contracts.definition import Lock
from cloche_shared.contracts.files import FileEntry, Manifest
from cloche_shared.ports.blobs import Blobs
from cloche_shared.ports.node_files import Budget, PartlyCollectedError, Prefix

_ROOT = Path("/memory")


class MemoryDisk:
    """What outlives the services of a node: prefixes, working folders and attempts' journals."""

    def __init__(self) -> None:
        self.prefixes: set[str] = set()
        self.work: dict[str, dict[str, bytes]] = {}
        self.journals: dict[str, bytearray] = {}
        self.uploaded: dict[str, dict[str, bytes]] = {}

    def write(self, work_id: str, path: str, data: bytes) -> None:
        """Write a file into a working folder, as a script does."""
        self.work.setdefault(work_id, {})[path] = data

    def log(self, attempt_id: str, **line: object) -> None:
        """Append a line to an attempt's journal, as the runtime does."""
        self.journals.setdefault(attempt_id, bytearray()).extend(orjson.dumps(line) + b"\n")

    def upload(self, attempt_id: str, name: str, data: bytes) -> None:
        """Upload a file, as the runtime does."""
        self.uploaded.setdefault(attempt_id, {})[name] = data


class MemoryNodeFiles:
    """NodeFiles over a disk in memory."""

    def __init__(self, disk: MemoryDisk) -> None:
        self._disk = disk

    async def prefix(self, lock_digest: str, lock: Lock, artefacts: Blobs) -> Prefix:
        for artefact in lock.artefacts:
            await artefacts.read_bytes(artefact.digest)
        reused = lock_digest in self._disk.prefixes
        self._disk.prefixes.add(lock_digest)
        path = _ROOT / "prefixes" / lock_digest.removeprefix("sha256:")
        return Prefix(path, path / "bin" / "python", reused=reused)

    async def checkout(self, work_id: str, snapshot: Manifest, blobs: Blobs) -> Path:
        self._disk.work[work_id] = {entry.path: await blobs.read_bytes(entry.digest) for entry in snapshot.files}
        return _ROOT / "work" / work_id

    async def folder(self, work_id: str) -> Path | None:
        return _ROOT / "work" / work_id if work_id in self._disk.work else None

    async def collect(
        self, work_id: str, folders: Sequence[str], blobs: Blobs, budget: Budget | None = None
    ) -> Manifest:
        found = sorted(self._disk.work.get(work_id, {}).items())
        chosen = [(path, data) for path, data in found if path.split("/")[0] in folders and "/" in path]
        return Manifest(files=tuple(await _entries(chosen, blobs, budget)))

    async def discard(self, work_id: str) -> None:
        self._disk.work.pop(work_id, None)


class MemoryAttemptFiles:
    """AttemptFiles over a disk in memory."""

    def __init__(self, disk: MemoryDisk) -> None:
        self._disk = disk

    async def prepare(self, attempt_id: str) -> AttemptPaths:
        self._disk.journals.setdefault(attempt_id, bytearray())
        folder = _ROOT / "attempts" / attempt_id
        return AttemptPaths(folder / "journal.jsonl", folder / "uploads", folder / "home", folder / "tmp")

    async def journal(self, attempt_id: str, offset: int, limit: int) -> bytes:
        return bytes(self._disk.journals.get(attempt_id, b"")[offset : offset + limit])

    async def uploads(self, attempt_id: str, blobs: Blobs, budget: Budget | None = None) -> list[FileEntry]:
        return await _entries(sorted(self._disk.uploaded.get(attempt_id, {}).items()), blobs, budget)

    async def discard(self, attempt_id: str) -> None:
        self._disk.journals.pop(attempt_id, None)
        self._disk.uploaded.pop(attempt_id, None)

    async def present(self) -> list[str]:
        return sorted(self._disk.journals)


async def _entries(found: Sequence[tuple[str, bytes]], blobs: Blobs, budget: Budget | None) -> list[FileEntry]:
    fitting = [(path, data) for path, data in found if budget is None or budget.take(len(data))]
    entries = [await _entry(path, data, blobs) for path, data in fitting]
    if budget is not None and len(fitting) < len(found):
        left = [budget.fault(path, len(data)) for path, data in found if (path, data) not in fitting]
        raise PartlyCollectedError(left, entries, limit=budget.limit)
    return entries


async def _entry(path: str, data: bytes, blobs: Blobs) -> FileEntry:
    blob = await blobs.put_bytes(data)
    return FileEntry(path=path, digest=blob.digest, size=blob.size)
