"""The checker by itself, on histories written by hand: each invariant broken once."""

from typing import Any

import orjson

from cloche_shared.contracts.facts import TOPICS
from tests.simulation.checker import check
from tests.simulation.record import Entry, History, Lived, Op, Sent, Solved, place_of

Body = dict[str, Any]


def entry(key: str, *facts: tuple[str, Body], request: str = "", cause: str = "") -> Entry:
    subject, seq = place_of(key)
    body = {
        "id": key,
        "facts": [{"type": f"cloche.{name}.v1", "data": data} for name, data in facts],
        "req": request,
        "cause": cause,
    }
    topic = TOPICS[key.split("/", maxsplit=1)[0]] if facts else ""
    return Entry("service", 0.0, key, subject, seq, topic, body)


def stream(subject: str, *documents: tuple[str, Body]) -> list[Entry]:
    return [entry(f"{subject}/{number:012d}", fact) for number, fact in enumerate(documents, 1)]


def history(*entries: Entry) -> History:
    """Return a history in which everything was published in order."""
    sent = [
        Sent("p", f"{one.key}#{index}", one.subject, one.seq, fact["type"], orjson.dumps(fact["data"]))
        for one in entries
        for index, fact in enumerate(one.body["facts"])
    ]
    return History(entries=list(entries), sent=sent)


def broken(found: History) -> set[str]:
    return {violation.invariant for violation in check(found)}


def answers(question: str, fact: str = "ReferencesResolved") -> Entry:
    key = f"answers/default/{question.replace('/', ':')}"
    return entry(key, (fact, {}), request=question, cause=question)


RUN = "run/default/a"
CLAIMED: list[tuple[str, Body]] = [
    ("RunQueued", {}),
    ("AttemptClaimed", {"attempt": 1}),
]


def test_a_whole_run_breaks_nothing() -> None:
    end: list[tuple[str, Body]] = [
        ("RunStarted", {"fence": 2}),
        ("RunFinalizing", {"fence": 2}),
        ("RunCompleted", {}),
    ]
    assert broken(history(*stream(RUN, *CLAIMED, *end))) == set()


def test_what_was_accepted_must_be_there() -> None:
    op = Op("submit", {"project": "default", "spec": {}, "request": ""}, "ok", {"id": "b"})
    found = history()
    found.ops.append(op)
    assert broken(found) == {"I1"}


def test_a_request_must_be_answered_alike_each_time() -> None:
    args = {"project": "default", "id": "a", "request": "k"}
    found = history(answers("k"))
    found.ops += [Op("cancel", args, "ok", {"n": 1}), Op("cancel", args, "ok", {"n": 2})]
    assert broken(found) == {"I1"}


def test_versions_have_no_gap() -> None:
    versions = [("ModelRegistered", {"model_version": number}) for number in (1, 3)]
    assert broken(history(*stream("model/default/m", *versions))) == {"I2"}


def test_an_event_without_its_document_is_a_stray() -> None:
    found = history()
    found.sent.append(Sent("p", f"{RUN}/000000000001#0", RUN, 1, "cloche.RunQueued.v1", b"{}"))
    assert broken(found) == {"I3"}


def test_a_document_that_is_never_sent_is_missed() -> None:
    found = history(*stream(RUN, ("RunQueued", {})))
    found.sent.clear()
    assert broken(found) == {"I3"}


def test_events_come_in_the_order_of_their_stream_and_again_at_any_time() -> None:
    found = history(*stream(RUN, *CLAIMED))
    found.sent.append(found.sent[0])
    assert broken(found) == set()
    found.sent.reverse()
    found.sent.pop(0)
    assert broken(found) == {"I4"}


def test_a_run_is_claimed_once_at_a_time() -> None:
    assert broken(history(*stream(RUN, *CLAIMED, ("AttemptClaimed", {"attempt": 2})))) == {"I5"}


def test_an_old_fence_changes_nothing() -> None:
    assert broken(history(*stream(RUN, *CLAIMED, ("RunStarted", {"fence": 1})))) == {"I5"}


def test_nothing_follows_a_runs_end() -> None:
    assert broken(history(*stream(RUN, ("RunCanceled", {}), ("RunQueued", {})))) == {"I5"}


def test_two_attempts_of_a_run_never_live_together() -> None:
    found = history()
    found.lived += [Lived("n1", "run-a-1", (), 0.0, 5.0), Lived("n2", "run-a-2", (), 4.0, 9.0)]
    assert broken(found) == {"I5"}


def test_a_build_takes_a_result_under_its_newest_claim_only() -> None:
    documents = [("ImageBuildStarted", {"attempt": 1}), ("ImageBuildStarted", {"attempt": 2})]
    assert broken(history(*stream("build/public/x", *documents, ("ImageBuilt", {"attempt": 1})))) == {"I6"}


def test_two_builders_never_solve_the_same() -> None:
    found = history()
    found.solved += [Solved("x", "one", 0.0, 2.0), Solved("x", "two", 1.0, 3.0)]
    assert broken(found) == {"I6"}


def test_a_gpu_is_given_to_one_holder() -> None:
    documents = [("ResourcesAllocated", {"holder": name, "gpus": ["g"]}) for name in ("a", "b")]
    assert broken(history(*stream("node/-/n", *documents))) == {"I7"}
    documents.insert(1, ("ResourcesReleased", {"holder": "a"}))
    assert broken(history(*stream("node/-/n", *documents))) == set()


def test_a_gpu_is_used_by_one_process() -> None:
    found = history()
    found.lived += [Lived("n", "run-a-1", ("g",), 0.0, 5.0), Lived("n", "run-b-1", ("g",), 4.0)]
    assert broken(found) == {"I7"}


def test_every_question_gets_one_answer() -> None:
    asked = stream(RUN, ("RunPreparing", {}))
    assert broken(history(*asked)) == {"I14"}
    assert broken(history(*asked, answers(f"{RUN}/000000000001#0"))) == set()


def test_a_request_acts_once() -> None:
    twice = [entry(f"{RUN}/{number:012d}", ("RunMeasured", {"fence": 0}), request="k") for number in (1, 2)]
    assert "I14" in broken(history(*twice, answers("k")))


def test_what_does_not_settle_is_told() -> None:
    found = history()
    found.unsettled.append("run/default/a has not ended")
    assert broken(found) == {"I14"}


def test_nothing_outlives_what_needs_it() -> None:
    found = history()
    found.left_over.append("run-a-1 is on node-1")
    assert broken(found) == {"I9"}


def test_a_healthy_message_never_becomes_a_dead_letter() -> None:
    found = history()
    found.buried.append("7 of runner")
    assert broken(found) == {"I8"}
