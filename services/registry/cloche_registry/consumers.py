"""What the registry listens to: who asks for references, its own facts, and how runs end."""

from collections.abc import Mapping, Sequence
from typing import Final

import orjson

from cloche_registry.access_rows import access_rows, use_rows
from cloche_registry.handlers import Environments, Models, Resolver
from cloche_registry.keys import Keys
from cloche_registry.ports import FinishedRun
from cloche_registry.rows import environment_rows, model_rows
from cloche_registry.uses import RUNS_SEEN, model_use_rows, use_row
from cloche_registry.wheels import Wheels, wheel_rows
from cloche_shared.bus.dispatch import BatchConsumer, Consumer, Handler
from cloche_shared.bus.projector import Projection, Projector
from cloche_shared.contracts.envelope import Event
from cloche_shared.contracts.fact import fact_type
from cloche_shared.contracts.facts import (
    TOPICS,
    ApiKeysUsed,
    BuildSubmitted,
    RunCanceled,
    RunCompleted,
    RunFailed,
    RunSubmitted,
    ServiceSubmitted,
)
from cloche_shared.errors import Conflict, NotFound
from cloche_shared.journal.commit import StreamId
from cloche_shared.ports.bus import Bus
from cloche_shared.ports.platform import Random
from cloche_shared.ports.views import Row, Views

RUNS_ENDED: Final = "runs.ended"
RUNS_REST_S: Final = 0.03
"""Seconds between two writes of the copy: what a short run goes through meanwhile is written once."""
_TERMINAL: Final = frozenset(fact_type(fact) for fact in (RunCompleted, RunFailed, RunCanceled))
_USED: Final = fact_type(ApiKeysUsed)
_ASKING: Final = (RunSubmitted, ServiceSubmitted, BuildSubmitted)


class RunViews:
    """The registry's copy of runs: up to where each was seen, and what those that ended left behind.

    Two rows for a run, so that a late fact never replaces the end; and one for which environment a run or
    service uses.
    """

    def __init__(self, views: Views) -> None:
        self._views = views

    async def __call__(self, events: Sequence[Event]) -> None:
        """Take a batch of the runner's and deployer's facts into account."""
        seen: dict[str, Event] = {}
        ended: list[Row] = []
        used: dict[str, Row] = {}
        for event in events:
            if event.subject.startswith(("run/", "service/")) and (row := use_row(event)) is not None:
                used[event.subject] = newer(used.get(event.subject), row)
            if not event.subject.startswith("run/"):
                continue
            if event.subject not in seen or seen[event.subject].sequence <= event.sequence:
                seen[event.subject] = event
            if event.type in _TERMINAL:
                ended.append(_row(RUNS_ENDED, event, _end_of(event.data)))
        if seen or used:
            rows = (_row(RUNS_SEEN, event, b"{}") for event in seen.values())
            await self._views.upsert([*ended, *used.values(), *rows])

    async def finished(self, project: str, run_id: str) -> FinishedRun:
        """Return a run that ended. Raises `NotFound` (`run_not_found`), `Conflict` (`run_not_finished`)."""
        row = await self._views.get(RUNS_ENDED, project, run_id)
        if row is not None:
            return FinishedRun(**orjson.loads(row.body))
        if await self._views.get(RUNS_SEEN, project, run_id) is None:
            raise NotFound("run_not_found", f"There is no run {run_id!r}.", todo="Choose one from `cloche run list`.")
        raise Conflict(
            "run_not_finished",
            f"The run {run_id} has not ended yet.",
            why="Its outputs are kept when it ends.",
            todo="Wait for it with `cloche run wait`, then register the model.",
        )


def newer(known: Row | None, row: Row) -> Row:
    """Return the row with the higher position: of one aggregate a batch may hold several facts."""
    return row if known is None or known.seq <= row.seq else known


def _end_of(data: Mapping[str, object]) -> bytes:
    environment = data.get("environment")
    known = environment if isinstance(environment, dict) else {}
    return orjson.dumps(
        {
            "outputs": data.get("outputs") or "",
            "environment_name": known.get("name", ""),
            "environment_version": known.get("version", ""),
        }
    )


def _row(view: str, event: Event, body: bytes) -> Row:
    stream = StreamId.parse(event.subject)
    return Row(view, stream.project, stream.id, event.sequence, stream.id, body)


class KeyViews:
    """Keeps when each key was used last."""

    def __init__(self, views: Views) -> None:
        self._views = views

    async def __call__(self, events: Sequence[Event]) -> None:
        """Take a batch of what the services told into account."""
        rows = [row for event in events if event.type == _USED for row in use_rows(event)]
        if rows:
            await self._views.upsert(rows)


class Listeners:
    """The registry's consumers."""

    def __init__(self, bus: Bus, random: Random, code_version: str) -> None:
        self._bus = bus
        self._random = random
        self._code_version = code_version

    def resolver(self, resolve: Resolver) -> Consumer:
        """Return what answers those who ask for references."""
        handlers: dict[str, Handler] = {fact_type(fact): resolve for fact in _ASKING}
        topics = [TOPICS["run"], TOPICS["service"], TOPICS["buildrequest"]]
        return Consumer(
            self._bus, "registry.resolver", topics, handlers, random=self._random, code_version=self._code_version
        )

    def lists(self, projector: Projector) -> BatchConsumer:
        """Return what keeps the lists."""
        return self._batch("registry.lists", [TOPICS["environment"], TOPICS["model"], TOPICS["access"]], projector)

    def runs(self, runs: RunViews) -> BatchConsumer:
        """Return what keeps the copy of runs, and who uses which environment."""
        return self._batch("registry.runs", [TOPICS["run"], TOPICS["service"]], runs, rest=RUNS_REST_S)

    def uses(self, keys: KeyViews) -> BatchConsumer:
        """Return what keeps when keys were used."""
        return self._batch("registry.uses", [TOPICS["usage"]], keys)

    def _batch(
        self, group: str, topics: list[str], handle: Projector | RunViews | KeyViews, *, rest: float = 0.0
    ) -> BatchConsumer:
        return BatchConsumer(
            self._bus, group, topics, handle, random=self._random, code_version=self._code_version, rest=rest
        )


def list_projector(views: Views, environments: Environments, models: Models, keys: Keys, wheels: Wheels) -> Projector:
    """Return the projector of the registry's lists."""
    return Projector(
        views,
        [
            Projection(environments.streams, environment_rows),
            Projection(models.streams, lambda *of: [*model_rows(*of), *model_use_rows(*of)]),
            Projection(keys.streams, access_rows),
            Projection(wheels.streams, wheel_rows),
        ],
    )
