"""`MemoryNodeFiles`: a node without a disk, for the simulation.

Prefixes are remembered by lock digest; working folders are dictionaries of paths to bytes. `files`
is what a simulated run reads and writes.
"""

from collections.abc import Sequence
from pathlib import Path, PurePosixPath

from cloche_shared.contracts.definition import Artefact, Lock
from cloche_shared.contracts.files import FileEntry, Manifest
from cloche_shared.errors import Failed, NotFound
from cloche_shared.ports.blobs import Blobs
from cloche_shared.ports.node_files import Budget, PartlyCollectedError, Prefix
from cloche_shared.store.paths import check_manifest, check_path

ROOT = PurePosixPath("/memory")


class MemoryNodeFiles:
    """One simulated node's folder."""

    def __init__(self, *, pythons: Sequence[str] = ("3.11.7",)) -> None:
        self._pythons = tuple(pythons)
        self._prefixes: dict[str, tuple[str, ...]] = {}
        self._stored: set[str] = set()
        self.files: dict[str, dict[str, bytes]] = {}
        self.executables: dict[str, set[str]] = {}

    async def close(self) -> None:
        """Give nothing back: there is nothing."""

    async def warm(self, python: str, artefact: Artefact, blobs: Blobs) -> None:
        """Take one wheel into the store ahead of its prefix."""
        self._check_python(python)
        await self._ensure(artefact, blobs)

    async def prefix(self, lock_digest: str, lock: Lock, artefacts: Blobs) -> Prefix:
        self._check_python(lock.python)
        path = Path(ROOT / "prefixes" / lock_digest.removeprefix("sha256:"))
        reused = lock_digest in self._prefixes
        if not reused:
            for artefact in lock.artefacts:
                await self._ensure(artefact, artefacts)
            self._prefixes[lock_digest] = tuple(artefact.digest for artefact in lock.artefacts)
        return Prefix(path, path / "bin" / "python", reused=reused)

    def touch(self, digest: str) -> None:
        """Change an artefact's bytes, as user code could: it and every prefix with it are condemned."""
        self._stored.discard(digest)
        self._prefixes = {lock: digests for lock, digests in self._prefixes.items() if digest not in digests}

    def _check_python(self, version: str) -> None:
        minor = ".".join(version.split(".")[:2])
        if not any(here == version or here.startswith(minor + ".") for here in self._pythons):
            raise Failed(
                "python_not_available",
                f"Python {version} is not on this machine.",
                why=f"Here are: {', '.join(self._pythons)}.",
                extra={"python": version, "available": list(self._pythons)},
            )

    async def _ensure(self, artefact: Artefact, blobs: Blobs) -> None:
        if artefact.digest in self._stored:
            return
        if await blobs.missing([artefact.digest]):
            raise Failed(
                "blob_not_found",
                f"The file of {artefact.name} {artefact.version} is not in the store of artefacts.",
                todo="Build the environment again.",
                extra={"package": artefact.name},
            )
        self._stored.add(artefact.digest)

    async def checkout(self, work_id: str, snapshot: Manifest, blobs: Blobs) -> Path:
        check_manifest(snapshot)
        files = {}
        for entry in snapshot.files:
            try:
                files[entry.path] = await blobs.read_bytes(entry.digest, limit=entry.size)
            except NotFound as error:
                raise Failed(error.code, "A file of the snapshot is missing.", todo="Submit it again.") from error
        self.files[work_id] = files
        self.executables[work_id] = {entry.path for entry in snapshot.files if entry.executable}
        return Path(ROOT / "work" / work_id)

    async def folder(self, work_id: str) -> Path | None:
        return Path(ROOT / "work" / work_id) if work_id in self.files else None

    async def collect(
        self, work_id: str, folders: Sequence[str], blobs: Blobs, budget: Budget | None = None
    ) -> Manifest:
        starts = tuple(check_path(folder, pointer="/folders") + "/" for folder in folders)
        entries, faults = [], []
        for path, data in sorted(self.files.get(work_id, {}).items()):
            if path.startswith(starts):
                if budget is not None and not budget.take(len(data)):
                    faults.append(budget.fault(path, len(data)))
                    continue
                blob = await blobs.put_bytes(data)
                executable = path in self.executables.get(work_id, ())
                entries.append(FileEntry(path=path, digest=blob.digest, size=blob.size, executable=executable))
        if budget is not None and faults:
            raise PartlyCollectedError(faults, entries, limit=budget.limit)
        return Manifest(files=tuple(entries))

    async def discard(self, work_id: str) -> None:
        self.files.pop(work_id, None)
        self.executables.pop(work_id, None)
