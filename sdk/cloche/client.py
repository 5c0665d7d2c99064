"""The SDK for ordinary code: `Client`."""

import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Self, TypeVar

from cloche import _private_wheels as private
from cloche import _resources as described
from cloche import _running as running
from cloche import _views
from cloche._calls import Call, Fetch, Operation, Pause, Step, Take
from cloche._errors import ClocheError, Unavailable
from cloche._faces import Sync
from cloche._files import take_one
from cloche._streams import AWAY_S, ServerEvent, Stream, StreamReader
from cloche._transport import PARALLEL, TRANSPORT_ERRORS, Exchange, SyncTransport

T = TypeVar("T")


class Run(Sync, _views.Run, running.RunActions["Run"]):
    """A run, and what can be done with it."""


class Service(Sync, _views.Service, running.ServiceActions["Service"]):
    """A scoring service, and what can be done with it."""


class Environments(Sync, described.Environments):
    """Environments and their versions."""


class Builds(Sync, described.Builds):
    """Builds of environments."""


class Runs(Sync, running.Runs[Run]):
    """Runs."""

    _kind = Run


class Models(Sync, described.Models):
    """Models and their versions."""


class Services(Sync, running.Services[Service]):
    """Scoring services."""

    _kind = Service


class Projects(Sync, described.Projects):
    """Projects."""


class Tokens(Sync, described.Tokens):
    """API keys of the client's project. For administrators."""


class Wheels(Sync, private.Wheels):
    """Private wheels."""


class Letters(Sync, described.Letters):
    """Dead letters: messages that no handler could take. For administrators."""


class Groups(Sync, described.Groups):
    """The consumer groups of the services. For administrators."""


class Journals(Sync, described.Journals):
    """The services' journals, which hold all that ever happened. For administrators."""


class Commands(Sync, described.Commands):
    """Commands by message, for those who cannot, or need not, write to a broker."""


class Nodes(Sync, described.Nodes):
    """The machines that runs are placed on."""


class Client(Sync, described.Connection):
    """A connection to Cloche, for ordinary code. `AsyncClient` is the same for asyncio.

    Without arguments it finds the server of this machine (in the data folder `home`), or what
    `CLOCHE_URL`, `CLOCHE_TOKEN` and `CLOCHE_PROJECT` name. Every method may raise a `ClocheError`,
    whose `code` never changes.
    """

    def _open(self, exchange: Exchange) -> None:
        self._client = self
        self._transport = SyncTransport(exchange)
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

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Close the connections."""
        self._transport.close()

    # --- for the faces

    def perform(self, operation: Operation[T]) -> T:
        """Run an operation."""
        try:
            step = next(operation)
            while True:
                try:
                    brought = self._step(step)
                except ClocheError as error:
                    step = operation.throw(error)
                else:
                    step = operation.send(brought)
        except StopIteration as end:
            result: T = end.value
            return result

    def _step(self, step: Step) -> object:
        if isinstance(step, Call):
            return self._transport.send(step)
        if isinstance(step, Pause):
            time.sleep(step.seconds)
            return None
        if isinstance(step, Take):
            return take_one(step.path, self._digests, step.without, follow=step.follow)
        if isinstance(step, Fetch):
            return self._fetch(step.call, step.to)
        with ThreadPoolExecutor(max_workers=PARALLEL) as pool:
            return list(pool.map(self._transport.send, step.calls))

    def _fetch(self, call: Call, to: Path) -> Path:
        to.parent.mkdir(parents=True, exist_ok=True)
        partial = to.with_name(f".{to.name}.part")
        with partial.open("wb") as file:
            file.writelines(self._transport.stream(call))
        partial.replace(to)
        return to

    def follow(self, found: Stream[T]) -> Iterator[T]:
        """Yield what a stream brings."""
        if found.whole is not None and not found.follow:
            yield found.whole(self._transport.send(Call("GET", found.path, query=found.query)).body)
            return
        for event in self._server_events(StreamReader(found.path, follow=found.follow, query=found.query)):
            yield found.read(event)

    def _server_events(self, reader: StreamReader) -> Iterator[ServerEvent]:
        """Yield server-sent events, going on where a broken connection ended."""
        while reader.more:
            try:
                for piece in self._transport.stream(reader.call()):
                    yield from reader.feed(piece)
            except TRANSPORT_ERRORS as error:
                reader.broken(self.endpoint.url, error)
                time.sleep(reader.pause)
            except Unavailable as error:
                reader.away(error)
                time.sleep(AWAY_S)
            else:
                reader.ended()
                if reader.more:
                    time.sleep(reader.pause)
