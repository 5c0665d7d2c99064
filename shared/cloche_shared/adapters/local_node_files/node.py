"""`LocalNodeFiles`: the port NodeFiles on this machine's disk."""

import asyncio
import ctypes
import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TypeVar

from cloche_shared.adapters.conda.process import CondaWorkers
from cloche_shared.adapters.interpreters import Interpreter, Interpreters
from cloche_shared.adapters.leftovers import Tidied, unused
from cloche_shared.adapters.local_node_files.conda import CondaStore, conda_key, is_conda, own_python
from cloche_shared.adapters.local_node_files.folders import Folders
from cloche_shared.adapters.local_node_files.locks import Locks
from cloche_shared.adapters.local_node_files.pool import WorkerPool
from cloche_shared.adapters.local_node_files.prefix import (
    MANIFEST,
    Builder,
    StoreChangedError,
    Touched,
    load_tree,
    look,
    owners,
)
from cloche_shared.adapters.local_node_files.store import WheelStore, remove_tree, store_key
from cloche_shared.adapters.sharing import PRIVATE, Sharing
from cloche_shared.blobs.errors import disk_error
from cloche_shared.contracts.definition import Artefact, Lock
from cloche_shared.contracts.files import Manifest
from cloche_shared.errors import Failed, Internal
from cloche_shared.ports.blobs import Blobs
from cloche_shared.ports.node_files import Budget, Prefix
from cloche_shared.store.together import together

ATTEMPTS = 3
"""How often a prefix is begun anew because the store was touched under it."""

CONDEMNED = "condemned-prefix-"
_AT_FDCWD, _RENAME_EXCHANGE = -100, 2

T = TypeVar("T")


async def _disk(function: Callable[..., T], *arguments: object) -> T:
    """Run a file operation in a thread; what the disk refuses is `Failed`."""
    try:
        return await asyncio.to_thread(function, *arguments)
    except OSError as error:
        found = disk_error(error)
        raise Failed(found.code, found.what, why=found.why, todo=found.todo) from error


class LocalNodeFiles:
    """One node's folder. `close` ends its worker processes; `sharing` says who else works in it.

    Without `package_code` no Python of a conda channel is started.
    """

    def __init__(
        self,
        root: Path,
        interpreters: Interpreters | None = None,
        *,
        workers: int | None = None,
        sharing: Sharing = PRIVATE,
        package_code: bool = True,
    ) -> None:
        self._root = root.absolute()
        self._sharing = sharing
        self._interpreters = interpreters or Interpreters()
        self._pool = WorkerPool(workers)
        self._locks = Locks(self._root / "locks")
        self._store = WheelStore(self._root, self._pool, self._locks)
        self._workers = CondaWorkers(self._root / "conda", workers)
        self._conda = CondaStore(self._root, self._pool, self._locks, self._workers, package_code=package_code)
        self._folders = Folders(self._root / "work")
        self._made = Tidied(self._root / "tmp", remove_tree)

    @property
    def conda_workers(self) -> CondaWorkers:
        """The processes that work on conda packages here; they end with these files."""
        return self._workers

    async def close(self) -> None:
        """End the worker processes."""
        await self._pool.close()
        await self._workers.close()

    async def warm(self, python: str, artefact: Artefact, blobs: Blobs) -> None:
        """Unpack and compile one wheel ahead of its prefix, as soon as its bytes are there.

        `python` is the lock's. Raises as `prefix` does.
        """
        interpreter = await self._interpreters.required(python)
        await _disk(self._made.open)
        await self._store.ensure(artefact, interpreter, blobs)

    async def prefix(self, lock_digest: str, lock: Lock, artefacts: Blobs) -> Prefix:
        name = lock_digest.removeprefix("sha256:")
        if not name.isalnum():
            raise Internal("invalid_digest", "A lock's digest is hexadecimal.")
        await _disk(self._made.open)
        async with self._locks.hold(f"prefix-{name}"):
            path = self._root / "prefixes" / name
            interpreter = await self._interpreter(lock, path)
            warnings = await self._reusable(path, interpreter)
            if warnings is not None:
                return Prefix(path, path / "bin" / "python", reused=True, warnings=tuple(warnings))
            made = await self._make(path, lock, interpreter, artefacts)
            return Prefix(path, path / "bin" / "python", reused=False, warnings=tuple(made))

    async def _interpreter(self, lock: Lock, path: Path) -> Interpreter:
        """Return the interpreter of a lock's prefix: the one that conda puts there, or one of this machine."""
        if is_conda(lock):
            return own_python(lock, str(path / "bin" / "python"))
        return await self._interpreters.required(lock.python)

    async def _reusable(self, path: Path, interpreter: Interpreter) -> list[str] | None:
        """Return the warnings of a prefix that is whole and untouched, else condemn it and return None."""
        found = await asyncio.to_thread(_inspect, path, interpreter)
        if found is None:
            return None
        touched, keys, warnings = found
        if not touched:
            return warnings
        condemned = await asyncio.to_thread(owners, self._root / "store", keys, touched.changed)
        await self._condemn(condemned)
        return None

    async def _condemn(self, keys: Sequence[str]) -> None:
        """Forget stored wheels that were touched, and every prefix that links them."""
        for key in keys:
            await self._store.condemn(key)
        await asyncio.to_thread(self._condemn_prefixes, frozenset(keys))

    def _condemn_prefixes(self, keys: frozenset[str]) -> None:
        folder = self._root / "prefixes"
        for prefix in folder.iterdir() if folder.is_dir() else ():
            found = load_tree(prefix)
            if found is not None and keys.intersection(found[1]):
                (prefix / MANIFEST).unlink(missing_ok=True)

    async def _make(self, path: Path, lock: Lock, interpreter: Interpreter, blobs: Blobs) -> list[str]:
        for _ in range(ATTEMPTS):
            keys = await self._stored(lock, interpreter, blobs)
            conda = {key: item for key, item in keys.items() if item.kind == "conda"}
            try:
                return await _disk(self._build, path, interpreter, list(keys), conda)
            except StoreChangedError as error:
                await self._condemn(error.keys)
        raise Failed(
            "store_changed",
            "The environment could not be made.",
            why="Its packages are changed on disk while it is made.",
            todo="End the program that writes into the data folder, then try again.",
        )

    async def _stored(self, lock: Lock, interpreter: Interpreter, blobs: Blobs) -> dict[str, Artefact]:
        """Have every artefact of a lock in the store; returns them by key, in the order of the lock."""
        if not is_conda(lock):
            keys = await together(self._store.ensure(item, interpreter, blobs) for item in lock.artefacts)
            return dict(zip(keys, lock.artefacts, strict=True))
        found = {_key(item, interpreter): item for item in lock.artefacts}
        if not await asyncio.to_thread(self._all_here, list(found)):
            async with self._conda.lent(lock, self._interpreters, blobs) as python:
                await together(
                    (self._conda if item.kind == "conda" else self._store).ensure(item, python, blobs)
                    for item in lock.artefacts
                )
        return found

    def _all_here(self, keys: Sequence[str]) -> bool:
        return all((self._root / "store" / key / "plan.json").exists() for key in keys)

    def _build(self, path: Path, interpreter: Interpreter, keys: list[str], conda: Mapping[str, Artefact]) -> list[str]:
        folder = self._root / "tmp" / f"prefix-{os.urandom(8).hex()}"
        try:
            warnings = Builder(folder, path, interpreter, conda).build(self._root / "store", keys)
            self._sharing.readable(path.parent)
            self._sharing.show(folder)
            self._swap(folder, path)
        finally:
            remove_tree(folder)
        return warnings

    def _swap(self, folder: Path, path: Path) -> None:
        """Put a prefix in its place.

        Programs that run in a condemned one find the same files by the same paths at every moment. Its
        tree is kept aside while a process has a part of it open or mapped, or stands in it; it is
        looked at again with the next one, and when the node's files are opened.
        """
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        tmp = self._root / "tmp"
        if path.exists():
            aside = tmp / f"{CONDEMNED}{os.urandom(8).hex()}"
            _exchange(folder, path, aside)
            for old in unused(sorted(tmp.glob(f"{CONDEMNED}*"))):
                remove_tree(old)
        else:
            folder.rename(path)

    async def checkout(self, work_id: str, snapshot: Manifest, blobs: Blobs) -> Path:
        if not self._sharing.is_shared:
            return await self._folders.checkout(work_id, snapshot, blobs)
        await _disk(self._sharing.readable, self._root / "work")
        await self.discard(work_id)
        path = await self._folders.checkout(work_id, snapshot, blobs)
        await _disk(self._sharing.hand_out, path)
        return path

    async def folder(self, work_id: str) -> Path | None:
        path = self._folders.path(work_id)
        return path if await asyncio.to_thread(path.is_dir) else None

    async def collect(
        self, work_id: str, folders: Sequence[str], blobs: Blobs, budget: Budget | None = None
    ) -> Manifest:
        return await self._folders.collect(work_id, folders, blobs, budget)

    async def discard(self, work_id: str) -> None:
        if self._sharing.is_shared:
            await asyncio.to_thread(self._sharing.remove, self._folders.path(work_id))
        else:
            await self._folders.discard(work_id)


def _exchange(new: Path, path: Path, aside: Path) -> None:
    """Put `new` in the place of `path`, and what was there aside."""
    rename = getattr(ctypes.CDLL(None, use_errno=True), "renameat2", None)
    if rename is None or rename(_AT_FDCWD, os.fsencode(new), _AT_FDCWD, os.fsencode(path), _RENAME_EXCHANGE):
        # not every system and file system can exchange: for a moment there is nothing
        path.rename(aside)
        new.rename(path)
    else:
        new.rename(aside)


def _key(artefact: Artefact, interpreter: Interpreter) -> str:
    return (conda_key if artefact.kind == "conda" else store_key)(artefact, interpreter)


def _inspect(path: Path, interpreter: Interpreter) -> tuple[Touched, list[str], list[str]] | None:
    found = load_tree(path)
    if found is None:
        return None
    tree, keys, warnings = found
    program = path / "bin" / "python"
    try:
        if str(program) != interpreter.path and program.readlink() != Path(interpreter.path):
            return None
    except OSError:
        return None
    return look(path, tree, interpreter.cache_tag), keys, warnings
