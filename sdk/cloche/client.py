"""The SDK for ordinary code: `Client`."""

import time
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, Self, TypeVar

from cloche import _operations as ops
from cloche import _views
from cloche._calls import Answer, Call, Operation, Pause, Step, send
from cloche._config import find_endpoint, kept_positions
from cloche._errors import ClocheError
from cloche._files import DigestCache, Snapshot, take_one
from cloche._resources import Builds, Environments, Models, Nodes, Runs, Services
from cloche._streams import (
    ServerEvent,
    StreamReader,
    events_query,
)
from cloche._transport import PARALLEL, TRANSPORT_ERRORS, Exchange, SyncTransport

T = TypeVar("T")
list_ = list


class Client:
    """A connection to Cloche, for ordinary code. `AsyncClient` is the same for asyncio.

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
        self._transport = SyncTransport(Exchange(self.endpoint, kept_positions(self.endpoint, folder)))
        self._digests = DigestCache()
        self.environments = Environments(self)
        self.builds = Builds(self)
        self.runs = Runs(self)
        self.models = Models(self)
        self.services = Services(self)
        self.nodes = Nodes(self)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Close the connections."""
        self._transport.close()

    def version(self) -> dict[str, Any]:
        """Return what runs there."""
        return self.perform(send(Call("GET", "/version"))).json()

    def ready(self) -> dict[str, Any]:
        """Return whether the server is ready, and which parts are not."""
        call = Call("GET", "/readyz", accept=frozenset({200, 503}))
        return self._transport.send_once(call).json()

    def events(
        self,
        *,
        follow: bool = True,
        from_start: bool = False,
        types: Iterable[str] = (),
        correlation: str | None = None,
        subject: str | None = None,
    ) -> Iterator[_views.Event]:
        """Yield events as they happen; with `from_start` first those that happened."""
        query = events_query(from_start=from_start, types=types, correlation=correlation, subject=subject)
        for event in self.server_events(ops.path_of("events"), follow=follow, **query):
            yield _views.Event.model_validate_json(event.data)

    # --- for the resources

    def perform(self, operation: Operation[T]) -> T:
        """Run an operation."""
        try:
            step = next(operation)
            while True:
                try:
                    answers = self._step(step)
                except ClocheError as error:
                    step = operation.throw(error)
                else:
                    step = operation.send(answers)
        except StopIteration as end:
            result: T = end.value
            return result

    def _step(self, step: Step) -> list_[Answer]:
        if isinstance(step, Call):
            return [self._transport.send(step)]
        if isinstance(step, Pause):
            time.sleep(step.seconds)
            return []
        with ThreadPoolExecutor(max_workers=PARALLEL) as pool:
            return list(pool.map(self._transport.send, step.calls))

    def snapshot(self, path: Path) -> Snapshot:
        """Return the snapshot of a file or folder."""
        return take_one(path, self._digests)

    def deadline(self, timeout: float | None) -> ops.Deadline:
        """Return a deadline from now."""
        return ops.Deadline(timeout)

    def download(self, call: Call, to: Path) -> Path:
        """Write a body to a file."""
        to.parent.mkdir(parents=True, exist_ok=True)
        partial = to.with_name(f".{to.name}.part")
        with partial.open("wb") as file:
            file.writelines(self._transport.stream(call))
        partial.replace(to)
        return to

    def server_events(self, path: str, *, follow: bool, **query: str | int | None) -> Iterator[ServerEvent]:
        """Yield server-sent events, going on where a broken connection ended."""
        reader = StreamReader(path, follow=follow, query=query)
        while reader.more:
            try:
                for piece in self._transport.stream(reader.call()):
                    yield from reader.feed(piece)
            except TRANSPORT_ERRORS as error:
                reader.broken(self.endpoint.url, error)
                time.sleep(reader.pause)
            else:
                reader.ended()
                if reader.more:
                    time.sleep(reader.pause)
