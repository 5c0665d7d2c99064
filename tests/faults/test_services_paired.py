"""Two replicas of each service: one dies, or is held and woken; members that come and go; poison; all facts again;
a broker that lost everything."""

import os
import signal
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from cloche import Client
from cloche_shared.bus.topics import DEAD
from tests.e2e.cluster import SERVICES
from tests.e2e.steps import done, reaches
from tests.e2e.topology import eventually
from tests.faults.collected import Judged, entries_of, judged, topics_of
from tests.faults.conftest import FULL, noted, passed
from tests.faults.load import Load, Worker
from tests.faults.poison import UNREADABLE, is_refused, poisons, send_one, send_poison, topics
from tests.faults.servers import Servers
from tests.faults.standing import Standing, standing
from tests.faults.storm import dealt_anew
from tests.simulation.checker import check
from tests.simulation.record import Sent

LEASE_S = 10.0
HELD_S = LEASE_S + 5.0
"""Longer than a node's lease and all that is added to it before another takes over."""
STORM = 10 if FULL else 3
"""How often members come to all groups and go again."""
NOT_WORK = ("operation/", "usage/", "denial/", "answers/")
"""Documents that are about operators and keys, and answers to them."""
PRESENCE = frozenset(("NodeJoined", "NodeLost"))
"""What a busy machine may let nodes say at any time."""


@pytest.fixture(scope="module")
def cluster(ground: Path, servers: Servers) -> Iterator[Standing]:
    with standing(ground, "paired", servers, replicas=2) as found:
        yield found


@pytest.fixture(scope="module")
def load(cluster: Standing, ground: Path) -> Load:
    made = Load(cluster, ground / "lived-paired.txt")
    made.prepare()
    return made


@pytest.fixture
def verdict(cluster: Standing, load: Load, record_property: Callable[[str, object], None]) -> Callable[[], Judged]:
    return lambda: passed(cluster, load, record_property)


@contextmanager
def held(cluster: Standing, name: str) -> Iterator[None]:
    """Stop a process where it is, and wake it."""
    os.kill(cluster.pids[name], signal.SIGSTOP)
    cluster.own.count(f"{name.partition('-')[0]} held")
    try:
        yield
    finally:
        os.kill(cluster.pids[name], signal.SIGCONT)


def test_one_of_two_replicas_may_die_while_clients_work(
    cluster: Standing, load: Load, verdict: Callable[[], Judged], again: int
) -> None:
    with load.going(2):
        for service in SERVICES:
            cluster.end(f"{service}-1")
            cluster.own.count(f"{service} killed beside another")
            time.sleep(2.0)
            cluster.begin(f"{service}-1")
    verdict()


def test_replicas_that_are_held_and_woken_send_what_others_sent_meanwhile_and_nothing_is_out_of_order(
    cluster: Standing, load: Load, verdict: Callable[[], Judged], again: int
) -> None:
    with load.going(2):
        time.sleep(1.0)
        for one, other in (("registry-1", "builder-2"), ("runner-2", "deployer-1")):
            with held(cluster, one), held(cluster, other):
                time.sleep(7.0 if FULL else 6.0)  # longer than the pause between two sweeps of a relay
    verdict()


def test_a_node_that_sleeps_beyond_its_lease_gives_its_run_up_to_another(
    cluster: Standing, load: Load, verdict: Callable[[], Judged], again: int
) -> None:
    with cluster.client() as client:
        op = Worker(load, 7 + again).submit(9.0 if FULL else 6.0)
        run = reaches(client, client.runs.get(str(op.result["id"])), "Running")
        node = node_of(cluster, run.id)
        with held(cluster, f"runner-{node.removeprefix('n')}"):
            time.sleep(HELD_S)
            eventually(lambda: attempts(cluster, run.id) > 1, "another node took the run", seconds=60)
        assert done(client, run.id).status == "Completed"
    verdict()


def node_of(cluster: Standing, run_id: str) -> str:
    with cluster.rest() as rest:
        return str(rest.get(f"/api/v1/runs/{run_id}").json()["node"])


def attempts(cluster: Standing, run_id: str) -> int:
    entries, _ = entries_of(cluster, "runner")
    return sum(
        name == "AttemptClaimed" for one in entries if one.subject.endswith(f"/{run_id}") for name, _ in one.facts
    )


def test_members_that_come_and_go_while_clients_work_let_nothing_happen_twice(
    cluster: Standing, load: Load, verdict: Callable[[], Judged], again: int
) -> None:
    with cluster.client() as client:
        groups = {one.group: one.topics for one in client.groups.list()}
    with load.going(2):
        for _ in range(STORM):
            dealt_anew(cluster, groups)
    verdict()


def test_a_message_that_was_put_aside_is_listed_and_sent_again_by_command_line(
    cluster: Standing, load: Load, verdict: Callable[[], Judged], again: int
) -> None:
    before = {one["id"] for one in letters(cluster)}
    send_one(cluster, "cloche.runs", "bad JSON")
    first = eventually(lambda: [one for one in letters(cluster) if one["id"] not in before], "it is put aside")[0]
    assert "The message is not a CloudEvent." in first["reason"]
    known = before | {one["id"] for one in letters(cluster)}
    said_so = cluster.cli("events", "dead", "resend", first["id"])
    assert said_so.out == f"{first['id']} goes to {first['group']} again.\n"
    # what cannot be read stays so: it is put aside again, under another id, by the group that has it again
    (second,) = eventually(
        lambda: [one for one in letters(cluster) if one["id"] not in known and one["group"] == first["group"]],
        "it is put aside again",
    )
    assert second["reason"] == first["reason"]
    assert first["id"] not in {one["id"] for one in letters(cluster)}
    verdict()


def letters(cluster: Standing) -> list[dict[str, str]]:
    found: list[dict[str, str]] = cluster.cli("events", "dead", "list", "--json").document
    return found


def test_poison_of_every_kind_in_every_topic_is_put_aside_and_nothing_else(
    cluster: Standing, load: Load, verdict: Callable[[], Judged], again: int
) -> None:
    before = Counter(topics_of(cluster, DEAD).poisoned)
    with load.going(2):
        send_poison(cluster)
        assert all(is_refused(cluster, topic) for topic in (topics()[0], topics()[-1]))
        eventually(lambda: not missing(cluster, before), "all poison is put aside", seconds=90)
    found = verdict()
    harmless = {f"poison-{kind}" for _, kind, _, _ in poisons()} - {f"poison-{kind}" for kind in PUT_ASIDE}
    facts = [(topic, key) for topic, key in found.topics.poisoned if not topic.startswith("cloche.commands")]
    assert not [key for _, key in facts if key in harmless]


PUT_ASIDE = (*UNREADABLE, "wrong data")
COMMANDED = (*UNREADABLE, "unknown type", "unknown version")
"""Of commands also what nobody knows, which of facts is left to whoever knows it; wrong data is answered."""


def missing(cluster: Standing, before: Counter[tuple[str, str]]) -> list[tuple[str, str]]:
    """Return which poison is not put aside yet."""
    there = Counter(topics_of(cluster, DEAD).poisoned) - before
    wanted = [
        (f"{topic}.dead", f"poison-{kind}")
        for topic, kind, _, _ in poisons()
        if kind in (COMMANDED if topic.startswith("cloche.commands") else PUT_ASIDE)
    ]
    return [one for one in wanted if not there[one]]


def test_all_facts_again_have_no_second_effect(
    cluster: Standing, load: Load, verdict: Callable[[], Judged], again: int
) -> None:
    verdict()
    before = work(cluster)
    with cluster.client() as client:
        count = sum(client.groups.replay(group.group) for group in client.groups.list())
        sent = sum(client.journals.republish().values())
    cluster.own.count("messages replayed", count)
    cluster.own.count("facts republished", sent)
    assert count > sent > len(before)
    verdict()
    assert work(cluster) == before


def work(cluster: Standing) -> set[str]:
    """Return the keys of all documents that are about work."""
    entries, _ = entries_of(cluster)
    return {
        entry.key
        for entry in entries
        if not entry.key.startswith(NOT_WORK) and not {name for name, _ in entry.facts} <= PRESENCE
    }


def test_a_broker_that_loses_its_data_under_running_services_is_named_and_gets_everything_again(
    cluster: Standing, load: Load, record_property: Callable[[str, object], None], again: int
) -> None:
    with load.going(2):
        time.sleep(2.0)
        cluster.own.wipe_broker()
        eventually(lambda: all(map(says_lost, cluster.all_failing().values())), "all say that topics are lost")
    cluster.end_all()
    for name in cluster.ports:
        cluster.begin(name)
    cluster.all_ready()
    eventually(lambda: not entries_of(cluster)[1], "the relays have sent what they were about to send")
    with cluster.client() as client:
        client.journals.republish()
        completes(client, load)
    judged(cluster, load)
    # what was written while everything was sent again may lie before older facts; now nothing is written
    with cluster.client() as client:
        client.journals.republish()
    found = judged(cluster, load)
    found.history.sent = last_of(found.history.sent)
    violations = check(found.history)
    found.counts["violations"] = len(violations)
    noted(record_property, cluster, found)
    wrong = [*map(str, violations), *load.told.wrong]
    load.told.wrong.clear()
    assert wrong == []


def says_lost(failing: dict[str, str]) -> bool:
    """Whether a replica is not ready because the broker lost topics, and says how to go on."""
    said = failing.get("kafka", "")
    return said.startswith("topics_lost:") and "republish" in said


def completes(client: Client, load: Load) -> None:
    op = Worker(load, 9).submit(0.2)
    assert done(client, str(op.result["id"])).status == "Completed"


def last_of(sent: list[Sent]) -> list[Sent]:
    """Return the last message of each event, in their order."""
    return list({event.id: event for event in reversed(sent)}.values())[::-1]
