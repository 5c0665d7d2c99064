"""`recovery`: `kill -9` under load; ready again, the running attempt adopted, nothing lost."""

import json
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from benchmarks.bench_register import BODY
from benchmarks.cloche_server import Running, start
from benchmarks.core import Row, Series, scratch
from benchmarks.generator import Plan, begin, finish
from benchmarks.scripts import TICK, written
from cloche import Client

ROUNDS = 4
CONNECTIONS = 8
LOAD_SECONDS = 2.0
CHECKED = 300
GOAL_READY, GOAL_ADOPTED = 1.2, 2.0


@dataclass(frozen=True, slots=True)
class Tick:
    """A line of the script: its number, the process, and the wall-clock nanoseconds."""

    number: int
    pid: int
    at: int


def rows() -> list[Row]:
    """Kill and start again a few times; a round counts only if nothing is lost."""
    series, checked = Series(), 0
    for number in range(ROUNDS):
        with scratch(f"recovery-{number}") as folder:
            checked += _round(folder, series)
    ready, adopted, fresh = series.median("ready"), series.median("adopted"), series.median("fresh")
    worst = f"worst {max(series.values['ready']):.2f} s"
    lost = (
        f"same process, no line missing, worst {max(series.values['adopted']):.2f} s; {checked} 2xx read back, 0 lost"
    )
    peer = "start on an empty data folder"
    return [
        Row(
            "recovery", f"kill -9 under load, API ready again ({worst})", ready, "s", f"≤ {GOAL_READY} s", ROUNDS,
            peer, fresh, ready <= GOAL_READY,
        ),
        Row(
            "recovery", f"running attempt adopted: its log goes on ({lost})", adopted, "s", f"≤ {GOAL_ADOPTED} s",
            ROUNDS, peer, fresh, adopted <= GOAL_ADOPTED,
        ),
    ]  # fmt: skip


@contextmanager
def _stopping(servers: list[Running]) -> Iterator[None]:
    try:
        yield
    finally:
        if servers[-1].process.poll() is None:
            with servers[-1].client() as client:
                for run in client.runs.list():
                    if not run.ended:
                        client.runs.cancel(run.id).wait(20)
            servers[-1].stop()


def _round(folder: Path, series: Series) -> int:
    servers = [start(folder / "home")]
    series.add("fresh", servers[0].ready_s)
    stop = folder / "stop"
    with _stopping(servers):
        with servers[0].client() as client:
            client.environments.register("bench", definition={})
            run = client.runs.submit(written(folder, "tick.py", TICK), arguments=[str(stop)], environment="bench")
            _first_line(client, run.id)
        kept = _killed_under_load(servers[0])
        before = time.time_ns()
        servers.append(start(folder / "home"))
        series.add("ready", servers[1].ready_s)
        with servers[1].client() as client:
            series.add("adopted", _goes_on(client, run.id, before))
            _complete(client, run.id, stop)
            return _read_back(client, kept)


def _ticks(client: Client, run_id: str) -> Iterator[Tick]:
    rest = b""
    for piece in client.runs.log(run_id):
        *lines, rest = (rest + piece).split(b"\n")
        yield from (Tick(*map(int, line.split())) for line in lines)


def _first_line(client: Client, run_id: str) -> None:
    next(_ticks(client, run_id))


def _killed_under_load(server: Running) -> list[int]:
    """Kill the server in the middle of registrations; return the numbers that it had acknowledged."""
    headers = {"Content-Type": "application/json", "Authorization": f"Bearer {server.token}"}
    plan = Plan(
        "127.0.0.1", server.port, "/api/v1/environments", json.dumps(BODY), "POST", headers, CONNECTIONS,
        LOAD_SECONDS * 2, 0, keep=True,
    )  # fmt: skip
    generator = begin(plan)
    time.sleep(LOAD_SECONDS)
    server.kill()
    kept = finish(generator).kept
    assert kept, "the load generator registered nothing"
    return kept


def _goes_on(client: Client, run_id: str, before: int) -> float:
    """Return the seconds from the new process's start to a line that the script wrote since, read through the API."""
    for tick in _ticks(client, run_id):
        if tick.at > before:
            return (time.time_ns() - before) / 1e9
    raise AssertionError("the log ended")


def _complete(client: Client, run_id: str, stop: Path) -> None:
    """Let the script end: the new process must see it end well, as one attempt, with every line."""
    stop.touch()
    ended = client.runs.wait(run_id, timeout=30)
    assert ended.status == "Completed", ended.status
    ticks = list(_ticks(client, run_id))
    assert [tick.number for tick in ticks] == list(range(len(ticks))), "lines of the log are missing"
    assert len({tick.pid for tick in ticks}) == 1, "the script was started again"
    stop.unlink()


def _read_back(client: Client, kept: list[int]) -> int:
    """Read acknowledged registrations back: all of the last ones, and some of the others."""
    numbers = sorted({*kept[-CHECKED // 2 :], *kept[:: max(1, len(kept) * 2 // CHECKED)]})
    for number in numbers:
        client.environments.get(f"bench-{number}")
    return len(numbers)
