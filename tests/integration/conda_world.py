"""A channel with a real Python, and what solves, fetches and installs from it."""

import asyncio
import os
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from cloche_shared.adapters.conda.process import CondaWorkers
from cloche_shared.adapters.conda.solver import RattlerSolver
from cloche_shared.adapters.file_blobs import FileBlobs
from cloche_shared.adapters.http_client import HttpClient
from cloche_shared.adapters.interpreters import Interpreters
from cloche_shared.adapters.local_node_files import LocalNodeFiles
from cloche_shared.adapters.uv_resolver import UvResolver
from cloche_shared.contracts.definition import Lock
from cloche_shared.ports.conda import CondaWish
from cloche_shared.ports.node_files import Prefix
from cloche_shared.ports.resolver import Choice, Resolution
from cloche_shared.store.artefacts import Sources, fetch, make_lock
from cloche_shared.store.hashing import lock_digest
from tests.environments.conda_channel import SUBDIR

VIRTUAL = ("__unix=0=0", "__linux=6.1=0", "__glibc=2.36=0")


@dataclass
class CondaWorld:
    """Everything on this machine, in folders of its own; `root` is the channel's folder."""

    folder: Path
    root: Path
    said: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.workers = CondaWorkers(self.folder / "conda", 2)
        self.solver = RattlerSolver(self.workers, file_roots=[self.root.parent])
        self.blobs = FileBlobs(self.folder / "blobs")
        self.http = HttpClient()
        self.interpreters = Interpreters(path="")
        self.uv = UvResolver(self.folder / "uv", self.interpreters, managed=False)
        self.node = LocalNodeFiles(self.folder / "node", self.interpreters)

    async def close(self) -> None:
        await self.node.close()
        await self.http.close()
        await self.workers.close()

    async def say(self, line: str) -> None:
        self.said.append(line)

    def sources(self) -> Sources:
        return Sources(self.http, self.blobs, self.uv, self.say)

    async def lock(self, *specs: str, channels: Sequence[str] = ()) -> Lock:
        """Return a lock of conda packages alone, whose files are in the blobs."""
        wish = CondaWish(specs, tuple(channels) or (f"file://{self.root}",), SUBDIR, VIRTUAL)
        records = await self.solver.solve(wish, self.say)
        python = next((record.version for record in records if record.name == "python"), "3.11.7")
        choices = tuple(
            Choice("conda", one.name, one.version, one.filename, one.url, one.sha256, one.size, one.build, one.subdir)
            for one in records
        )
        resolution = Resolution(python, "", "linux-x86_64", choices, "", tuple(channels))
        return make_lock("e1:" + "0" * 64, resolution, await fetch(resolution, self.sources()))

    async def prefix(self, lock: Lock) -> Prefix:
        return await self.node.prefix(lock_digest(lock), lock, self.blobs)


async def output(*arguments: str | Path) -> str:
    """Return what a program says, which must end well; it finds its neighbours first, as in a run.

    That counts where a prefix lies so deep that its path does not fit behind `#!` and `env` is asked instead.
    """
    environ = {**os.environ, "PATH": f"{Path(arguments[0]).parent}:{os.environ['PATH']}"}
    done = await asyncio.to_thread(subprocess.run, arguments, capture_output=True, text=True, check=False, env=environ)
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()
