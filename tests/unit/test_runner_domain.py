"""Runs and what their ends mean: the pure part."""

import errno
import os
from collections.abc import Callable

import orjson
import pytest

from cloche_runner.domain import run_decisions as rules
from cloche_runner.domain.endings import Verdict, ended_at, judge, signal_name
from cloche_runner.domain.measures import MOST_NAMES, Measures
from cloche_runner.domain.run_decisions import Accepted, Again
from cloche_runner.domain.runs import Run, evolve, holder
from cloche_shared.contracts.definition import Definition
from cloche_shared.contracts.facts import (
    EnvironmentArchived,
    ImageProvided,
    ReferencesResolved,
    RunCanceled,
    RunCompleted,
    RunFailed,
)
from cloche_shared.contracts.references import Problem, References, ResolvedEnvironment
from cloche_shared.contracts.runs import Ended, Resources, RunSpec
from cloche_shared.errors import Conflict
from cloche_shared.journal.streams import Decision

DIGEST = "sha256:" + "a" * 64
SPEC = RunSpec(script="train.py", snapshot=DIGEST, deadline=5.0, tags={"a": "b"}, resources=Resources(memory=2**26))
ENVIRONMENT = ResolvedEnvironment(name="sk", version="1", definition_hash="e1:0", definition=Definition())
PROVIDED = ImageProvided(
    definition_hash="e1:0", lock_digest=DIGEST, scope="public", target="process", image="i", reused=True
)
PROBLEM = Problem(code="environment_not_found", message="No.")
GOOD = Ended(ending="exited", code=0, log="sha256:" + "b" * 64, log_bytes=5)
BAD = Ended(ending="exited", code=3, log="sha256:" + "c" * 64, log_bytes=7)
USER = Verdict("user", Problem(code="user_code_failed", message="It failed."))
Holder = Callable[[Run], Decision]
AT = "2026-01-01T00:00:00Z"
ABSENT = os.strerror(errno.ENOENT)
SCARCE = os.strerror(errno.EAGAIN)


def after(run: Run, decision: Decision) -> Run:
    for fact in decision.facts:
        run = evolve(run, fact)
    return run


def submitted(spec: RunSpec = SPEC) -> Run:
    return after(Run(), rules.decide_submit(Run(), spec, References(), Accepted("r", AT, "key:1")))


def queued(spec: RunSpec = SPEC) -> Run:
    run = submitted(spec)
    run = after(run, rules.decide_preparing(run, ReferencesResolved(environment=ENVIRONMENT)))
    return after(run, rules.decide_queued(run, PROVIDED))


def claim(run: Run) -> Run:
    return after(run, rules.decide_claim(run, "n1", run.attempt + 1, ("GPU-a",)))


def running(spec: RunSpec = SPEC) -> Run:
    run = claim(queued(spec))
    return after(run, rules.decide_started(run, run.fence, AT))


def end(run: Run, verdict: Verdict, ended: Ended) -> Run:
    run = after(run, rules.decide_finalizing(run, run.fence, ended, AT))
    return after(run, rules.decide_ended(run, run.fence, verdict, ended, DIGEST, AT))


COMPLETED = end(running(), Verdict("completed"), GOOD)


def test_statuses_follow_the_chain() -> None:
    run = Run()
    assert run.status == "NotStarted"
    assert submitted().status == "NotStarted"
    assert (queued().status, claim(queued()).status, running().status) == ("Queued", "Starting", "Running")
    run = running()
    assert after(run, rules.decide_finalizing(run, run.fence, GOOD, AT)).status == "Finalizing"
    assert after(run, rules.decide_cancel(run, AT)).status == "CancelRequested"
    assert COMPLETED.status == "Completed"
    assert (COMPLETED.outputs, COMPLETED.log_before, COMPLETED.ended_at) == (DIGEST, 5, AT)


def test_a_state_survives_a_snapshot() -> None:
    for run in (Run(), submitted(), running(), COMPLETED):
        assert Run.model_validate_json(orjson.dumps(run.model_dump(mode="json"))) == run


def test_the_fence_is_the_number_of_the_claims_document() -> None:
    run = claim(queued())
    assert (run.fence, run.documents) == (4, 4)
    lost = after(run, rules.decide_lost(run, 4, PROBLEM, BAD, Again(), AT))
    assert (lost.documents, lost.riding, lost.phase, lost.losses, lost.log_before) == (5, False, "queued", 1, 7)
    assert claim(lost).fence == 6


def test_answers_that_come_again_or_late_change_nothing() -> None:
    resolved = ReferencesResolved(environment=ENVIRONMENT)
    for run in (queued(), running(), COMPLETED):
        assert rules.decide_preparing(run, resolved).facts == ()
        assert rules.decide_queued(run, PROVIDED).facts == ()
        assert rules.decide_refused(run, PROBLEM, AT).facts == ()
    assert rules.decide_submit(queued(), SPEC, References(), Accepted("r", AT)).facts == ()


def test_a_refusal_fails_the_run() -> None:
    failed = after(submitted(), rules.decide_refused(submitted(), PROBLEM, AT))
    assert (failed.status, failed.problem) == ("Failed", PROBLEM)


def test_only_a_queued_run_can_be_claimed_and_only_as_its_next_attempt() -> None:
    for run, attempt in ((submitted(), 1), (running(), 2), (COMPLETED, 2), (queued(), 2)):
        with pytest.raises(Conflict, match="does not wait"):
            rules.decide_claim(run, "n2", attempt, ())


def test_an_old_fence_is_refused_by_every_decision_of_a_holder() -> None:
    first = running()
    again = claim(after(first, rules.decide_lost(first, first.fence, PROBLEM, None, Again(), AT)))
    for run in (again, COMPLETED, queued()):
        holders: tuple[Holder, ...] = (
            lambda run: rules.decide_started(run, first.fence, AT),
            lambda run: rules.decide_measured(run, first.fence, (), 0, 1),
            lambda run: rules.decide_finalizing(run, first.fence, GOOD, AT),
            lambda run: rules.decide_ended(run, first.fence, USER, GOOD, DIGEST, AT),
            lambda run: rules.decide_abandoned(run, first.fence, PROBLEM, AT),
            lambda run: rules.decide_lost(run, first.fence, PROBLEM, None, Again(), AT),
        )
        for decide in holders:
            with pytest.raises(Conflict) as caught:
                decide(run)
            assert caught.value.code == "stale_fence"


def test_what_a_holder_says_twice_is_recorded_once() -> None:
    run = running()
    assert rules.decide_started(run, run.fence, AT).facts == ()
    finalizing = after(run, rules.decide_finalizing(run, run.fence, GOOD, AT))
    assert rules.decide_finalizing(finalizing, run.fence, GOOD, AT).facts == ()


def test_journal_bytes_are_recorded_once_and_in_order() -> None:
    run = running()
    lines: tuple[dict[str, object], ...] = ({"op": "log", "name": "x", "value": 1},)
    run = after(run, rules.decide_measured(run, run.fence, lines, 0, 10))
    assert (run.measures.offset, run.measures.metrics["x"].last) == (10, 1)
    assert rules.decide_measured(run, run.fence, lines, 0, 10).facts == ()
    assert rules.decide_measured(run, run.fence, lines, 20, 30).facts == ()
    assert rules.decide_measured(run, run.fence, (), 10, 10).facts == ()
    lost = after(run, rules.decide_lost(run, run.fence, PROBLEM, None, Again(), AT))
    assert claim(lost).measures == Measures(tags={"a": "b"})


def test_user_code_is_tried_again_only_when_asked() -> None:
    once = running(SPEC.model_copy(update={"retries": 1}))
    again = end(once, USER, BAD)
    assert (again.phase, again.failures, again.log_before) == ("queued", 1, 7)
    assert end(claim(again), USER, BAD).phase == "failed"
    assert end(once, Verdict("final", PROBLEM), BAD).phase == "failed"
    assert end(running(), USER, BAD).problem == USER.problem


def test_a_run_that_is_being_cancelled_is_not_tried_again() -> None:
    run = running(SPEC.model_copy(update={"retries": 1}))
    run = after(run, rules.decide_cancel(run, AT))
    assert end(run, USER, BAD).phase == "failed"
    assert end(run, Verdict("canceled"), Ended(ending="canceled")).phase == "canceled"
    assert after(run, rules.decide_lost(run, run.fence, PROBLEM, None, Again(), AT)).phase == "canceled"
    assert after(run, rules.decide_abandoned(run, run.fence, PROBLEM, AT)).phase == "canceled"


def test_an_attempt_that_cannot_be_prepared_fails_the_run() -> None:
    run = claim(queued())
    failed = after(run, rules.decide_abandoned(run, run.fence, PROBLEM, AT))
    assert (failed.phase, failed.problem, failed.outputs) == ("failed", PROBLEM, None)


def test_the_third_loss_fails_the_run() -> None:
    run = running()
    for _ in range(2):
        run = after(run, rules.decide_lost(run, run.fence, PROBLEM, None, Again(3, AT), AT))
        assert (run.phase, run.not_before) == ("queued", AT)
        run = claim(run)
    run = after(run, rules.decide_lost(run, run.fence, PROBLEM, GOOD, Again(3, AT), AT))
    assert run.problem is not None
    assert (run.phase, run.problem.code, run.logs[-1].size) == ("failed", "infrastructure_failure", 5)


def test_a_cancel_before_a_claim_decides_and_one_after_the_end_is_harmless() -> None:
    for run in (submitted(), queued()):
        assert [type(fact) for fact in rules.decide_cancel(run, AT).facts] == [RunCanceled]
    canceling = after(running(), rules.decide_cancel(running(), AT))
    assert rules.decide_cancel(canceling, AT).facts == ()
    assert rules.decide_cancel(COMPLETED, AT).facts == ()


def test_facts_of_other_aggregates_change_nothing() -> None:
    assert evolve(queued(), EnvironmentArchived()) == queued()


def test_a_holder_names_run_and_attempt() -> None:
    assert holder("run/default/r", 2) == "run/default/r#2"


# --- endings


@pytest.mark.parametrize(
    ("ended", "kind", "code", "part"),
    [
        (GOOD, "completed", "", ""),
        (BAD, "user", "user_code_failed", "exit code 3. Its last line: ValueError: no"),
        (Ended(ending="canceled"), "canceled", "", ""),
        (Ended(ending="signaled", signal=11), "user", "killed_by_signal", "SIGSEGV"),
        (Ended(ending="out_of_memory", peak_memory=2**27), "user", "out_of_memory", "64 MiB (peak 128 MiB)"),
        (Ended(ending="deadline"), "final", "deadline_exceeded", "5 s"),
        (Ended(ending="not_started", detail=f"cannot start p: {ABSENT}"), "final", "not_started", ABSENT),
        (Ended(ending="not_started", detail=f"cannot start p: {SCARCE}"), "infrastructure", "attempt_lost", SCARCE),
        (Ended(ending="not_started", detail="no supervisor came up"), "infrastructure", "attempt_lost", "supervisor"),
        (Ended(ending="not_started"), "infrastructure", "attempt_lost", "not_started"),
        (Ended(ending="lost", detail="it vanished"), "infrastructure", "attempt_lost", "it vanished"),
        (Ended(ending="orphaned"), "infrastructure", "attempt_lost", "lease"),
    ],
)
def test_every_end_has_a_meaning(ended: Ended, kind: str, code: str, part: str) -> None:
    verdict = judge(ended, SPEC, log_tail="Traceback\nValueError: no\n\n")
    assert verdict.kind == kind
    assert (verdict.problem.code if verdict.problem else "") == code
    assert part in (verdict.problem.message if verdict.problem else "")


@pytest.mark.parametrize(
    ("started_at", "wall", "end"),
    [
        ("2026-01-01T00:00:00Z", 2.5, "2026-01-01T00:00:02.500000Z"),
        ("2026-01-01T00:00:09Z", 2.5, "2026-01-01T00:00:10Z"),
        ("2026-01-01T00:00:00Z", 0.0, "2026-01-01T00:00:10Z"),
        ("", 2.5, "2026-01-01T00:00:10Z"),
    ],
)
def test_an_attempt_that_ended_while_nobody_looked_ended_then(started_at: str, wall: float, end: str) -> None:
    ended = Ended(ending="exited", code=0, wall_seconds=wall)
    assert ended_at(started_at, ended, "2026-01-01T00:00:10Z") == end


def test_a_script_that_the_bootstrap_cannot_open_is_named() -> None:
    tail = "cloche: cannot open the script 'train.py': No such file or directory"
    verdict = judge(Ended(ending="exited", code=2), SPEC, log_tail=tail)
    assert verdict.problem is not None
    assert (verdict.kind, verdict.problem.code) == ("final", "script_not_found")
    assert judge(Ended(ending="exited", code=2), SPEC).kind == "user"


def test_a_failure_without_a_log_says_what_is_known() -> None:
    problem = judge(Ended(ending="exited", code=1), SPEC).problem
    assert problem is not None
    assert problem.message == "The script 'train.py' ended with exit code 1."
    assert problem.extra == {"exit_code": 1}


def test_signals_without_a_name_are_numbers() -> None:
    assert (signal_name(9), signal_name(999), signal_name(None)) == ("SIGKILL", "signal 999", "signal 0")


# --- measures


def test_measures_stay_small_whatever_is_logged() -> None:
    lines: list[dict[str, object]] = [
        {"op": op, "name": f"{op}{number}", "value": "x" * 10_000}
        for op in ("log", "tag", "property")
        for number in range(2 * MOST_NAMES)
    ]
    measures = Measures().take(lines, 10)
    assert {len(measures.metrics), len(measures.tags), len(measures.properties)} == {MOST_NAMES}
    assert len(measures.model_dump_json()) < 4_000_000


def test_measures_pass_over_what_they_cannot_read() -> None:
    odd: list[dict[str, object]] = [{}, {"op": "log"}, {"op": 3, "name": "a"}, {"op": "end", "name": "b"}]
    assert Measures().take(odd, 3) == Measures(offset=3)


def test_properties_never_change_and_tags_do() -> None:
    lines: list[dict[str, object]] = [
        {"op": op, "name": "a", "value": value} for op in ("property", "tag") for value in ("1", "2", None)
    ]
    measures = Measures().take(lines, 1)
    assert (measures.properties, measures.tags) == ({"a": "1"}, {"a": ""})


def test_a_list_counts_but_has_no_last_value() -> None:
    measures = Measures().take([{"op": "log_list", "name": "a", "value": [1, 2]}] * 2, 1)
    assert (measures.metrics["a"].count, measures.metrics["a"].last) == (2, None)


def test_outcomes_are_told_to_whoever_waits_for_them() -> None:
    finalizing = after(running(), rules.decide_finalizing(running(), 4, GOOD, AT))
    kinds = {
        "completed": RunCompleted,
        "canceled": RunCanceled,
        "user": RunFailed,
    }
    for kind, fact in kinds.items():
        verdict = USER if kind == "user" else Verdict(kind)  # type: ignore[arg-type]
        [told] = rules.decide_ended(finalizing, 4, verdict, GOOD, DIGEST, AT).facts
        assert isinstance(told, fact)
        assert told.environment == ENVIRONMENT


def test_a_missing_run_has_a_name_and_a_remedy() -> None:
    assert "list" in rules.run_not_found("x").todo
