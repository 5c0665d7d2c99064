"""`register`: durable registrations per second on the cluster, against a naive handler on the same store."""

import asyncio
import json
import uuid
from statistics import median

from pymongo import MongoClient

from benchmarks.cluster.servers import Cluster, cluster, document_store, port_open, until_quiet
from benchmarks.core import Row, p99, process, python, scratch
from benchmarks.generator import Plan, Seen, load
from benchmarks.peers import free_port
from tests.environments.servers import MongoServer

ROUNDS = 3
CONNECTIONS = 32
SECONDS = 3.0
WARM_SECONDS = 1.0
SIDES = ("ours", "naive")
BODY = {"name": "bench-%d", "definition": {"python": {"version": "3.11", "pip": ["numpy==1.%d"]}}}
GOAL_RATE, GOAL_P99 = 0.5, 4.0


def rows() -> list[Row]:
    """Load the registry and the naive handler in turn."""
    seen: dict[str, list[Seen]] = {side: [] for side in SIDES}
    behind: list[float] = []
    database = f"naive{uuid.uuid4().hex[:12]}"
    with scratch("register") as folder, document_store() as store, cluster(folder) as running:
        port = free_port()
        argv = python("-m", "uvicorn", "--port", str(port), "--no-access-log", "benchmarks.cluster.naive:app")
        with process(argv, folder / "naive.log", NAIVE_URL=store.url, NAIVE_DATABASE=database):
            asyncio.run(port_open(port))
            ports = {"ours": running.ports["registry-1"], "naive": port}
            for side in SIDES:
                load(_plan(side, ports, running.token, WARM_SECONDS, 0))
            until_quiet(running)
            for number in range(ROUNDS):
                for side in SIDES if number % 2 == 0 else reversed(SIDES):
                    seen[side].append(load(_plan(side, ports, running.token, SECONDS, (number + 1) * 10_000_000)))
                    behind.append(until_quiet(running))
        _check(running, seen["ours"])
        _drop(store, database)
    return _rows(seen, store.product, max(behind))


def _plan(side: str, ports: dict[str, int], token: str, seconds: float, first: int) -> Plan:
    headers = {"Content-Type": "application/json"}
    if side == "ours":
        headers["Authorization"] = f"Bearer {token}"
    return Plan(
        host="127.0.0.1",
        port=ports[side],
        path="/api/v1/environments" if side == "ours" else "/register",
        body=json.dumps(BODY),
        headers=headers,
        connections=CONNECTIONS,
        seconds=seconds,
        first=first,
        keep=side == "ours",
    )


def _check(running: Cluster, seen: list[Seen]) -> None:
    """Read some of what was acknowledged back: a rate without its invariant does not count."""
    with running.client() as client:
        for one in seen:
            assert not one.failed, f"{one.failed} requests failed"
            for number in one.kept[:: max(1, len(one.kept) // 10)]:
                assert client.environments.get(f"bench-{number}").version == "1"


def _drop(store: MongoServer, database: str) -> None:
    with MongoClient[dict[str, object]](store.url) as client:
        client.drop_database(database)


def _rows(seen: dict[str, list[Seen]], product: str, behind: float) -> list[Row]:
    rates = {side: median(one.rate for one in found) for side, found in seen.items()}
    tails = {side: median(p99(one.latencies) for one in found) for side, found in seen.items()}
    cpu = median(one.cpu for one in seen["ours"])
    what = f"durable registrations/s on {product}, 32 connections, new name and content each (generator {cpu:.0%})"
    peer = "naive FastAPI handler, one insert"
    return [
        Row(
            "register", what, rates["ours"], "/s", f"≥ {GOAL_RATE} x", ROUNDS, peer, rates["naive"],
            rates["ours"] >= GOAL_RATE * rates["naive"],
        ),
        Row(
            "register", "p99 of a registration", tails["ours"], "ms", f"≤ {GOAL_P99:.0f} x", ROUNDS, peer,
            tails["naive"], tails["ours"] <= GOAL_P99 * tails["naive"],
        ),
        Row(
            "register", f"until {SECONDS:.0f} s of registrations are published and listed, worst", behind, "s", "",
            ROUNDS,
        ),
    ]  # fmt: skip
