"""Broker, store and S3 down when the services start, in the middle of a job, killed under load, and held.

Whatever happens, every request is answered in time, readiness says what fails, nothing that was accepted is
lost, and everything goes on by itself once the server is back.
"""

import time
from collections.abc import Callable
from contextlib import suppress
from typing import Any

import httpx2
import pytest

from cloche import Client
from cloche.client import Run
from tests.e2e.packages import ThreadedIndex, threaded_index
from tests.e2e.steps import done, reaches
from tests.e2e.topology import eventually
from tests.faults.collected import Judged, entries_of
from tests.faults.conftest import DOWN_S, FULL, PAUSE_S
from tests.faults.load import Load, UnknownError, Worker, asked
from tests.faults.servers import ROLES
from tests.faults.standing import Standing, until_named

BEFORE_S = 1.5
"""How long clients work before a fault, and after it."""
TOGETHER = [(role,) for role in ROLES] if FULL else [ROLES]
"""Which servers are away when the services start: one by one, or (quickly) all, and they come one by one."""


def test_a_load_without_faults_breaks_nothing(load: Load, verdict: Callable[[], Judged]) -> None:
    with load.going():
        time.sleep(5)
    found = verdict()
    assert found.counts["acknowledged"] > 0
    # a machine that is busy otherwise may let a few things take longer than the short deadlines
    assert found.topics.duplicates < len(found.topics.sent) / 10
    assert found.counts["requests unanswered"] == 0
    assert found.counts["requests put off"] < load.told.statuses.total() / 10


# --- down at the start


@pytest.mark.parametrize("roles", TOGETHER, ids="+".join)
def test_services_that_start_without_a_server_name_it_and_begin_when_it_comes(
    cluster: Standing, load: Load, verdict: Callable[[], Judged], again: int, roles: tuple[str, ...]
) -> None:
    cluster.end_all()
    for role in roles:
        cluster.own.kill(role)
    for name in cluster.ports:
        cluster.begin(name)
    for number, role in enumerate(roles):
        until_named(cluster, *roles[number:])
        cluster.own.start(role)
    cluster.all_ready()
    with load.going():
        time.sleep(BEFORE_S)
    verdict()


# --- in the middle of a job


@pytest.mark.parametrize("role", ROLES)
def test_a_server_that_is_away_in_the_middle_of_a_job_costs_time_and_nothing_else(
    cluster: Standing, load: Load, verdict: Callable[[], Judged], again: int, role: str
) -> None:
    with cluster.client() as client, threaded_index() as index:
        running = reaches(client, begun(client, load, seconds=4.0), "Running")
        building = building_run(cluster, client, load, index)
        with cluster.own.down(role):
            index.gate.set()
            until = time.monotonic() + DOWN_S
            until_named(cluster, role)
            while time.monotonic() < until:
                answered_in_time(load, running, building)
                time.sleep(0.5)
        ended = [done(client, run) for run in (running, building)]
    assert [run.status for run in ended] == ["Completed"] * 2, [run.problem for run in ended]
    verdict()


def begun(client: Client, load: Load, seconds: float, environment: str | None = None) -> Run:
    """Submit a run of the load's kind and return it."""
    more: dict[str, Any] = {"environment": {"name": environment}} if environment else {}
    op = Worker(load, 1).submit(seconds, surely=True, **more)
    assert op.told == "ok", op.result
    return client.runs.get(op.result["id"])


def building_run(cluster: Standing, client: Client, load: Load, index: ThreadedIndex) -> Run:
    """Submit a run whose environment is being built, and goes on when the index opens its gate."""
    name = f"env-{time.monotonic_ns()}"
    client.environments.register(name, requirements=index.add(f"pkg-{name}"))
    index.gate.clear()
    before = builds(cluster)
    run = begun(client, load, 0.2, name)
    eventually(lambda: builds(cluster) > before, "the build has begun")
    return run


def builds(cluster: Standing) -> int:
    entries, _ = entries_of(cluster)
    return sum(name == "ImageBuildStarted" for entry in entries for name, _ in entry.facts)


def answered_in_time(load: Load, *runs: Run) -> None:
    """Ask things that touch each store; what the answer may be is checked where it is noted."""
    with load.topology.rest() as rest:
        for path in ("environments/sk", *(f"runs/{run.id}" for run in runs), "runs", "services/scored"):
            look(load, rest, path)


def look(load: Load, rest: httpx2.Client, path: str) -> None:
    with suppress(UnknownError):
        asked(rest, load.told, "GET", f"/api/v1/{path}")


# --- killed under load, and held


@pytest.mark.parametrize("role", ROLES)
def test_a_server_that_is_killed_and_restarted_under_load_loses_nothing(
    cluster: Standing, load: Load, verdict: Callable[[], Judged], again: int, role: str
) -> None:
    with load.going():
        time.sleep(BEFORE_S)
        cluster.own.kill(role)
        cluster.own.start(role)
        time.sleep(BEFORE_S)
    verdict()


@pytest.mark.parametrize("role", ROLES)
def test_a_server_that_is_held_beyond_every_deadline_is_named_and_loses_nothing(
    cluster: Standing, load: Load, verdict: Callable[[], Judged], again: int, role: str
) -> None:
    with load.going():
        time.sleep(BEFORE_S)
        with cluster.own.held(role):
            until = time.monotonic() + PAUSE_S
            until_named(cluster, role)
            time.sleep(max(0.0, until - time.monotonic()))
        time.sleep(BEFORE_S)
    verdict()


# --- answers that are lost on their way


def test_facts_that_the_broker_took_without_being_heard_are_sent_again_and_have_one_effect(
    cluster: Standing, load: Load, verdict: Callable[[], Judged], again: int
) -> None:
    with cluster.own.losing_produced(10) as lost, load.going():
        eventually(lambda: lost() == 10, "ten answers of the broker are lost")
    verdict()


def test_documents_that_the_store_took_without_being_heard_are_there_once(
    cluster: Standing, load: Load, verdict: Callable[[], Judged], again: int
) -> None:
    with cluster.own.losing_written("mongo", b"insert", every=5) as lost, load.going(pause=0.2):
        eventually(lambda: lost() >= 10, "ten answers of the store are lost")
    verdict()


def test_files_that_s3_took_without_being_heard_are_there(
    cluster: Standing, load: Load, verdict: Callable[[], Judged], again: int
) -> None:
    with cluster.own.losing_written("s3", b"PUT /", every=3) as lost, load.going(pause=0.2):
        eventually(lambda: lost() >= 5, "five answers of S3 are lost")
    verdict()
