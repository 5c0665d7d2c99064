"""`events`: from a commit to its durable effect over the broker, against a bare produce-consume loop."""

import json
import subprocess
import uuid
from dataclasses import asdict
from statistics import median

from benchmarks.cluster.event_loops import Plan, Took
from benchmarks.cluster.leftovers import remove_databases, remove_topics
from benchmarks.cluster.servers import broker, document_store
from benchmarks.core import ROOT, Row, environment, python

ROUNDS = 3
EVENTS = 4_000
BATCH = 250
GOAL = 0.5
LOOP_SECONDS = 120
SIDES = ("ours", "bare")


def rows() -> list[Row]:
    """Run both loops in turn, each in a new process, on topics and databases of its own."""
    seen: dict[str, list[Took]] = {side: [] for side in SIDES}
    name = f"b{uuid.uuid4().hex[:10]}"
    with broker() as kafka, document_store() as store:
        try:
            for number in range(ROUNDS):
                for side in SIDES if number % 2 == 0 else reversed(SIDES):
                    seen[side].append(_child(Plan(side, kafka, store, f"{name}{side}{number}", EVENTS, BATCH)))
        finally:
            remove_topics(kafka, name)
            remove_databases(store, name)
    return _rows(seen, kafka.product, store.product)


def _rows(seen: dict[str, list[Took]], kafka: str, store: str) -> list[Row]:
    ours, bare = (median(EVENTS / took.effects for took in seen[side]) for side in SIDES)
    marked = median(EVENTS / took.settled for took in seen["ours"])
    what = (
        f"events/s, commit → durable effect: {EVENTS:,} commits (in batches of {BATCH}, included in the time),"
        f" {kafka}, one durable document each in {store}"
    )
    peer = "bare aiokafka loop, produced in the same batches, one insert each"
    until = "the same until each is also marked as sent in the journal, which nobody waits for"
    return [
        Row("events", what, ours, "/s", f"≥ {GOAL} x", ROUNDS, peer, bare, ours >= GOAL * bare),
        Row("events", until, marked, "/s", "", ROUNDS, peer, bare),
    ]


def _child(plan: Plan) -> Took:
    done = subprocess.run(
        python("-m", "benchmarks.cluster.event_loops"),
        input=json.dumps(asdict(plan)).encode(),
        stdout=subprocess.PIPE,
        cwd=ROOT,
        env=environment(),
        timeout=LOOP_SECONDS,
        check=True,
    )
    return Took(**json.loads(done.stdout))
