"""The SDK for asyncio: `AsyncClient` (the same as `Client`, with `await`)."""

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Iterable
from contextlib import aclosing
from pathlib import Path
from typing import Any, Self, TypeVar

from cloche import _operations as ops
from cloche import _views
from cloche._aio_resources import Builds, Environments, Models, Nodes, Runs, Services
from cloche._calls import Answer, Call, Operation, Pause, Step, send
from cloche._config import find_endpoint, kept_positions
from cloche._errors import ClocheError
from cloche._files import DigestCache, Snapshot, take_one
from cloche._streams import (
    ServerEvent,
    StreamReader,
    events_query,
)
from cloche._transport import PARALLEL, TRANSPORT_ERRORS, AsyncTransport, Exchange

T = TypeVar("T")
list_ = list


class AsyncClient:
    """A connection to Cloche, for asyncio. `Client` is the same for ordinary code.

    Without arguments it finds the server of this machine (in the data folder `home`), or what
    `CLOCHE_URL`, `CLOCHE_TOKEN` and `CLOCHE_PROJECT` name. Every method may raise a `ClocheError`,
    whose `code` never changes.
    """

    def __init__(
        self,
        url: str | None = None,
        token: str | None = None,
        project: str | None = None,
        *,
        home: str | Path | None = None,
    ) -> None:
        folder = None if home is None else Path(home)
        self.endpoint = find_endpoint(url, token, project, folder)
        self._transport = AsyncTransport(Exchange(self.endpoint, kept_positions(self.endpoint, folder)))
        self._digests = DigestCache()
        self.environments = Environments(self)
        self.builds = Builds(self)
        self.runs = Runs(self)
        self.models = Models(self)
        self.services = Services(self)
        self.nodes = Nodes(self)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    async def close(self) -> None:
        """Close the connections."""
        await self._transport.close()

    async def version(self) -> dict[str, Any]:
        """Return what runs there."""
        return (await self.perform(send(Call("GET", "/version")))).json()

    async def ready(self) -> dict[str, Any]:
        """Return whether the server is ready, and which parts are not."""
        call = Call("GET", "/readyz", accept=frozenset({200, 503}))
        return (await self._transport.send_once(call)).json()

    async def events(
        self,
        *,
        follow: bool = True,
        from_start: bool = False,
        types: Iterable[str] = (),
        correlation: str | None = None,
        subject: str | None = None,
    ) -> AsyncIterator[_views.Event]:
        """Yield events as they happen; with `from_start` first those that happened."""
        query = events_query(from_start=from_start, types=types, correlation=correlation, subject=subject)
        async with aclosing(self.server_events(ops.path_of("events"), follow=follow, **query)) as found:
            async for event in found:
                yield _views.Event.model_validate_json(event.data)

    # --- for the resources

    async def perform(self, operation: Operation[T]) -> T:
        """Run an operation."""
        try:
            step = next(operation)
            while True:
                try:
                    answers = await self._step(step)
                except ClocheError as error:
                    step = operation.throw(error)
                else:
                    step = operation.send(answers)
        except StopIteration as end:
            result: T = end.value
            return result

    async def _step(self, step: Step) -> list_[Answer]:
        if isinstance(step, Call):
            return [await self._transport.send(step)]
        if isinstance(step, Pause):
            await asyncio.sleep(step.seconds)
            return []
        gate = asyncio.Semaphore(PARALLEL)

        async def one(call: Call) -> Answer:
            async with gate:
                return await self._transport.send(call)

        return list(await asyncio.gather(*(one(call) for call in step.calls)))

    async def snapshot(self, path: Path) -> Snapshot:
        """Return the snapshot of a file or folder."""
        return await asyncio.to_thread(take_one, path, self._digests)

    def deadline(self, timeout: float | None) -> ops.Deadline:
        """Return a deadline from now."""
        return ops.Deadline(timeout)

    async def download(self, call: Call, to: Path) -> Path:
        """Write a body to a file."""
        await asyncio.to_thread(to.parent.mkdir, parents=True, exist_ok=True)
        partial = to.with_name(f".{to.name}.part")
        with await asyncio.to_thread(partial.open, "wb") as file:
            async for piece in self._transport.stream(call):
                file.write(piece)
        partial.replace(to)
        return to

    async def server_events(
        self, path: str, *, follow: bool, **query: str | int | None
    ) -> AsyncGenerator[ServerEvent, None]:
        """Yield server-sent events, going on where a broken connection ended."""
        reader = StreamReader(path, follow=follow, query=query)
        while reader.more:
            try:
                async with aclosing(self._transport.stream(reader.call())) as pieces:
                    async for piece in pieces:
                        for event in reader.feed(piece):
                            yield event
            except TRANSPORT_ERRORS as error:
                reader.broken(self.endpoint.url, error)
                await asyncio.sleep(reader.pause)
            else:
                reader.ended()
                if reader.more:
                    await asyncio.sleep(reader.pause)
