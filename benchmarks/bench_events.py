"""`events`: from a commit to its durable effect on the embedded bus, against an empty handler."""

import asyncio
import json
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

import uvloop

from benchmarks.core import ROOT, Row, environment, interleaved, python, scratch
from cloche_shared.adapters.sqlite.file import SqliteFile
from cloche_shared.adapters.system_clock import SystemClock
from cloche_shared.adapters.system_random import SystemRandom
from cloche_shared.bus.dispatch import Consumer, Handler
from cloche_shared.contracts.envelope import Event
from cloche_shared.contracts.fact import fact_type
from cloche_shared.contracts.facts import TOPICS, EnvironmentArchived
from cloche_shared.journal.commit import Actor, Commit, Origin, StreamId
from cloche_shared.journal.writer import Writer
from cloche_shared.ports.journal import Document

ROUNDS = 5
EVENTS = 20_000
BATCH = 250
GOAL_RATE, GOAL_RATIO = 20_000.0, 0.35


@dataclass(slots=True)
class Count:
    """How many effects are there, and the event that all are."""

    left: int
    done: asyncio.Event

    def one(self) -> None:
        """Count one effect."""
        self.left -= 1
        if not self.left:
            self.done.set()


def rows() -> list[Row]:
    """Run the loop with a handler that inserts a document and with an empty one in turn, each in a new process."""
    with scratch("events") as folder:
        numbers = iter(range(1000))
        series = interleaved(
            ROUNDS,
            {kind: lambda kind=kind: _child(kind, folder / str(next(numbers))) for kind in ("effect", "empty")},  # type: ignore[misc]
        )
    rate, peer = series.median("effect"), series.median("empty")
    met = rate >= GOAL_RATE or rate >= GOAL_RATIO * peer
    goal = f"≥ {GOAL_RATE:,.0f}/s or ≥ {GOAL_RATIO} x"
    what = f"events/s: {EVENTS:,} commits (in batches of {BATCH}, included in the time) → one durable document each"
    return [Row("events", what, rate, "/s", goal, ROUNDS, "same loop, empty handler", peer, met)]


def _child(kind: str, folder: Path) -> float:
    folder.mkdir()
    argv = python("-m", "benchmarks.bench_events", kind, str(folder / "bench.db"))
    done = subprocess.run(argv, check=True, capture_output=True, cwd=ROOT, env=environment(), timeout=120)
    return float(json.loads(done.stdout))


async def _measure(kind: str, path: Path) -> float:
    store = await SqliteFile.open(path)
    clock, random = SystemClock(), SystemRandom()
    count = Count(EVENTS, asyncio.Event())
    effects = Writer(store.journal("builder"), clock, random)

    async def effect(event: Event) -> None:
        stream = StreamId("effect", "default", f"e{event.key.rpartition('/')[2]}")
        commit = Commit(effects.unique(), (), Origin.of_event(event, "builder"), effects.now())
        await effects.append([Document(stream.key(1), commit.body())])
        count.one()

    async def empty(_event: Event) -> None:
        count.one()

    handler: Handler = effect if kind == "effect" else empty
    topic = TOPICS["environment"]
    handlers = {fact_type(EnvironmentArchived): handler}
    consumer = Consumer(store.bus(), "bench", [topic], handlers, random=random, code_version="bench")
    running = asyncio.create_task(consumer.run())
    documents = _documents(Writer(store.journal("registry"), clock, random), topic)
    await asyncio.sleep(0.1)
    began = time.perf_counter()
    for at in range(0, EVENTS, BATCH):
        await store.journal("registry").append_many(documents[at : at + BATCH])
    await asyncio.wait_for(count.done.wait(), 60)
    took = time.perf_counter() - began
    consumer.stop()
    await running
    if kind == "effect":
        found = await store.journal("builder").read("effect/", limit=EVENTS + 1)
        assert len(found) == EVENTS, len(found)
    await store.close()
    return EVENTS / took


def _documents(writer: Writer, topic: str) -> list[Document]:
    origin = Origin(Actor("key:bench", "127.0.0.1", "bench"), "bench")
    made: list[Document] = []
    for number in range(EVENTS):
        stream = StreamId("environment", "default", f"b{number}")
        commit = Commit(writer.unique(), (EnvironmentArchived(),), origin, writer.now())
        made.append(Document(stream.key(1), commit.body(), topic, str(stream)))
    return made


if __name__ == "__main__":
    print(uvloop.run(_measure(sys.argv[1], Path(sys.argv[2]))))
