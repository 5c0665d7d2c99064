"""What a build decides, and what becomes of it."""

from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cloche_builder.domain.builds import (
    KEPT_LOGS,
    MOST_LOST,
    Ask,
    Build,
    Waiter,
    answer_to,
    decide_claim,
    decide_end,
    decide_release,
    decide_request,
    evolve,
    in_backoff,
    problem_of,
)
from cloche_shared.contracts.definition import Definition, PythonSection
from cloche_shared.contracts.fact import Fact
from cloche_shared.contracts.facts import (
    BuildCompleted,
    ImageBuildFailed,
    ImageBuildStarted,
    ImageBuilt,
    ImageEvicted,
    ImageProvided,
    ImageRefused,
    ImageReleased,
    ImageRequested,
)
from cloche_shared.contracts.references import Problem
from cloche_shared.errors import Conflict, Failed
from cloche_shared.journal.streams import Decision

NOW = datetime(2026, 1, 1, tzinfo=UTC)
AT = "2026-01-01T00:00:00Z"
LOCK = "sha256:" + "a" * 64
OTHER = "sha256:" + "b" * 64
BROKEN = Problem(code="solver_conflict", message="no")


def ask(request: str = "r1", *, project: str = "red", refresh: bool = False, insists: bool = False) -> Ask:
    waiter = Waiter(
        request_id=request, reply_to=f"run/{project}/{request}", project=project, correlation="c", refresh=refresh
    )
    definition = Definition(python=PythonSection(pip=("alpha",)))
    return Ask(waiter, "e1:" + "0" * 64, definition, environment="env:1", insists=insists)


def apply(build: Build, decision: Decision) -> Build:
    for fact in decision.facts:
        build = evolve(build, fact)
    return build


def request(build: Build, wanted: Ask, *, broken: tuple[str, ...] = (), now: datetime = NOW) -> Build:
    return apply(build, decide_request(build, wanted, now=now, at=AT, backoff_s=10.0, broken=broken))


def claim(build: Build, builder: str = "one", *, over: int | None = None) -> Build:
    return apply(build, decide_claim(build, builder, at=AT, over=over))


def succeed(build: Build, lock: str = LOCK) -> Build:
    result = ImageBuilt(
        lock_digest=lock, image="", seconds=1.0, artefacts=2, bytes=3, attempt=build.claims, log=OTHER, at=AT
    )
    return apply(build, decide_end(build, result))


def fail(build: Build, not_before: str = "") -> Build:
    result = ImageBuildFailed(problem=BROKEN, seconds=1.0, attempt=build.claims, not_before=not_before, at=AT)
    return apply(build, decide_end(build, result))


def kinds(decision: Decision) -> list[type[Fact]]:
    return [type(fact) for fact in decision.facts]


BUILT = succeed(claim(request(Build(), ask())))


def test_the_first_request_waits() -> None:
    build = request(Build(), ask())
    assert [waiter.request_id for waiter in build.waiters] == ["r1"]
    assert answer_to(build, "r1", "red", "id") is None
    assert build.is_open


def test_the_same_request_again_changes_nothing() -> None:
    build = request(Build(), ask())
    assert not decide_request(build, ask(), now=NOW, at=AT, backoff_s=10.0).facts


def test_a_request_for_what_exists_is_answered_and_not_recorded() -> None:
    assert not decide_request(BUILT, ask("r2"), now=NOW, at=AT, backoff_s=10.0).facts
    answer = answer_to(BUILT, "r2", "public", "id")
    assert isinstance(answer, ImageProvided)
    assert (answer.reused, answer.lock_digest, answer.scope, answer.build_id) == (True, LOCK, "public", "id")


def test_a_project_that_asks_for_the_first_time_is_recorded_without_waiting() -> None:
    build = request(BUILT, ask("r2", project="blue"))
    assert (build.waiters, build.asked_by("blue") is not None, build.is_open) == ((), True, False)


def test_whoever_waited_is_told_that_it_was_built_for_them() -> None:
    answer = answer_to(BUILT, "r1", "red", "id")
    assert isinstance(answer, ImageProvided)
    assert not answer.reused
    assert not decide_request(BUILT, ask("r1"), now=NOW, at=AT, backoff_s=10.0).facts


def test_a_lock_that_is_incomplete_is_evicted_and_restored() -> None:
    decision = decide_request(BUILT, ask("r2"), now=NOW, at=AT, backoff_s=10.0, broken=(LOCK,))
    build = apply(BUILT, decision)
    assert kinds(decision) == [ImageEvicted, ImageRequested]
    assert not build.usable
    claimed = claim(build)
    assert claimed.claim is not None
    assert not claimed.claim.solves


def test_an_evicted_image_whose_restoring_failed_is_refused() -> None:
    build = fail(claim(request(BUILT, ask("r2"), broken=(LOCK,))))
    assert isinstance(answer_to(build, "r2", "red", "id"), ImageRefused)


def test_an_eviction_without_a_failure_is_refused_with_a_reason() -> None:
    answer = answer_to(evolve(BUILT, ImageEvicted()), "r9", "red", "id")
    assert isinstance(answer, ImageRefused)
    assert answer.problem.code == "image_evicted"


def test_a_failure_is_told_to_all_who_waited() -> None:
    build = fail(claim(request(request(Build(), ask("r1")), ask("r2"))))
    answers = [answer_to(build, name, "red", "id") for name in ("r1", "r2")]
    assert [answer.problem for answer in answers if isinstance(answer, ImageRefused)] == [BROKEN, BROKEN]


def test_within_the_backoff_a_repetition_is_refused_at_once() -> None:
    build = fail(claim(request(Build(), ask())), (NOW + timedelta(seconds=10)).isoformat())
    again = request(build, ask("r2"))
    assert again == build
    assert isinstance(answer_to(again, "r2", "red", "id"), ImageRefused)


def test_within_the_backoff_whoever_insists_gets_a_new_build() -> None:
    build = fail(claim(request(Build(), ask())), (NOW + timedelta(seconds=10)).isoformat())
    insisted = request(build, ask("r2", insists=True))
    assert insisted.is_open
    assert request(insisted, ask("r3")).waiters[-1].request_id == "r3"


@pytest.mark.parametrize(("seconds", "held"), [(5, True), (0, False), (-1, False), (3600, False)])
def test_the_backoff_ends_and_a_clock_that_stepped_cannot_stretch_it(seconds: int, held: bool) -> None:
    build = fail(claim(request(Build(), ask())), (NOW + timedelta(seconds=seconds)).isoformat())
    assert in_backoff(build, NOW, 10.0) is held
    assert not in_backoff(BUILT, NOW, 10.0)
    assert not in_backoff(fail(claim(request(Build(), ask()))), NOW, 10.0)


def test_refresh_makes_another_lock_and_keeps_the_old() -> None:
    build = request(BUILT, ask("r2", refresh=True))
    assert build.usable
    claimed = claim(build)
    assert claimed.claim is not None
    assert claimed.claim.solves
    assert answer_to(claimed, "r3", "red", "id") is not None
    refreshed = succeed(claimed, OTHER)
    assert (refreshed.lock_digest, refreshed.locks) == (OTHER, (LOCK, OTHER))


def test_a_refresh_that_fails_leaves_the_old_lock_in_use() -> None:
    build = fail(claim(request(BUILT, ask("r2", refresh=True))))
    assert isinstance(answer_to(build, "r2", "red", "id"), ImageRefused)
    assert isinstance(answer_to(build, "r3", "red", "id"), ImageProvided)


def test_a_refresh_that_comes_while_the_old_lock_is_restored_gets_a_build_of_its_own() -> None:
    restoring = claim(request(BUILT, ask("r2"), broken=(LOCK,)))
    both = succeed(request(restoring, ask("r3", refresh=True)))
    assert [waiter.request_id for waiter in both.waiters] == ["r3"]
    assert answer_to(both, "r3", "red", "id") is None
    assert answer_to(both, "r2", "red", "id") is not None
    again = claim(both)
    assert again.claim is not None
    assert again.claim.solves


def test_only_one_builder_gets_the_claim() -> None:
    build = claim(request(Build(), ask()), "one")
    assert not decide_claim(build, "two", at=AT).facts
    assert not decide_claim(build, "two", at=AT, over=7).facts
    assert not decide_claim(Build(), "two", at=AT).facts


def test_a_takeover_counts_on_and_the_former_result_is_refused() -> None:
    first = claim(request(Build(), ask()), "one")
    second = claim(first, "two", over=1)
    assert second.claim is not None
    assert (second.claim.builder, second.claim.attempt) == ("two", 2)
    late = ImageBuilt(lock_digest=LOCK, image="", seconds=1.0, artefacts=0, bytes=0, attempt=1)
    with pytest.raises(Conflict) as refused:
        decide_end(second, late)
    assert refused.value.code == "stale_claim"
    with pytest.raises(Conflict):
        decide_end(BUILT, late)


def test_a_dead_builders_claim_that_nobody_waits_for_is_ended() -> None:
    build = apply(claim(request(Build(), ask())), decide_release(claim(request(Build(), ask())), "run/red/r1"))
    ended = claim(build, "two", over=1)
    assert (ended.claim, ended.is_open) == (None, False)
    assert ended.problem is not None
    assert ended.problem.code == "build_canceled"


def test_a_build_that_kills_its_builders_is_given_up() -> None:
    build = request(Build(), ask())
    for number in range(MOST_LOST):
        build = claim(build, over=number or None)
    given_up = claim(build, over=MOST_LOST)
    assert given_up.problem is not None
    assert given_up.problem.code == "builder_lost"
    assert isinstance(answer_to(given_up, "r1", "red", "id"), ImageRefused)


def test_whoever_ended_waits_no_longer() -> None:
    build = request(request(Build(), ask("r1")), ask("r2"))
    decision = decide_release(build, "run/red/r1")
    assert kinds(decision) == [ImageReleased]
    left = apply(build, decision)
    assert [waiter.request_id for waiter in left.waiters] == ["r2"]
    assert not decide_release(left, "run/red/r1").facts


def test_the_newest_logs_are_kept() -> None:
    build = BUILT
    for number in range(KEPT_LOGS + 5):
        build = succeed(claim(request(build, ask(f"x{number}", refresh=True))))
    assert len(build.logs) == KEPT_LOGS
    assert (build.log_of(build.claims), build.log_of(1)) == (OTHER, "")


def test_facts_of_others_change_nothing() -> None:
    assert evolve(BUILT, BuildCompleted(lock_digest=LOCK, image="", reused=False)) is BUILT


def test_a_problem_holds_what_json_can() -> None:
    problem = problem_of(Failed("x", "What.", why="Why.", todo="Do.", extra={"package": "a", "at": NOW}))
    assert (problem.code, problem.message, problem.todo) == ("x", "What. Why.", "Do.")
    assert problem.extra == {"package": "a", "at": str(NOW)}


STEPS = st.lists(
    st.sampled_from(["ask", "refresh", "claim", "steal", "ok", "late", "fail", "release", "break"]), max_size=40
)


@given(STEPS)
def test_whatever_happens_every_request_waits_or_has_an_answer_and_one_claim_holds(steps: list[str]) -> None:
    build, asked, released, seen = Build(), 0, 0, 0
    answered: set[str] = set()
    for step in steps:
        if step in {"ask", "refresh", "break"}:
            asked += 1
            broken = (build.lock_digest,) if step == "break" else ()
            build = request(build, ask(f"r{asked}", refresh=step == "refresh"), broken=broken)
        elif step == "claim":
            build = claim(build)
        elif step == "steal" and build.claim is not None:
            build = claim(build, "two", over=build.claim.attempt)
        elif step in {"ok", "fail"} and build.claim is not None:
            build = succeed(build) if step == "ok" else fail(build)
        elif step == "late" and build.claim is not None:
            stale = ImageBuilt(
                lock_digest=OTHER, image="", seconds=0.0, artefacts=0, bytes=0, attempt=build.claim.attempt - 1
            )
            with pytest.raises(Conflict):
                decide_end(build, stale)
        elif step == "release" and build.waiters:
            released += 1
            answered.add(build.waiters[0].request_id)
            build = apply(build, decide_release(build, build.waiters[0].reply_to))
        waiting = {waiter.request_id for waiter in build.waiters}
        for number in range(1, asked + 1):
            name = f"r{number}"
            if name not in answered and answer_to(build, name, "red", "id") is not None:
                answered.add(name)
            assert name in answered or name in waiting
        assert build.claims >= seen
        seen = build.claims
        assert Build.model_validate(build.model_dump(mode="json"), strict=False) == build
        assert Build.model_validate_json(build.model_dump_json()) == build


def test_a_started_build_names_its_builder() -> None:
    build = claim(request(Build(), ask()), "one")
    assert build.claim is not None
    assert isinstance(decide_claim(request(Build(), ask()), "one", at=AT).facts[0], ImageBuildStarted)
    assert (build.claim.builder, build.started_at, build.lost) == ("one", AT, 1)
