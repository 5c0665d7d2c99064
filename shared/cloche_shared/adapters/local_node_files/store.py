"""The store: each wheel once per node and cache tag, unpacked, compiled, read-only.

`<root>/store/<hex>-<cache tag>/` holds `tree`, laid out as in a prefix, and `plan.json`, which says
what to link and what each file's inode, size, mtime and mode must be. It is made in `tmp` and renamed
when it is whole, so a crash leaves nothing but a folder in `tmp`.
"""

import asyncio
import os
import posixpath
import shutil
from collections.abc import AsyncIterator, Iterable, Iterator
from contextlib import asynccontextmanager
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import orjson

from cloche_shared.adapters.interpreters import Interpreter
from cloche_shared.adapters.local_node_files.locks import Locks
from cloche_shared.adapters.local_node_files.pool import Made, WorkerPool
from cloche_shared.adapters.local_node_files.relocating import CondaPart, Replaced
from cloche_shared.adapters.local_node_files.wheel import Contents, EntryPoint, Member, read_contents
from cloche_shared.blobs.errors import disk_error
from cloche_shared.contracts.definition import Artefact
from cloche_shared.errors import Failed, NotFound
from cloche_shared.ports.blobs import Blobs
from cloche_shared.store.together import together

JOB_BYTES = 768 << 10
"""Bytes of source per job: small enough that all cores are busy to the end."""
OTHER_BYTES = 16 << 20

FORMAT = 3

Expected = list[int]
"""Inode, size, mtime_ns and mode of a file."""
Tree = dict[str, dict[str, Expected]]
"""Folder → file name → what it must be, parents first. Folders are relative to the prefix, its own is ``."""


@dataclass(frozen=True, slots=True)
class Plan:
    """What one wheel brings to a prefix; paths are relative to the prefix and to `tree`.

    `files` names every folder, also those without a file. `record` is the text of RECORD but for what
    each prefix writes itself. A conda package has no RECORD but a `conda` part.
    """

    key: str
    name: str
    site: str
    dist_info: str
    files: Tree
    scripts: list[str]
    entry_points: list[EntryPoint]
    record: str
    warnings: list[str]
    format: int = FORMAT
    conda: CondaPart | None = None


def store_key(artefact: Artefact, interpreter: Interpreter) -> str:
    """Return the name of a wheel's folder in the store."""
    return f"{artefact.digest.removeprefix('sha256:')}-{interpreter.cache_tag}"


def load_plan(folder: Path) -> Plan | None:
    """Return a stored wheel's plan, or None when it is not (wholly) there or of another format."""
    try:
        data = orjson.loads((folder / "plan.json").read_bytes())
    except (FileNotFoundError, orjson.JSONDecodeError):
        return None
    if data.get("format") != FORMAT:
        return None
    data["entry_points"] = [EntryPoint(**item) for item in data["entry_points"]]
    part = data.get("conda")
    if part is not None:
        data["conda"] = CondaPart([Replaced(**item) for item in part["replaced"]], part["meta"])
    return Plan(**data)


def remove_tree(path: Path) -> None:
    """Remove a folder of ours, whatever its modes; an absent one is harmless."""
    if not path.exists():
        return
    if os.geteuid() != 0:
        for folder, _, _ in os.walk(path):
            Path(folder).chmod(0o700)
    shutil.rmtree(path, ignore_errors=True)


class WheelStore:
    """All stored wheels of a node."""

    def __init__(self, root: Path, pool: WorkerPool, locks: Locks) -> None:
        self._root = root / "store"
        self._tmp = root / "tmp"
        self._pool = pool
        self._locks = locks

    def folder(self, key: str) -> Path:
        """Return where a wheel lies, or would lie."""
        return self._root / key

    async def ensure(self, artefact: Artefact, interpreter: Interpreter, blobs: Blobs) -> str:
        """Unpack and compile a wheel unless it is there; return its key.

        Raises `Failed` (code `blob_not_found`, `invalid_wheel`, `unsafe_archive`, `disk_full`).
        """
        key = store_key(artefact, interpreter)
        if await asyncio.to_thread(self._is_here, key):
            return key
        async with self._locks.hold(f"store-{key}"):
            if not await asyncio.to_thread(self._is_here, key):
                await self._make(key, artefact, interpreter, blobs)
        return key

    def _is_here(self, key: str) -> bool:
        return (self._root / key / "plan.json").exists()

    async def condemn(self, key: str) -> None:
        """Forget a wheel whose bytes were touched; it is unpacked again from its blob when needed."""
        async with self._locks.hold(f"store-{key}"):
            await asyncio.to_thread(self._discard, key)

    def _discard(self, key: str) -> None:
        trash = self._tmp / f"condemned-{key}-{os.urandom(4).hex()}"
        try:
            self._tmp.mkdir(mode=0o700, parents=True, exist_ok=True)
            (self._root / key).rename(trash)
        except FileNotFoundError:
            return
        remove_tree(trash)

    async def _make(self, key: str, artefact: Artefact, interpreter: Interpreter, blobs: Blobs) -> None:
        folder = self._tmp / f"store-{os.urandom(8).hex()}"
        try:
            async with stored_file(artefact, blobs, folder) as wheel:
                contents = await asyncio.to_thread(read_contents, wheel, artefact, interpreter.minor)
                contents = without_bytecode(contents, interpreter.cache_tag)
                folders = await asyncio.to_thread(_make_folders, folder, contents)
                made = await self._unpack(wheel, folder / "tree", contents, interpreter)
            await asyncio.to_thread(keep, self._root, folder, _plan(key, artefact, contents, folders, made))
        except Failed as error:
            if error.code in {"invalid_wheel", "unsafe_archive"}:
                error.what = f"The wheel of {artefact.name} {artefact.version} cannot be installed."
                error.extra["package"] = artefact.name
            raise
        except OSError as error:
            found = disk_error(error)
            raise Failed(found.code, found.what, why=found.why, todo=found.todo) from error
        finally:
            await asyncio.to_thread(remove_tree, folder)

    async def _unpack(self, wheel: Path, tree: Path, contents: Contents, interpreter: Interpreter) -> list[Made]:
        jobs = [
            {"wheel": str(wheel), "tree": str(tree), "files": [_entry(member) for member in members]}
            for members in shards(contents.members)
        ]
        made = await together(self._pool.run(interpreter.path, job) for job in jobs)
        return [item for items in made for item in items]


def keep(store: Path, folder: Path, plan: Plan) -> None:
    """Take a folder that is whole but for its plan into the store."""
    (folder / "plan.json").write_bytes(orjson.dumps(asdict(plan)))
    store.mkdir(mode=0o700, parents=True, exist_ok=True)
    target = store / plan.key
    remove_tree(target)
    folder.rename(target)


@asynccontextmanager
async def stored_file(artefact: Artefact, blobs: Blobs, folder: Path) -> AsyncIterator[Path]:
    """Give an artefact as a file: the blob's own where it lies on this machine, else a copy."""
    await asyncio.to_thread(folder.mkdir, 0o700, parents=True)
    try:
        path = await blobs.file(artefact.digest)
        if path is not None:
            yield path
            return
        copy = folder / "artefact"
        await _copy(artefact, blobs, copy)
    except NotFound as error:
        raise Failed(
            "blob_not_found",
            f"The file of {artefact.name} {artefact.version} is not in the store of artefacts.",
            todo="Build the environment again.",
            extra={"package": artefact.name},
        ) from error
    yield copy
    await asyncio.to_thread(copy.unlink)


async def _copy(artefact: Artefact, blobs: Blobs, path: Path) -> None:
    with await asyncio.to_thread(path.open, "xb") as file:
        async for chunk in blobs.read(artefact.digest):
            await asyncio.to_thread(file.write, chunk)


def without_bytecode(contents: Contents, cache_tag: str) -> Contents:
    """Return the contents without the wheel's own bytecode of this interpreter: ours is made in its place.

    What a wheel ships is bound to the time stamps that its source had where it was packed, so no
    interpreter would take it here.
    """
    ours = {bytecode_path(member.path, cache_tag) for member in contents.members if member.source}
    shipped = {member.path for member in contents.members} & ours
    if not shipped:
        return contents
    names = {posixpath.relpath(path, contents.site) for path in shipped}
    return replace(
        contents,
        members=tuple(member for member in contents.members if member.path not in shipped),
        record=tuple(row for row in contents.record if row[0] not in names),
    )


def bytecode_path(path: str, cache_tag: str) -> str:
    """Return where the bytecode of a source file lies (PEP 3147)."""
    folder, name = posixpath.split(path)
    return f"{folder}/__pycache__/{name[:-3]}.{cache_tag}.pyc"


def _entry(member: Member) -> list[object]:
    return [member.name, member.path, member.algorithm, member.hash, member.mode, member.source]


def shards(members: tuple[Member, ...]) -> Iterator[list[Member]]:
    """Divide members into jobs of about equal time, source first because it takes longest."""
    for chosen, limit in (
        ([member for member in members if member.source], JOB_BYTES),
        ([member for member in members if not member.source], OTHER_BYTES),
    ):
        shard: list[Member] = []
        size = 0
        for member in chosen:
            if shard and size + member.size > limit:
                yield shard
                shard, size = [], 0
            shard.append(member)
            size += member.size + 2048
        if shard:
            yield shard


def _make_folders(folder: Path, contents: Contents) -> list[str]:
    """Make every folder of the tree and return them, parents first."""
    wanted = {posixpath.dirname(member.path) for member in contents.members}
    wanted |= {f"{posixpath.dirname(member.path)}/__pycache__" for member in contents.members if member.source}
    wanted.add(f"{contents.site}/{contents.dist_info}")
    for path in list(wanted):
        parts = path.split("/")
        wanted |= {"/".join(parts[:count]) for count in range(1, len(parts))}
    folders = sorted(wanted - {""})
    tree = folder / "tree"
    tree.mkdir(mode=0o700)
    for path in folders:
        (tree / path).mkdir(mode=0o755)
    return folders


def _plan(key: str, artefact: Artefact, contents: Contents, folders: list[str], made: list[Made]) -> Plan:
    scripts = set(contents.scripts)
    return Plan(
        key=key,
        name=artefact.name,
        site=contents.site,
        dist_info=contents.dist_info,
        files=by_folder(folders, (item for item in made if item[0] not in scripts)),
        scripts=sorted(scripts),
        entry_points=list(contents.entry_points),
        record=_record(contents),
        warnings=list(contents.warnings),
    )


def by_folder(folders: Iterable[str], made: Iterable[Made]) -> Tree:
    """Return what was made by folder; `folders` are all of them, parents first."""
    tree: Tree = {folder: {} for folder in folders}
    for path, *expected in made:
        folder, _, name = path.rpartition("/")
        tree.setdefault(folder, {})[name] = expected
    return tree


def _record(contents: Contents) -> str:
    own = {*contents.scripts, *(f"bin/{entry.name}" for entry in contents.entry_points)}
    skipped = {posixpath.relpath(path, contents.site) for path in own}
    rows = (row for row in contents.record if row[0] not in skipped)
    return "".join(f"{record_field(path)},{digest},{size}\n" for path, digest, size in rows)


def record_field(text: str) -> str:
    """Return a path as a field of RECORD, which is CSV."""
    if any(character in text for character in ',"\n\r'):
        return '"' + text.replace('"', '""') + '"'
    return text
