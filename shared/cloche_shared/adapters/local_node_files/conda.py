"""Conda packages in the store: unpacked once per node and Python, compiled, read-only.

`<root>/store/<hex>-<cache tag>-conda/` is made as a wheel's folder is. py-rattler unpacks in a process of
its own; what lies there is taken over by the package's `paths.json`, file by file. Bytecode that a package
ships is kept where it fits its source, and made where it does not.
"""

import asyncio
import os
import posixpath
import struct
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from pathlib import Path

from cloche_shared.adapters.conda.process import Answer, CondaWorkers
from cloche_shared.adapters.conda.solver import check_package
from cloche_shared.adapters.interpreters import Interpreter, Interpreters, not_available, probe
from cloche_shared.adapters.local_node_files.locks import Locks
from cloche_shared.adapters.local_node_files.pool import Made, WorkerPool
from cloche_shared.adapters.local_node_files.relocating import CondaPart, Replaced, entry_points
from cloche_shared.adapters.local_node_files.store import Plan, by_folder, bytecode_path, keep, remove_tree, stored_file
from cloche_shared.blobs.errors import disk_error
from cloche_shared.contracts.definition import Artefact, Lock
from cloche_shared.errors import Failed
from cloche_shared.ports.blobs import Blobs
from cloche_shared.store.together import together

UNPACK_SECONDS = 900.0
FILES_PER_JOB = 64

_NOT_STARTED = "The channel's own Python is not started beside credentials (`cluster.package_code`)."


def is_conda(lock: Lock) -> bool:
    """Whether conda brings the Python of a lock."""
    return any(artefact.kind == "conda" for artefact in lock.artefacts)


def own_python(lock: Lock, path: str = "") -> Interpreter:
    """Return the interpreter that a lock of conda packages brings, at the path where it would be started."""
    major, minor = lock.python.split(".")[:2]
    return Interpreter(path, lock.python, f"cpython-{major}{minor}", lock.platform, ())


def conda_key(artefact: Artefact, python: Interpreter) -> str:
    """Return the name of a conda package's folder in the store."""
    return f"{artefact.digest.removeprefix('sha256:')}-{python.cache_tag}-conda"


@dataclass(frozen=True, slots=True)
class _Unpacked:
    """What the worker said of a package."""

    index: dict[str, object]
    files: list[str]
    replaced: list[tuple[str, str, str]]
    folders: list[str]
    entry_points: list[str]
    scripts: list[str]


class CondaStore:
    """All stored conda packages of a node. Without `package_code` a channel's Python is not started."""

    def __init__(
        self, root: Path, pool: WorkerPool, locks: Locks, workers: CondaWorkers, *, package_code: bool = True
    ) -> None:
        self._root = root / "store"
        self._tmp = root / "tmp"
        self._pool = pool
        self._locks = locks
        self._workers = workers
        self._package_code = package_code

    async def ensure(self, artefact: Artefact, python: Interpreter, blobs: Blobs) -> str:
        """Unpack and compile a package unless it is there; return its key.

        `python` is any interpreter of the lock's minor version. Raises `Failed` (code `blob_not_found`,
        `invalid_conda_package`, `unsafe_archive`, `disk_full`).
        """
        key = conda_key(artefact, python)
        plan = self._root / key / "plan.json"
        if await asyncio.to_thread(plan.exists):
            return key
        async with self._locks.hold(f"store-{key}"):
            if not await asyncio.to_thread(plan.exists):
                await self._make(key, artefact, python, blobs)
        return key

    async def _make(self, key: str, artefact: Artefact, python: Interpreter, blobs: Blobs) -> None:
        folder = self._tmp / f"store-{os.urandom(8).hex()}"
        try:
            async with stored_file(artefact, blobs, folder) as archive:
                unpacked = await self._unpacked(archive, folder, artefact, python)
            made = await self._compiled(folder / "tree", unpacked, python)
            await asyncio.to_thread(self._finish, key, folder, artefact, python, unpacked, made)
        except OSError as error:
            found = disk_error(error)
            raise Failed(found.code, found.what, why=found.why, todo=found.todo) from error
        finally:
            await asyncio.to_thread(remove_tree, folder)

    async def _unpacked(self, archive: Path, folder: Path, artefact: Artefact, python: Interpreter) -> _Unpacked:
        job = {
            "do": "unpack",
            "archive": str(archive),
            "filename": artefact.filename,
            "folder": str(folder),
            "minor": python.minor,
            "site": site_of(python),
        }
        return _read(await self._asked(job, artefact), artefact)

    async def _asked(self, job: Mapping[str, object], artefact: Artefact) -> Answer:
        try:
            answer = await self._workers.ask(job, UNPACK_SECONDS)
        except TimeoutError:
            raise Failed(
                "build_timeout",
                f"Unpacking {artefact.filename} took more than {UNPACK_SECONDS:.0f} s.",
                todo="Try again; see whether the disk is overloaded.",
                extra={"package": artefact.name},
            ) from None
        check_package(answer, artefact)
        return answer

    async def _compiled(self, tree: Path, unpacked: _Unpacked, python: Interpreter) -> list[Made]:
        """Make the bytecode that is missing or does not fit, and return it."""
        sources = await asyncio.to_thread(_to_compile, tree, unpacked, python)
        jobs = [
            {"compile": str(tree), "files": sources[start : start + FILES_PER_JOB]}
            for start in range(0, len(sources), FILES_PER_JOB)
        ]
        made = await together(self._pool.run(python.path, job) for job in jobs)
        return [item for items in made for item in items]

    def _finish(
        self, key: str, folder: Path, artefact: Artefact, python: Interpreter, unpacked: _Unpacked, made: list[Made]
    ) -> None:
        tree = folder / "tree"
        bytecode = {path for path, *_ in made}
        files = [_made(tree, path) for path in unpacked.files if path not in bytecode and os.path.lexists(tree / path)]
        folders = sorted({*unpacked.folders, *(posixpath.dirname(path) for path in bytecode)})
        replaced = [Replaced(path, how, old, list(_made(tree, path)[1:])) for path, how, old in unpacked.replaced]
        meta = {**unpacked.index, "files": sorted([*unpacked.files, *(path for path, *_ in unpacked.replaced)])}
        try:
            scripts = list(entry_points(unpacked.entry_points))
        except ValueError as error:
            raise _invalid(artefact, f"The entry point {error} cannot be read.") from error
        plan = Plan(
            key=key,
            name=artefact.name,
            site=site_of(python),
            dist_info="",
            files=by_folder(folders, [*files, *made]),
            scripts=[],
            entry_points=scripts,
            record="",
            warnings=list(_warnings(artefact, unpacked, python)),
            conda=CondaPart(replaced, meta),
        )
        keep(self._root, folder, plan)

    @asynccontextmanager
    async def lent(self, lock: Lock, interpreters: Interpreters, blobs: Blobs) -> AsyncIterator[Interpreter]:
        """Give an interpreter of a lock's minor version, which compiles for it.

        The host's does where there is one; else the lock's own, unpacked for the moment with what it
        needs. Raises `Failed` (code `python_not_available`).
        """
        wanted = own_python(lock)
        found = await interpreters.find(wanted.minor)
        if found is not None and found.cache_tag == wanted.cache_tag:
            yield replace(wanted, path=found.path)
            return
        if not self._package_code:
            raise not_available(wanted.version, await interpreters.all(), why=_NOT_STARTED)
        folder = self._tmp / f"python-{os.urandom(8).hex()}"
        try:
            for artefact in lock.artefacts:
                if artefact.kind == "conda" and artefact.subdir != "noarch":
                    await self._extract(artefact, folder, blobs)
            lent = await probe(str(folder / "env" / "bin" / "python"))
            if lent is None:
                raise _no_start(lock)
            yield replace(wanted, path=lent.path)
        finally:
            await asyncio.to_thread(remove_tree, folder)

    async def _extract(self, artefact: Artefact, folder: Path, blobs: Blobs) -> None:
        aside = folder / artefact.digest.removeprefix("sha256:")
        async with stored_file(artefact, blobs, aside) as archive:
            job = {"do": "extract", "archive": str(archive), "filename": artefact.filename}
            await self._asked({**job, "folder": str(folder / "env")}, artefact)


def site_of(python: Interpreter) -> str:
    """Return where Python packages lie in a prefix."""
    return f"lib/python{python.minor}/site-packages"


def _read(answer: Answer, artefact: Artefact) -> _Unpacked:
    try:
        return _Unpacked(
            index=_mapping(answer["index"]),
            files=[str(path) for path in _list(answer["files"])],
            replaced=[(str(path), str(how), str(old)) for path, how, old, _ in map(_list, _list(answer["replaced"]))],
            folders=[str(path) for path in _list(answer["folders"])],
            entry_points=[str(line) for line in _list(answer["entry_points"])],
            scripts=[str(path) for path in _list(answer["scripts"])],
        )
    except (KeyError, TypeError, ValueError) as error:
        raise _invalid(artefact, "What it says of itself cannot be read.") from error


def _list(value: object) -> list[object]:
    if not isinstance(value, list):
        raise TypeError
    return value


def _mapping(value: object) -> dict[str, object]:
    if not isinstance(value, dict) or not {"name", "version", "build"} <= value.keys():
        raise TypeError
    return value


def _made(tree: Path, path: str) -> Made:
    status = os.lstat(tree / path)
    return path, status.st_ino, status.st_size, status.st_mtime_ns, status.st_mode


def _to_compile(tree: Path, unpacked: _Unpacked, python: Interpreter) -> list[str]:
    """Return the sources without usable bytecode, their folders for it made and what does not fit removed."""
    below = f"lib/python{python.minor}/"
    shipped = set(unpacked.files)
    wanted = []
    for path in unpacked.files:
        if not path.startswith(below) or not path.endswith(".py") or (tree / path).is_symlink():
            continue
        bytecode = bytecode_path(path, python.cache_tag)
        if bytecode in shipped:
            if _fits(tree / path, tree / bytecode):
                continue
            (tree / bytecode).unlink()
        (tree / bytecode).parent.mkdir(mode=0o755, exist_ok=True)
        wanted.append(path)
    return wanted


def _fits(source: Path, bytecode: Path) -> bool:
    """Whether an interpreter takes bytecode for a source: hash-based, or of the same time and size (PEP 552)."""
    try:
        with bytecode.open("rb") as file:
            _, flags, mtime, size = struct.unpack("<4I", file.read(16))
        status = source.stat()
    except (OSError, struct.error):
        return False
    return bool(flags & 1) or (mtime == int(status.st_mtime) & 0xFFFFFFFF and size == status.st_size & 0xFFFFFFFF)


def _warnings(artefact: Artefact, unpacked: _Unpacked, python: Interpreter) -> Sequence[str]:
    site = site_of(python)
    paths = [path for path in unpacked.files if path.endswith(".pth") and posixpath.dirname(path) == site]
    return [
        *(
            f"{artefact.name} installs {path.rpartition('/')[2]}, which runs at every start of Python."
            for path in paths
        ),
        *(
            f"{artefact.name} brings {path.rpartition('/')[2]}, which was not run: scripts of packages never are."
            for path in unpacked.scripts
        ),
    ]


def _invalid(artefact: Artefact, why: str) -> Failed:
    return Failed(
        "invalid_conda_package",
        f"The conda package {artefact.name} {artefact.version} cannot be installed.",
        why=why,
        todo="Use another version or build of the package; this file breaks conda's format or is damaged.",
        extra={"package": artefact.name},
    )


def _no_start(lock: Lock) -> Failed:
    return Failed(
        "python_not_available",
        f"The Python {lock.python} of the conda channel does not start on this machine.",
        why="A library that it needs is missing, or it is made for another platform.",
        todo="Ask for another version or build of python, or use another channel.",
        extra={"python": lock.python},
    )
