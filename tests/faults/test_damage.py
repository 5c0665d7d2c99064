"""The checker on histories of a real cluster that were damaged afterwards: each damage is seen."""

from collections.abc import Callable
from dataclasses import replace

import pytest

from tests.faults.collected import Judged, judged
from tests.faults.load import Load, Worker
from tests.faults.standing import Standing
from tests.simulation.checker import check
from tests.simulation.record import Entry, History, Sent


@pytest.fixture(scope="module")
def recorded(cluster: Standing, load: Load) -> History:
    """A history in which everything occurs once, and nothing is wrong."""
    worker = Worker(load, 7)
    for _ in range(2):
        worker.register(surely=True)
        worker.model(surely=True)
        worker.submit(0.3, surely=True)
    found: Judged = judged(cluster, load)
    assert found.violations == []
    return found.history


def facts_named(history: History, name: str) -> list[Entry]:
    return [entry for entry in history.entries if any(fact == name for fact, _ in entry.facts)]


def without(history: History, lost: Entry) -> list[Entry]:
    return [entry for entry in history.entries if entry is not lost]


def with_data(entry: Entry, name: str, **more: object) -> Entry:
    facts = [
        {**fact, "data": {**fact["data"], **more}} if f".{name}." in fact["type"] else fact
        for fact in entry.body["facts"]
    ]
    return replace(entry, body={**entry.body, "facts": facts})


# --- damages; each returns the history as it might have been


def an_accepted_document_is_gone(history: History) -> History:
    accepted = next(op for op in history.ops if op.kind == "submit" and op.told == "ok").result["id"]
    return replace(history, entries=[entry for entry in history.entries if accepted not in entry.subject])


def a_version_is_missing(history: History) -> History:
    named = facts_named(history, "ModelRegistered")
    return replace(history, entries=without(history, named[0]))


def an_attempt_is_doubled(history: History) -> History:
    claimed = facts_named(history, "AttemptClaimed")[0]
    last = max(entry.seq for entry in history.entries if entry.subject == claimed.subject)
    return replace(history, entries=[*history.entries, replace(claimed, seq=last + 1)])


def two_attempts_live_together(history: History) -> History:
    one = history.lived[0]
    return replace(history, lived=[*history.lived, replace(one, node="another process")])


def a_result_of_a_former_claim_is_taken(history: History) -> History:
    built = facts_named(history, "ImageBuilt")[0]
    return replace(history, entries=[*without(history, built), with_data(built, "ImageBuilt", attempt=9)])


def a_gpu_is_given_twice(history: History) -> History:
    given = facts_named(history, "ResourcesAllocated")[:2]
    kept = [entry for entry in history.entries if "ResourcesReleased" not in dict(entry.facts)]
    doubled = [with_data(entry, "ResourcesAllocated", gpus=["GPU-0"]) for entry in given]
    return replace(history, entries=[*(entry for entry in kept if entry not in given), *doubled])


def a_fact_is_lost(history: History) -> History:
    return replace(history, sent=[event for event in history.sent if event.id != history.sent[-1].id])


def a_fact_comes_from_nowhere(history: History) -> History:
    return replace(history, sent=[*history.sent, replace(history.sent[0], id="run/default/nobody/000000000001#0")])


def two_facts_change_places(history: History) -> History:
    def place(event: Sent) -> tuple[str, int]:
        return event.partition, event.sequence

    run = facts_named(history, "AttemptClaimed")[0].subject
    mine = [event for event in history.sent if event.subject == run and not event.id.startswith("answers/")]
    swapped = {id(mine[0]): mine[-1], id(mine[-1]): mine[0]}
    assert place(mine[0]) < place(mine[-1])
    return replace(history, sent=[swapped.get(id(event), event) for event in history.sent])


def an_answer_is_gone(history: History) -> History:
    asked = next(entry for entry in history.entries if entry.key.startswith("answers/") and entry.topic)
    return replace(history, entries=without(history, asked))


def a_request_acts_twice(history: History) -> History:
    acted = next(entry for entry in history.entries if entry.seq and entry.request.startswith("k"))
    last = max(entry.seq for entry in history.entries if entry.subject == acted.subject)
    return replace(history, entries=[*history.entries, replace(acted, seq=last + 1)])


def a_healthy_message_is_buried(history: History) -> History:
    return replace(history, buried=["one on a topic"])


DAMAGES: tuple[tuple[Callable[[History], History], str], ...] = (
    (an_accepted_document_is_gone, "I1"),
    (a_version_is_missing, "I2"),
    (a_fact_is_lost, "I3"),
    (a_fact_comes_from_nowhere, "I3"),
    (two_facts_change_places, "I4"),
    (an_attempt_is_doubled, "I5"),
    (two_attempts_live_together, "I5"),
    (a_result_of_a_former_claim_is_taken, "I6"),
    (a_gpu_is_given_twice, "I7"),
    (a_healthy_message_is_buried, "I8"),
    (an_answer_is_gone, "I14"),
    (a_request_acts_twice, "I14"),
)


@pytest.mark.parametrize(("damage", "invariant"), DAMAGES, ids=lambda value: getattr(value, "__name__", value))
def test_damage_to_a_history_is_seen(recorded: History, damage: Callable[[History], History], invariant: str) -> None:
    assert invariant in {violation.invariant for violation in check(damage(recorded))}
