"""`register`: durable registrations per second from 32 connections, against a naive handler."""

import asyncio
import json
import time
from statistics import median

from benchmarks.cloche_server import Running, cloche
from benchmarks.core import Row, p99, port_open, process, python, scratch
from benchmarks.generator import Plan, Seen, load
from benchmarks.peers import free_port

ROUNDS = 5
CONNECTIONS = 32
SECONDS = 2.0
WARM_SECONDS = 1.0
SIDES = ("ours", "async", "threadpool")
BODY = {"name": "bench-%d", "definition": {"python": {"version": "3.11", "pip": ["numpy==1.%d"]}}}
GOAL_RATE, GOAL_P99 = 1.0, 2.0


def rows() -> list[Row]:
    """Load Cloche and both naive handlers in turn."""
    seen: dict[str, list[Seen]] = {side: [] for side in SIDES}
    with scratch("register") as folder, cloche(folder / "home") as server:
        port = free_port()
        argv = python("-m", "uvicorn", "--port", str(port), "--no-access-log", "benchmarks.naive:app")
        with process(argv, folder / "naive.log", NAIVE_DB=str(folder / "naive.db")):
            asyncio.run(port_open(port))
            plans = _plans(server, port)
            for side in SIDES:
                load(plans(side, WARM_SECONDS, 0))
            for number in range(ROUNDS):
                for side in SIDES:
                    seen[side].append(load(plans(side, SECONDS, (number + 1) * 10_000_000)))
                    time.sleep(0.2)
        _check(server, seen["ours"])
    return _rows(seen)


class _plans:  # noqa: N801 - a function with two arguments bound
    def __init__(self, server: Running, naive: int) -> None:
        self._server = server
        self._naive = naive

    def __call__(self, side: str, seconds: float, first: int) -> Plan:
        ours = side == "ours"
        headers = {"Content-Type": "application/json"}
        if ours:
            headers["Authorization"] = f"Bearer {self._server.token}"
        return Plan(
            host="127.0.0.1",
            port=self._server.port if ours else self._naive,
            path="/api/v1/environments" if ours else f"/{side}",
            body=json.dumps(BODY),
            headers=headers,
            connections=CONNECTIONS,
            seconds=seconds,
            first=first,
            keep=ours,
        )


def _check(server: Running, seen: list[Seen]) -> None:
    """Read some of what was acknowledged back: a rate without its invariant does not count."""
    with server.client() as client:
        for one in seen:
            assert not one.failed, f"{one.failed} requests failed"
            for number in one.kept[:: max(1, len(one.kept) // 10)]:
                assert client.environments.get(f"bench-{number}").version == "1"


def _rows(seen: dict[str, list[Seen]]) -> list[Row]:
    rates = {side: median(one.rate for one in found) for side, found in seen.items()}
    tails = {side: median(p99(one.latencies) for one in found) for side, found in seen.items()}
    naive = max(SIDES[1:], key=lambda side: rates[side])
    cpu = median(one.cpu for one in seen["ours"])
    peer = f"naive FastAPI handler, {naive}"
    what = f"durable registrations/s, 32 connections, new name and content each (generator {cpu:.0%} of a core)"
    return [
        Row(
            "register", what, rates["ours"], "/s", f"≥ {GOAL_RATE} x", ROUNDS, peer, rates[naive],
            rates["ours"] >= GOAL_RATE * rates[naive],
        ),
        Row(
            "register", "p99 of a registration", tails["ours"], "ms", f"≤ {GOAL_P99:.0f} x", ROUNDS, peer, tails[naive],
            tails["ours"] <= GOAL_P99 * tails[naive],
        ),
    ]  # fmt: skip
