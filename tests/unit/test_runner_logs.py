"""A run's log over its attempts: what is stored of it stays, and it says where an attempt's breaks off."""

from cloche_runner.domain import run_decisions as rules
from cloche_runner.domain.runs import NODE_LOST, Run
from cloche_shared.contracts.facts import RunLogKept
from cloche_shared.contracts.references import Problem
from cloche_shared.contracts.runs import Ended
from cloche_shared.ports.blobs import Blob
from tests.unit.test_runner_domain import AT, GOOD, SPEC, USER, after, claim, end, queued, running

LOST = Problem(code=NODE_LOST, message="The node n1 did not renew its lease.")
UNREADY = Problem(code="store_unavailable", message="No.")
AGAIN = rules.Again(9, AT)
PART = Blob("sha256:" + "d" * 64, 40)
FIRST_MARK = "[cloche: from byte {} on the log of attempt {} is missing: node_lost]\n"


def lost(run: Run, problem: Problem = LOST) -> Run:
    return after(run, rules.decide_lost(run, run.fence, problem, None, AGAIN, AT))


def kept(run: Run, part: Blob = PART) -> Run:
    return after(run, rules.decide_log_kept(run, run.fence, run.log_kept, part))


def test_what_was_stored_of_a_lost_attempts_log_stays_and_a_line_says_what_does_not() -> None:
    run = lost(kept(kept(running())))
    assert [part.size for part in run.logs[:2]] == [40, 40]
    assert run.logs[2].mark == FIRST_MARK.format(80, 1)
    assert [(cut.attempt, cut.offset) for cut in run.log_missing] == [(1, 80)]
    assert run.log_before == 80 + len(run.logs[2].mark)
    assert run.shipped == ()


def test_of_a_lost_attempt_of_which_nothing_is_stored_all_is_said_to_be_missing() -> None:
    for run in (running(), claim(queued())):
        assert [part.mark for part in lost(run).logs] == [FIRST_MARK.format(0, 1)]


def test_an_attempt_whose_code_did_not_begin_has_no_log_to_miss() -> None:
    assert lost(claim(queued()), UNREADY).logs == ()


def test_the_log_goes_on_behind_the_line_with_the_next_attempt() -> None:
    run = lost(claim(lost(kept(running()))))
    first, second = run.log_missing
    assert (first.attempt, first.offset) == (1, 40)
    assert (second.attempt, second.offset) == (2, 40 + len(FIRST_MARK.format(40, 1)))


def test_a_reader_of_a_lost_attempts_log_goes_on_where_it_breaks_off() -> None:
    run = lost(kept(running()))
    assert run.log_resumes(90, 1) == 40
    assert run.log_resumes(30, 1) == 30
    assert run.log_resumes(90, 0) == 90
    assert claim(run).log_resumes(90, 2) == 90


def test_the_whole_log_takes_the_place_of_what_was_stored_of_it() -> None:
    run = end(kept(running()), USER, GOOD)
    assert [(part.digest, part.size) for part in run.logs] == [(GOOD.log, 5)]
    assert (run.shipped, run.log_missing) == ((), ())


def test_a_retry_begins_with_nothing_stored() -> None:
    spec = SPEC.model_copy(update={"retries": 1})
    run = kept(running(spec))
    run = after(run, rules.decide_finalizing(run, run.fence, GOOD, AT))
    run = claim(after(run, rules.decide_ended(run, run.fence, USER, GOOD, None, AT)))
    assert (run.log_before, run.log_kept) == (5, 0)


def test_a_log_that_went_with_its_process_is_said_to_be_missing() -> None:
    gone = Ended(ending="exited", code=0, log_bytes=99)
    run = end(kept(running()), USER, gone)
    assert [cut.offset for cut in run.log_missing] == [40]


def test_what_is_stored_already_is_not_stored_again() -> None:
    run = running()
    assert [type(fact) for fact in rules.decide_log_kept(run, run.fence, 0, PART).facts] == [RunLogKept]
    assert rules.decide_log_kept(kept(run), run.fence, 0, PART).facts == ()
    assert rules.decide_log_kept(run, run.fence, 0, Blob(PART.digest, 0)).facts == ()
