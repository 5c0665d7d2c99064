"""`RattlerSolver`: the port CondaSolver by py-rattler."""

import asyncio
import re
from collections.abc import Iterable, Mapping, Sequence
from contextlib import AsyncExitStack
from dataclasses import replace
from pathlib import Path
from urllib.parse import unquote, urlsplit

from packaging.utils import canonicalize_name

from cloche_shared.adapters.conda.process import Answer, CondaWorkers
from cloche_shared.adapters.host_check import any_near, check_files
from cloche_shared.blobs.errors import disk_error
from cloche_shared.contracts.definition import Artefact
from cloche_shared.errors import Failed
from cloche_shared.ports.blobs import Blobs
from cloche_shared.ports.conda import CondaRecord, CondaWish
from cloche_shared.ports.resolver import Distribution, Say
from cloche_shared.store.conda_errors import check_specs, solve_error
from cloche_shared.store.conda_places import with_user
from cloche_shared.store.hashing import without_credentials
from cloche_shared.store.together import together

SOLVE_SECONDS = 300.0
LOOK_SECONDS = 60.0
TRIES = 2
BACKOFF_SECONDS = 0.2

_FILE_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.!+-]*\.(conda|tar\.bz2)")


class RattlerSolver:
    """Solves in processes of `workers`; channels by `file:` are read below `file_roots` only (none: never)."""

    def __init__(
        self, workers: CondaWorkers, *, file_roots: Sequence[Path] = (), solve_seconds: float = SOLVE_SECONDS
    ) -> None:
        self._workers = workers
        self._file_roots = tuple(root.resolve() for root in file_roots)
        self._seconds = solve_seconds

    async def solve(self, wish: CondaWish, say: Say) -> tuple[CondaRecord, ...]:
        check_specs(wish.specs)
        remote = [url for url in wish.channels if not self._is_file(url)]
        # rattler resolves names itself afterwards, as uv does: see `UvResolver`
        await any_near(remote)
        job = {
            "do": "solve",
            "specs": list(wish.specs),
            "channels": list(wish.channels),
            "subdir": wish.subdir,
            "virtual": list(wish.virtual),
        }
        answer = await self._answer(job, wish.specs, say)
        records = tuple(sorted(map(_record, _rows(answer, "records")), key=lambda record: record.name))
        records = tuple(_addressed(record, wish.channels) for record in records)
        await self._check_places(records, remote)
        found = "1 conda package" if len(records) == 1 else f"{len(records)} conda packages"
        await say(f"Chose {found} for {wish.subdir}")
        return records

    async def _answer(self, job: Mapping[str, object], specs: Sequence[str], say: Say) -> Answer:
        """Ask, and again while a channel does not answer. Raises what the worker's answer means."""
        for count in range(1, TRIES + 1):
            try:
                answer = await self._workers.ask(job, self._seconds)
            except TimeoutError:
                raise _too_slow(self._seconds) from None
            try:
                _check(answer, specs)
            except Failed as error:
                if error.code != "unreachable" or count == TRIES:
                    raise
                await say(f"{error.what} Trying again.")
                await asyncio.sleep(BACKOFF_SECONDS * 2**count)
            else:
                return answer
        raise AssertionError("the last attempt returns or raises")

    def _is_file(self, url: str) -> bool:
        """Whether a channel is a folder. Raises `Failed` (`url_not_allowed`) for one that may not be read."""
        if urlsplit(url).scheme.lower() != "file":
            return False
        path = Path(unquote(urlsplit(url).path)).resolve()
        if urlsplit(url).netloc or not any(path.is_relative_to(root) for root in self._file_roots):
            raise Failed(
                "url_not_allowed",
                "This folder may not be used as a conda channel.",
                why="Files of the server are read only where an administrator allows it.",
                todo="Serve the channel by HTTP.",
            )
        return True

    async def _check_places(self, records: Sequence[CondaRecord], remote: Sequence[str]) -> None:
        """Hold what a channel says of where its files are to the rules for users' addresses."""
        for record in records:
            if not _FILE_NAME.fullmatch(record.filename):
                raise _unusable(record, "Its file name has no form that a conda package can have.")
            if urlsplit(record.url).scheme.lower() not in {"http", "https"}:
                self._is_file(record.url)
        await check_files({record.url for record in records if not self._is_file(record.url)}, beside=remote)

    async def distributions(self, artefacts: Sequence[Artefact], blobs: Blobs) -> tuple[Distribution, ...]:
        found = await together(self._look(artefact, blobs) for artefact in artefacts)
        every = {item.name: item for items in found for item in items}
        return tuple(every[name] for name in sorted(every))

    async def _look(self, artefact: Artefact, blobs: Blobs) -> list[Distribution]:
        async with AsyncExitStack() as stack:
            archive = await self._archive(artefact, blobs, stack)
            job = {"do": "look", "archive": str(archive), "filename": artefact.filename}
            try:
                answer = await self._workers.ask(job, LOOK_SECONDS)
            except TimeoutError:
                raise _too_slow(LOOK_SECONDS) from None
        check_package(answer, artefact)
        rows = answer.get("distributions")
        pairs = rows if isinstance(rows, list) else []
        return [Distribution(canonicalize_name(name), str(version), artefact.name) for name, version in pairs]

    async def _archive(self, artefact: Artefact, blobs: Blobs, stack: AsyncExitStack) -> Path:
        """Return the package's file: the blob's own where it lies on this machine, else a copy for a moment."""
        path = await blobs.file(artefact.digest)
        if path is not None:
            return path
        await asyncio.to_thread(self._workers.scratch.mkdir, 0o700, parents=True, exist_ok=True)
        copy = self._workers.scratch / f"look-{artefact.digest.removeprefix('sha256:')}-{id(stack):x}"
        stack.callback(copy.unlink, missing_ok=True)
        with await asyncio.to_thread(copy.open, "xb") as file:
            async for chunk in blobs.read(artefact.digest):
                await asyncio.to_thread(file.write, chunk)
        return copy


def _rows(answer: Answer, name: str) -> Iterable[Mapping[str, object]]:
    rows = answer.get(name)
    return [row for row in rows if isinstance(row, dict)] if isinstance(rows, list) else []


def _record(row: Mapping[str, object]) -> CondaRecord:
    size, sha256 = row.get("size"), row.get("sha256")
    depends, constrains = row.get("depends"), row.get("constrains")
    return CondaRecord(
        name=str(row["name"]),
        version=str(row["version"]),
        build=str(row["build"]),
        subdir=str(row["subdir"]),
        channel=str(row["channel"]),
        filename=str(row["filename"]),
        url=str(row["url"]),
        sha256=sha256 if isinstance(sha256, str) else None,
        size=size if isinstance(size, int) else None,
        noarch=str(row["noarch"]),
        md5=str(row["md5"]),
        license=str(row["license"]),
        depends=tuple(map(str, depends)) if isinstance(depends, list) else (),
        constrains=tuple(map(str, constrains)) if isinstance(constrains, list) else (),
    )


def _addressed(record: CondaRecord, channels: Sequence[str]) -> CondaRecord:
    """Return the record with credentials in its address alone."""
    channel = without_credentials(record.channel).rstrip("/")
    return replace(record, channel=channel, url=with_user(record.url, channels))


def _check(answer: Answer, specs: Sequence[str]) -> None:
    kind = answer.get("error")
    if kind == "os":
        raise _os_error(answer)
    if isinstance(kind, str):
        raise solve_error(kind, str(answer.get("why")), specs)


def _os_error(answer: Answer) -> Failed:
    number = answer.get("errno")
    found = disk_error(OSError(number if isinstance(number, int) else 5, str(answer.get("why"))))
    return Failed(found.code, found.what, why=found.why, todo=found.todo)


def check_package(answer: Answer, artefact: Artefact) -> None:
    """Raise what is wrong with a package (`invalid_conda_package`, `unsafe_archive`, or the disk's error)."""
    kind = answer.get("error")
    if kind is None:
        return
    if kind == "os" and answer.get("errno") is not None:
        raise _os_error(answer)
    raise Failed(
        "unsafe_archive" if kind == "unsafe" else "invalid_conda_package",
        f"The conda package {artefact.name} {artefact.version} cannot be installed.",
        why=str(answer.get("why"))[:500],
        todo="Use another version or build of the package; this file breaks conda's format or is damaged.",
        extra={"package": artefact.name},
    )


def _unusable(record: CondaRecord, why: str) -> Failed:
    return Failed(
        "invalid_conda_package",
        f"The conda package {record.name} {record.version} cannot be installed.",
        why=why,
        todo="Use another version or build of the package.",
        extra={"package": record.name},
    )


def _too_slow(seconds: float) -> Failed:
    return Failed(
        "build_timeout",
        f"Choosing the conda packages took more than {seconds:g} s.",
        todo="Pin more versions, or name fewer channels.",
    )
