"""The SDK for asyncio: `AsyncClient` (the same as `Client`, with `await`)."""

import asyncio
from collections.abc import AsyncGenerator
from contextlib import aclosing
from pathlib import Path
from typing import Self, TypeVar

from cloche import _private_wheels as private
from cloche import _resources as described
from cloche import _running as running
from cloche import _views
from cloche._calls import Answer, Call, Fetch, Operation, Pause, Step, Take
from cloche._errors import ClocheError, Unavailable
from cloche._faces import Async
from cloche._files import take_one
from cloche._streams import AWAY_S, ServerEvent, Stream, StreamReader
from cloche._transport import PARALLEL, TRANSPORT_ERRORS, AsyncTransport, Exchange

T = TypeVar("T")


class Run(Async, _views.Run, running.RunActions["Run"]):
    """A run, and what can be done with it."""


class Service(Async, _views.Service, running.ServiceActions["Service"]):
    """A scoring service, and what can be done with it."""


class Environments(Async, described.Environments):
    """Environments and their versions."""


class Builds(Async, described.Builds):
    """Builds of environments."""


class Runs(Async, running.Runs[Run]):
    """Runs."""

    _kind = Run


class Models(Async, described.Models):
    """Models and their versions."""


class Services(Async, running.Services[Service]):
    """Scoring services."""

    _kind = Service


class Projects(Async, described.Projects):
    """Projects."""


class Tokens(Async, described.Tokens):
    """API keys of the client's project. For administrators."""


class Wheels(Async, private.Wheels):
    """Private wheels."""


class Letters(Async, described.Letters):
    """Dead letters: messages that no handler could take. For administrators."""


class Groups(Async, described.Groups):
    """The consumer groups of the services. For administrators."""


class Journals(Async, described.Journals):
    """The services' journals, which hold all that ever happened. For administrators."""


class Commands(Async, described.Commands):
    """Commands by message, for those who cannot, or need not, write to a broker."""


class Nodes(Async, described.Nodes):
    """The machines that runs are placed on."""


class AsyncClient(Async, described.Connection):
    """A connection to Cloche, for asyncio. `Client` is the same for ordinary code.

    Without arguments it finds the server of this machine (in the data folder `home`), or what
    `CLOCHE_URL`, `CLOCHE_TOKEN` and `CLOCHE_PROJECT` name. Every method may raise a `ClocheError`,
    whose `code` never changes.
    """

    def _open(self, exchange: Exchange) -> None:
        self._client = self
        self._transport = AsyncTransport(exchange)
        self.environments = Environments(self)
        self.builds = Builds(self)
        self.wheels = Wheels(self)
        self.runs = Runs(self)
        self.models = Models(self)
        self.services = Services(self)
        self.nodes = Nodes(self)
        self.projects = Projects(self)
        self.tokens = Tokens(self)
        self.letters = Letters(self)
        self.groups = Groups(self)
        self.journals = Journals(self)
        self.commands = Commands(self)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    async def close(self) -> None:
        """Close the connections."""
        await self._transport.close()

    # --- for the faces

    async def perform(self, operation: Operation[T]) -> T:
        """Run an operation."""
        try:
            step = next(operation)
            while True:
                try:
                    brought = await self._step(step)
                except ClocheError as error:
                    step = operation.throw(error)
                else:
                    step = operation.send(brought)
        except StopIteration as end:
            result: T = end.value
            return result

    async def _step(self, step: Step) -> object:
        if isinstance(step, Call):
            return await self._transport.send(step)
        if isinstance(step, Pause):
            await asyncio.sleep(step.seconds)
            return None
        if isinstance(step, Take):
            return await asyncio.to_thread(take_one, step.path, self._digests, step.without, follow=step.follow)
        if isinstance(step, Fetch):
            return await self._fetch(step.call, step.to)
        gate = asyncio.Semaphore(PARALLEL)

        async def one(call: Call) -> Answer:
            async with gate:
                return await self._transport.send(call)

        return list(await asyncio.gather(*(one(call) for call in step.calls)))

    async def _fetch(self, call: Call, to: Path) -> Path:
        await asyncio.to_thread(to.parent.mkdir, parents=True, exist_ok=True)
        partial = to.with_name(f".{to.name}.part")
        with await asyncio.to_thread(partial.open, "wb") as file:
            async for piece in self._transport.stream(call):
                file.write(piece)
        partial.replace(to)
        return to

    async def follow(self, found: Stream[T]) -> AsyncGenerator[T, None]:
        """Yield what a stream brings."""
        if found.whole is not None and not found.follow:
            answer = await self._transport.send(Call("GET", found.path, query=found.query))
            yield found.whole(answer.body)
            return
        reader = StreamReader(found.path, follow=found.follow, query=found.query)
        async with aclosing(self._server_events(reader)) as events:
            async for event in events:
                yield found.read(event)

    async def _server_events(self, reader: StreamReader) -> AsyncGenerator[ServerEvent, None]:
        """Yield server-sent events, going on where a broken connection ended."""
        while reader.more:
            try:
                async with aclosing(self._transport.stream(reader.call())) as pieces:
                    async for piece in pieces:
                        for event in reader.feed(piece):
                            yield event
            except TRANSPORT_ERRORS as error:
                reader.broken(self.endpoint.url, error)
                await asyncio.sleep(reader.pause)
            except Unavailable as error:
                reader.away(error)
                await asyncio.sleep(AWAY_S)
            else:
                reader.ended()
                if reader.more:
                    await asyncio.sleep(reader.pause)
