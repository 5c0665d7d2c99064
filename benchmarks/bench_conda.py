"""`conda`: solve and link the test channel's environment, everything warm, against py-rattler called bare.

The channel is made on the spot from the interpreter at hand. Both sides have their repodata and packages
unpacked already; py-rattler is loaded in this process, ours in the process that the builder keeps. What a
round replaces is put aside (see `bench_prefix`).
"""

import asyncio
import subprocess
import time
from collections.abc import Callable, Coroutine
from pathlib import Path

from benchmarks.bench_prefix import put_aside
from benchmarks.core import Row, Series, SkippedError, interleaved, scratch
from cloche_shared.adapters.conda.machine import virtual_packages
from cloche_shared.adapters.conda.solver import RattlerSolver
from cloche_shared.adapters.file_blobs import FileBlobStore
from cloche_shared.adapters.http_client import HttpClient
from cloche_shared.adapters.interpreters import Interpreters
from cloche_shared.adapters.local_node_files import LocalNodeFiles
from cloche_shared.adapters.memory_resolver import MemoryResolver
from cloche_shared.contracts.definition import Lock
from cloche_shared.ports.conda import CondaRecord, CondaWish
from cloche_shared.ports.resolver import Choice, Resolution
from cloche_shared.store.artefacts import Sources, fetch, make_lock
from cloche_shared.store.hashing import lock_digest
from tests.environments.conda_channel import PACKAGES, PYTHON, SUBDIR, make_channel, python_package

SPECS = ("python", "learner", "placed", "alpha")
ROUNDS = 15
GOAL = 1.2


class Bare:
    """py-rattler as its own documentation calls it, with caches of its own."""

    def __init__(self, folder: Path, channel: Path) -> None:
        self._folder = folder
        self._channel = channel
        self.prefix = folder / "prefix"

    async def make(self) -> None:
        """Solve and install."""
        import rattler  # noqa: PLC0415 - large, and only this figure needs it

        records = await rattler.solve(
            [rattler.Channel(self._channel.as_uri())],
            SPECS,
            gateway=rattler.Gateway(cache_dir=self._folder / "repodata"),
            virtual_packages=rattler.VirtualPackage.detect(),
        )
        await rattler.install(records, self.prefix, cache_dir=self._folder / "packages", show_progress=False)


class Ours:
    """The builder's solver and a node's files."""

    def __init__(self, folder: Path, channel: Path) -> None:
        self._blobs = FileBlobStore(folder / "blobs").space("builder", "public")
        self.files = LocalNodeFiles(folder / "node", Interpreters())
        self._solver = RattlerSolver(self.files.conda_workers, file_roots=[channel])
        self._wish = CondaWish(SPECS, (channel.as_uri(),), SUBDIR, virtual_packages())
        self._lock: Lock | None = None
        self.prefix = folder

    async def make(self) -> None:
        """Solve, and make the prefix of the lock; the packages are in the blobs from the first time on."""
        records = await self._solver.solve(self._wish, _silent)
        self._lock = self._lock or await self._fetched(records)
        made = await self.files.prefix(lock_digest(self._lock), self._lock, self._blobs)
        self.prefix = made.path

    async def _fetched(self, records: tuple[CondaRecord, ...]) -> Lock:
        choices = tuple(
            Choice("conda", one.name, one.version, one.filename, one.url, one.sha256, one.size, one.build, one.subdir)
            for one in records
        )
        resolution = Resolution(PYTHON, "", "linux-x86_64", choices, "")
        http = HttpClient()
        try:
            artefacts = await fetch(resolution, Sources(http, self._blobs, MemoryResolver(), _silent))
        finally:
            await http.close()
        return make_lock("e1:" + "0" * 64, resolution, artefacts)


async def _silent(_line: str) -> None:
    """Take a line of a build's log."""


def rows() -> list[Row]:
    """Make both in turn."""
    try:
        import rattler  # noqa: F401, PLC0415 - the peer must be here
    except ImportError:
        raise SkippedError("py-rattler is not installed") from None
    with scratch("conda") as folder:
        return asyncio.run(_measure(folder))


async def _measure(folder: Path) -> list[Row]:
    channel = await make_channel(folder / "channel", *PACKAGES, python_package())
    ours, bare = Ours(folder / "ours", channel), Bare(folder / "bare", channel)
    loop = asyncio.get_running_loop()

    def timed(make: Callable[[], Coroutine[None, None, None]], side: Ours | Bare) -> Callable[[], float]:
        def once() -> float:
            put_aside(side.prefix)
            began = time.perf_counter()
            asyncio.run_coroutine_threadsafe(make(), loop).result()
            return time.perf_counter() - began

        return once

    try:
        await ours.make()
        await bare.make()
        sides = {"ours": timed(ours.make, ours), "bare": timed(bare.make, bare)}
        series = await asyncio.to_thread(interleaved, ROUNDS, sides)
        await asyncio.to_thread(_check, ours.prefix)
        return [_row(series)]
    finally:
        await ours.files.close()


def _check(prefix: Path) -> None:
    done = subprocess.run([str(prefix / "bin" / "learner")], check=True, capture_output=True, text=True)
    assert done.stdout == "learner with 1.26.4\n", done.stdout


def _row(series: Series) -> Row:
    took, bare = series.median("ours"), series.median("bare")
    what = f"solve + link of the test channel's environment, warm (p99 {series.p99('ours'):.2f} s)"
    return Row("conda", what, took, "s", f"≤ {GOAL} x", ROUNDS, "py-rattler called bare", bare, took <= GOAL * bare)
