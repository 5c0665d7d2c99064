"""A package index on loopback for tests that are no coroutines: it serves from a thread."""

import asyncio
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from cloche_shared.adapters.memory_resolver import Package
from tests.environments.package_index import PackageIndex, running_index


@dataclass
class ThreadedIndex:
    """An index, and what tests say to it."""

    index: PackageIndex

    @property
    def url(self) -> str:
        return self.index.url

    @property
    def asked(self) -> list[str]:
        """The paths that were asked for."""
        return self.index.asked

    def add(self, name: str, version: str = "1.0", **options: object) -> str:
        """Offer a package whose module holds `VERSION`; returns the requirements that get it from here."""
        module = name.replace("-", "_")
        files = {f"{module}.py": f"VERSION = {version!r}\n"}
        self.index.packages.append(Package(name, version, **{"files": files, **options}))  # type: ignore[arg-type]
        return self.requirements(f"{name}=={version}")

    def requirements(self, *lines: str) -> str:
        """Return the text of a requirements file for this index."""
        return "\n".join([f"--index-url {self.url}", *lines, ""])


@contextmanager
def threaded_index() -> Iterator[ThreadedIndex]:
    """Serve an index from a thread."""
    ready, loop = threading.Event(), asyncio.new_event_loop()
    found: list[PackageIndex] = []
    end = asyncio.Event()

    async def serve() -> None:
        async with running_index() as index:
            found.append(index)
            ready.set()
            await end.wait()

    thread = threading.Thread(target=lambda: loop.run_until_complete(serve()), daemon=True)
    thread.start()
    ready.wait()
    try:
        yield ThreadedIndex(found[0])
    finally:
        loop.call_soon_threadsafe(end.set)
        thread.join()
        loop.close()
