"""A package index on loopback for tests that are no coroutines: it serves from a thread, and can be held up."""

import asyncio
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

from cloche_shared.adapters.memory_resolver import Package
from tests.environments.package_index import PackageIndex


@dataclass
class ThreadedIndex(PackageIndex):
    """An index whose files come only while `gate` is open."""

    gate: threading.Event = field(default_factory=threading.Event)

    def answer(self, path: str, authorization: str) -> tuple[int, bytes]:
        if path.startswith("/files/"):
            self.gate.wait()
        return super().answer(path, authorization)

    def add(self, name: str, version: str = "1.0", *, only_source: bool = False, compiles: bool = True) -> str:
        """Offer a package whose module holds `VERSION`; returns the requirements that get it from here."""
        module = name.replace("-", "_")
        files = {f"{module}.py": f"VERSION = {version!r}\n"}
        self.packages.append(Package(name, version, (), files, only_source, compiles))
        return self.requirements(f"{name}=={version}")

    def requirements(self, *lines: str) -> str:
        """Return the text of a requirements file for this index."""
        return "\n".join([f"--index-url {self.url}", *lines, ""])


@contextmanager
def threaded_index() -> Iterator[ThreadedIndex]:
    """Serve an index from a thread."""
    index, ready, loop = ThreadedIndex(), threading.Event(), asyncio.new_event_loop()
    index.gate.set()
    end = asyncio.Event()

    async def serve() -> None:
        server = await asyncio.start_server(index.serve, "127.0.0.1", 0)
        index.url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}/simple"
        async with server:
            ready.set()
            await end.wait()
        await _finish()

    thread = threading.Thread(target=lambda: loop.run_until_complete(serve()), daemon=True)
    thread.start()
    ready.wait()
    try:
        yield index
    finally:
        index.gate.set()
        loop.call_soon_threadsafe(end.set)
        thread.join()
        loop.close()


async def _finish() -> None:
    """End the connections that are still open, also those accepted meanwhile, and let their sockets close."""
    for _ in range(20):
        open_ones = asyncio.all_tasks() - {asyncio.current_task()}
        for task in open_ones:
            task.cancel()
        await asyncio.gather(*open_ones, return_exceptions=True)
        await asyncio.sleep(0.02)
        if not open_ones:
            return
