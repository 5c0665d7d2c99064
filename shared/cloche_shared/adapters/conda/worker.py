"""Solves, looks into and unpacks conda packages by py-rattler; the only module that loads it.

Started as `python -I -B worker.py <cache folder>`; reads one JSON job per line from stdin, answers with
one JSON line each, and ends with its stdin, whatever it is doing then. A job names what to `do`; the
answer holds `error` (the kind of error) and `why` where it could not be done. Nothing of the user's is
read: no `.condarc`, no keychain, no cache but the one that is given.
"""

import asyncio
import json
import os
import queue
import re
import resource
import shutil
import sys
import threading
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import rattler  # type: ignore[import-not-found, unused-ignore]
from rattler.exceptions import InvalidMatchSpecError  # type: ignore[import-not-found, unused-ignore]
from rattler.networking import RetryMiddleware  # type: ignore[import-not-found, unused-ignore]
from rattler.package_streaming import extract  # type: ignore[import-not-found, unused-ignore]

from cloche_shared.adapters.conda.layout import MAX_BYTES, Json, Layout, RefusedError

HTTP_SECONDS = 60
"""Twice that, asked twice over, is less than the solver's deadline: a silent channel is told as unreachable."""
TRIES = 1

_DIST_INFO = re.compile(
    r"(?:^|/)site-packages/([^/]+?)-(\d[^/-]*)(?:-py[\d.]+)?\.(?:dist|egg)-info(?:/(?:METADATA|PKG-INFO))?$"
)


# --- solving


def _spec(text: str) -> rattler.MatchSpec:
    try:
        return rattler.MatchSpec(text, strict=False)
    except InvalidMatchSpecError as error:
        raise RefusedError("spec", f"{text}: {error}") from error


def _virtual(text: str) -> rattler.GenericVirtualPackage:
    name, version, build = text.split("=")
    return rattler.GenericVirtualPackage(
        rattler.PackageName(name), rattler.Version(version), rattler.BuildString(build)
    )


async def _solve(job: Json, cache: Path) -> Json:
    """Choose packages.

    The gateway hands the solver only those records of a package that its spec matches, so that a channel
    whose versions all fail the spec would not count as having the package, and a later channel would give
    it. Therefore each name is asked for without a version too.
    """
    client = rattler.Client([RetryMiddleware(TRIES)], timeout=HTTP_SECONDS, user_agent="cloche")
    specs = [_spec(text) for text in job["specs"]]
    records = await rattler.solve(
        [rattler.Channel(url) for url in job["channels"]],
        [*specs, *sorted({spec.name.normalized for spec in specs})],
        platforms=[job["subdir"], "noarch"],
        gateway=rattler.Gateway(cache_dir=cache / "repodata", client=client),
        virtual_packages=[_virtual(text) for text in job["virtual"]],
        channel_priority=rattler.ChannelPriority.Strict,
        channel_relations="disabled",
    )
    return {"records": [_described(record) for record in records]}


def _described(record: rattler.RepoDataRecord) -> Json:
    noarch = record.noarch
    return {
        "name": record.name.normalized,
        "version": str(record.version),
        "build": str(record.build),
        "subdir": str(record.subdir),
        "channel": str(record.channel),
        "filename": record.file_name,
        "url": record.url,
        "sha256": None if record.sha256 is None else f"sha256:{record.sha256.hex()}",
        "size": record.size,
        "noarch": "python" if noarch.python else "generic" if noarch.generic else "",
        "md5": "" if record.md5 is None else record.md5.hex(),
        "license": record.license or "",
        "depends": [str(item) for item in record.depends],
        "constrains": [str(item) for item in record.constrains],
    }


# --- looking


def _look(job: Json, _cache: Path) -> Json:
    """Return the Python distributions that a package installs, by the paths of their metadata."""
    with _named(job) as archive:
        paths = rattler.PathsJson.from_package_archive(archive)
    found = {}
    for entry in paths.paths:
        match = _DIST_INFO.search(str(entry.relative_path))
        if match is not None:
            found[match[1]] = match[2]
    return {"distributions": sorted(found.items())}


class _named:  # noqa: N801 - a context manager, read as a word
    """Give an archive the name by which rattler knows its format."""

    def __init__(self, job: Json) -> None:
        self._folder = Path(job["scratch"])
        self._archive = job["archive"]
        self._suffix = ".tar.bz2" if str(job["filename"]).endswith(".tar.bz2") else ".conda"

    def __enter__(self) -> Path:
        self._folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        self._path = self._folder / f"package-{os.urandom(6).hex()}{self._suffix}"
        self._path.symlink_to(self._archive)
        return self._path

    def __exit__(self, *_: object) -> None:
        self._path.unlink(missing_ok=True)


# --- unpacking


def _extract(job: Json, _cache: Path) -> Json:
    """Unpack the whole archive into a folder, over what is there."""
    with _named(job) as archive:
        extract(archive, job["folder"])
    return {}


def _unpack(job: Json, _cache: Path) -> Json:
    """Lay a package out as in a prefix, below `<folder>/tree`, and return what there is to know of it."""
    folder = Path(job["folder"])
    raw = folder / "raw"
    with _named(job) as archive:
        extract(archive, raw)
    try:
        return Layout(raw, folder / "tree", job["minor"], job["site"]).answer()
    finally:
        shutil.rmtree(raw, ignore_errors=True)


# --- jobs

_JOBS: Mapping[str, Callable[[Json, Path], Json]] = {"look": _look, "extract": _extract, "unpack": _unpack}


async def _done(job: Json, cache: Path) -> Json:
    try:
        if job["do"] == "solve":
            return await _solve(job, cache)
        return _JOBS[job["do"]](job, cache)
    except RefusedError as error:
        return {"error": error.args[0], "why": error.args[1]}
    except OSError as error:
        return {"error": "os", "errno": error.errno, "why": str(error)}
    except Exception as error:  # noqa: BLE001 - rattler's errors have no common base; each has a name of its own
        return {"error": type(error).__name__, "why": str(error)}


def _follow(jobs: "queue.SimpleQueue[bytes]") -> None:
    """Take jobs from stdin; its end ends the process in the middle of one, since nobody waits for it."""
    for line in sys.stdin.buffer:
        jobs.put(line)
    os._exit(0)


async def _work(arguments: Sequence[str]) -> None:
    cache = Path(arguments[0])
    jobs: queue.SimpleQueue[bytes] = queue.SimpleQueue()
    threading.Thread(target=_follow, args=(jobs,), daemon=True).start()
    while True:
        answer = await _done(json.loads(jobs.get()), cache)
        sys.stdout.write(json.dumps(answer, separators=(",", ":")) + "\n")
        sys.stdout.flush()


if __name__ == "__main__":
    os.umask(0o077)
    resource.setrlimit(resource.RLIMIT_FSIZE, (MAX_BYTES, MAX_BYTES))
    asyncio.run(_work(sys.argv[1:]))
