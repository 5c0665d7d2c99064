"""`build-prefix`: from a lock to a usable prefix when the artefacts are in the store, against uv's warm cache.

What a round replaces, ours or uv's, is put aside and removed after the last one: ext4 without a journal
walks over every recently removed inode for each file or folder that it makes, so that removing between
rounds would make each one slower than the one before.
"""

import asyncio
import os
import subprocess
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from benchmarks.core import Row, Series, environment, interleaved, scratch
from benchmarks.peers import interpreter, uv_bin
from cloche_shared.adapters.file_blobs import FileBlobStore
from cloche_shared.adapters.http_client import HttpClient
from cloche_shared.adapters.interpreters import Interpreters
from cloche_shared.adapters.local_node_files import LocalNodeFiles
from cloche_shared.adapters.uv_resolver import UvResolver
from cloche_shared.contracts.definition import Definition, Lock, PythonSection
from cloche_shared.ports.blobs import Blobs
from cloche_shared.store.artefacts import Sources, fetch, make_lock
from cloche_shared.store.hashing import definition_hash, lock_digest

REQUIREMENTS = ("scikit-learn", "pandas")
PYTHON = "3.11"
ROUNDS = 7
COMPILED_ROUNDS = 2
GOAL_PLAIN, GOAL_COMPILED = 1.0, 0.1
USABLE = "import pandas, sklearn.linear_model, sys; print(sys.prefix)"


@dataclass(frozen=True, slots=True)
class Warm:
    """A node whose store holds the artefacts of a lock."""

    files: LocalNodeFiles
    lock: Lock
    blobs: Blobs

    async def prefix(self) -> Path:
        """Return the prefix, made if it is not there."""
        made = await self.files.prefix(lock_digest(self.lock), self.lock, self.blobs)
        return Path(made.path)


async def _silent(_line: str) -> None:
    """Take a line of a build's log."""


async def warm(folder: Path, requirements: tuple[str, ...] = REQUIREMENTS) -> Warm:
    """Resolve, download and unpack once, through the builder's own functions."""
    interpreters = Interpreters()
    blobs = FileBlobStore(folder / "blobs").space("builder", "public")
    (folder / "uv").mkdir()
    resolver = UvResolver(folder / "uv", interpreters)
    files = LocalNodeFiles(folder / "node", interpreters)
    http = HttpClient()
    definition = Definition(python=PythonSection(version=PYTHON, pip=requirements))
    try:
        resolved = await resolver.resolve(definition, _silent)
        sources = Sources(http, blobs, resolver, _silent)
        artefacts = await fetch(resolved, sources, ready=lambda one: files.warm(resolved.python, one, blobs))
    finally:
        await http.close()
    lock = make_lock(definition_hash(definition, platform=resolved.platform), resolved, artefacts)
    return Warm(files, lock, blobs)


def put_aside(path: Path) -> None:
    """Give a path free without removing what is there; `scratch` removes it in the end."""
    if path.exists():
        path.rename(path.with_name(f"{path.name}.{time.monotonic_ns()}"))


class Uv:
    """uv with a cache and an environment of its own."""

    def __init__(self, folder: Path, requirements: tuple[str, ...] = REQUIREMENTS) -> None:
        self._requirements = requirements
        self._venv = folder / "venv"
        self._list = folder / "requirements.txt"
        self._env = environment(UV_CACHE_DIR=str(folder / "cache"), VIRTUAL_ENV=str(self._venv))
        folder.mkdir(exist_ok=True)

    def compile(self) -> float:
        """Pin the requirements with hashes, as a lock does, and return the seconds."""
        text = "\n".join(self._requirements).encode()
        began = time.perf_counter()
        self._run(
            "pip", "compile", "-q", "--generate-hashes", "--python-version", PYTHON, "-o", str(self._list), "-",
            text=text,
        )  # fmt: skip
        return time.perf_counter() - began

    def install(self, *options: str) -> float:
        """Make the environment anew and return the seconds."""
        put_aside(self._venv)
        began = time.perf_counter()
        self._run("venv", "-q", "-p", interpreter(), str(self._venv))
        self._run("pip", "sync", "-q", *options, str(self._list))
        return time.perf_counter() - began

    def _run(self, *arguments: str, text: bytes | None = None) -> None:
        argv = [uv_bin(), *arguments]
        subprocess.run(argv, check=True, capture_output=True, env=self._env, input=text, timeout=300)


def timed(ready: Warm, path: Path) -> Callable[[], float]:
    """Return what makes the prefix at `path` anew and tells the seconds; call it in another thread than the loop's."""
    loop = asyncio.get_running_loop()

    def once() -> float:
        put_aside(path)
        began = time.perf_counter()
        asyncio.run_coroutine_threadsafe(ready.prefix(), loop).result()
        return time.perf_counter() - began

    return once


def rows() -> list[Row]:
    """Make the prefix and uv's environment in turn."""
    with scratch("build-prefix") as folder:
        return asyncio.run(_measure(folder))


async def _measure(folder: Path) -> list[Row]:
    ready = await warm(folder)
    try:
        path = await ready.prefix()
        peer = Uv(folder / "peer")
        peer.compile()
        peer.install()
        sides = {"ours": timed(ready, path), "plain": peer.install}
        series = await asyncio.to_thread(interleaved, ROUNDS, sides)
        compiled = await asyncio.to_thread(
            interleaved, COMPILED_ROUNDS, {"compiled": lambda: peer.install("--compile-bytecode")}
        )
        _check(path)
        return _rows(series, compiled)
    finally:
        await ready.files.close()


def _check(path: Path) -> None:
    done = subprocess.run([str(path / "bin" / "python"), "-c", USABLE], check=True, capture_output=True, text=True)
    assert Path(os.path.realpath(done.stdout.strip())) == path.resolve(), done.stdout


def _rows(series: Series, compiled: Series) -> list[Row]:
    took, plain, slow = series.median("ours"), series.median("plain"), compiled.median("compiled")
    what = f"lock → prefix with bytecode, scikit-learn + pandas (p99 {series.p99('ours'):.2f} s)"
    name = "uv venv + uv pip sync, warm"
    return [
        Row("build-prefix", what, took, "s", f"≤ {GOAL_PLAIN} x", ROUNDS, name, plain, took <= GOAL_PLAIN * plain),
        Row(
            "build-prefix", what, took, "s", f"≤ {GOAL_COMPILED} x", COMPILED_ROUNDS, f"{name}, --compile-bytecode",
            slow, took <= GOAL_COMPILED * slow,
        ),
    ]  # fmt: skip
