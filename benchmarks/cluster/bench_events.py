"""`events`: from a commit to its durable effect over the broker, against a bare produce-consume loop."""

import json
import subprocess
import uuid
from dataclasses import asdict

from benchmarks.cluster.event_loops import Plan
from benchmarks.cluster.leftovers import remove_databases, remove_topics
from benchmarks.cluster.servers import broker, document_store
from benchmarks.core import ROOT, Row, environment, interleaved, python

ROUNDS = 3
EVENTS = 4_000
BATCH = 250
GOAL = 0.5
LOOP_SECONDS = 120
SIDES = ("ours", "bare")


def rows() -> list[Row]:
    """Run both loops in turn, each in a new process, on topics and databases of its own."""
    with broker() as kafka, document_store() as store:
        name = f"b{uuid.uuid4().hex[:10]}"
        numbers = iter(range(1000))

        def loop(side: str) -> float:
            number = next(numbers)
            return _child(Plan(side, kafka, store, f"{name}x{number}", EVENTS, BATCH))

        try:
            series = interleaved(ROUNDS, {side: lambda side=side: loop(side) for side in SIDES})  # type: ignore[misc]
        finally:
            remove_topics(kafka, name)
            remove_databases(store, name)
    rate, peer = series.median("ours"), series.median("bare")
    what = (
        f"events/s: {EVENTS:,} commits (in batches of {BATCH}, included in the time), published by {kafka.product},"
        f" marked, one durable document each in {store.product}"
    )
    against = "bare aiokafka loop, produced in the same batches, one insert each"
    return [Row("events", what, rate, "/s", f"≥ {GOAL} x", ROUNDS, against, peer, rate >= GOAL * peer)]


def _child(plan: Plan) -> float:
    done = subprocess.run(
        python("-m", "benchmarks.cluster.event_loops"),
        input=json.dumps(asdict(plan)).encode(),
        stdout=subprocess.PIPE,
        cwd=ROOT,
        env=environment(),
        timeout=LOOP_SECONDS,
        check=True,
    )
    return plan.events / float(done.stdout)
