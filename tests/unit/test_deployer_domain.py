"""Decisions about scoring services."""

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cloche_deployer.domain import (
    KEPT_REVISIONS,
    ServiceState,
    decide_delete,
    decide_deploy,
    decide_deployed,
    decide_displaced,
    decide_ended,
    decide_failed,
    decide_left,
    decide_placed,
    decide_provided,
    decide_rekey,
    decide_resolved,
    decide_update,
    evolve,
    left_on,
    spent,
    wanted,
)
from cloche_deployer.keys import keys_of
from cloche_shared.contracts.definition import Definition
from cloche_shared.contracts.facts import (
    ImageProvided,
    ReferencesResolved,
    ReplicaAllocated,
    ReplicaLost,
    ReplicaRequested,
    RevisionProvided,
    ServiceFailed,
    ServiceSubmitted,
)
from cloche_shared.contracts.references import Problem, References, ResolvedEnvironment
from cloche_shared.contracts.runs import Resources
from cloche_shared.contracts.services import ServiceSpec
from cloche_shared.errors import Conflict, NotFound
from cloche_shared.journal.streams import Decision

DIGEST = "sha256:" + "0" * 64
ENVIRONMENT = ResolvedEnvironment(name="e", version="1", definition_hash="e1:0", definition=Definition())
RESOLVED = ReferencesResolved(environment=ENVIRONMENT)
PROVIDED = ImageProvided(
    definition_hash="e1:0", lock_digest=DIGEST, scope="public", target="process", image="i", reused=True
)
ALLOCATED = ReplicaAllocated(node="n", holder="service/default/iris#1.0", gpus=("GPU-1",))
PROBLEM = Problem(code="init_failed", message="init() raised.")
PEPPER = b"p" * 32


def spec(**fields: Any) -> ServiceSpec:
    return ServiceSpec(entry_script="score.py", snapshot=DIGEST, **fields)


def after(state: ServiceState, *decisions: Decision) -> ServiceState:
    for decision in decisions:
        for fact in decision.facts:
            state = evolve(state, fact)
    return state


def deployed(state: ServiceState | None = None, **fields: Any) -> ServiceState:
    state = state or ServiceState()
    decide = decide_update if state.exists else decide_deploy
    state = after(state, decide(state, spec(**fields), References()))
    state = after(state, decide_resolved(state, state.latest, RESOLVED))
    state = after(state, decide_provided(state, state.latest, PROVIDED))
    if state.newest.spec.resources.gpus:
        state = after(state, decide_placed(state, state.latest, ALLOCATED))
    return after(state, decide_deployed(state, state.latest, "http://here/score"))


def test_a_service_goes_from_submitted_to_healthy() -> None:
    state = after(ServiceState(), decide_deploy(ServiceState(), spec(), References()))
    assert (state.status, wanted(state)) == ("Transitioning", [])
    state = after(state, decide_resolved(state, 1, RESOLVED))
    state = after(state, decide_provided(state, 1, PROVIDED))
    assert wanted(state) == [1]
    state = after(state, decide_deployed(state, 1, "u"))
    assert (state.status, state.active, wanted(state)) == ("Healthy", 1, [1])


def test_a_name_is_taken_until_it_is_given_up() -> None:
    state = deployed()
    with pytest.raises(Conflict) as taken:
        decide_deploy(state, spec(), References())
    assert taken.value.code == "service_exists"
    state = after(state, decide_delete(state))
    assert (state.status, wanted(state)) == ("Deleted", [])
    again = after(state, decide_deploy(state, spec(), References()))
    assert (again.incarnation, again.latest, again.active) == (2, 2, 0)


def test_a_service_that_failed_is_deployed_again_under_its_name_and_keys() -> None:
    state = after(ServiceState(), decide_deploy(ServiceState(), spec(), References()))
    state = after(state, decide_failed(state, 1, Problem(code="init_failed", message="no")))
    again = after(state, decide_deploy(state, spec(), References()))
    assert (again.status, again.latest, again.incarnation, again.keys) == ("Transitioning", 2, 1, state.keys)
    with pytest.raises(Conflict):
        decide_deploy(again, spec(), References())


def test_an_update_takes_the_traffic_only_when_its_workers_are_healthy() -> None:
    state = deployed()
    state = after(state, decide_update(state, spec(workers=2), References()))
    assert (state.active, state.status) == (1, "Transitioning")
    state = after(state, decide_resolved(state, 2, RESOLVED))
    state = after(state, decide_provided(state, 2, PROVIDED))
    assert wanted(state) == [1, 2]
    state = after(state, decide_deployed(state, 2, "u"))
    assert (state.active, wanted(state), state.revisions[1].stage) == (2, [2], "retired")


def test_a_failed_update_leaves_the_traffic_where_it_is() -> None:
    state = after(deployed(), decide_update(deployed(), spec(), References()))
    state = after(state, decide_failed(state, 2, PROBLEM))
    assert (state.active, state.status, wanted(state)) == (1, "Healthy", [1])
    assert state.newest.problem == PROBLEM


def test_a_first_revision_that_fails_leaves_a_failed_service() -> None:
    state = after(ServiceState(), decide_deploy(ServiceState(), spec(), References()))
    state = after(state, decide_failed(state, 1, PROBLEM))
    assert (state.status, wanted(state)) == ("Failed", [])
    assert not decide_failed(state, 1, PROBLEM).facts


def test_an_active_revision_that_goes_down_for_good_has_no_traffic_left() -> None:
    state = after(deployed(), decide_failed(deployed(), 1, PROBLEM))
    assert (state.active, state.status) == (0, "Failed")


def test_gpus_are_asked_for_before_workers_start() -> None:
    state = after(ServiceState(), decide_deploy(ServiceState(), spec(resources=Resources(gpus=1)), References()))
    state = after(state, decide_resolved(state, 1, RESOLVED))
    decision = decide_provided(state, 1, PROVIDED)
    assert [type(fact) for fact in decision.facts] == [RevisionProvided, ReplicaRequested]
    state = after(state, decision)
    assert wanted(state) == []
    state = after(state, decide_placed(state, 1, ALLOCATED))
    assert (wanted(state), state.newest.gpus) == ([1], ("GPU-1",))
    assert not decide_placed(state, 1, ALLOCATED).facts


def test_answers_for_an_overtaken_revision_change_nothing() -> None:
    state = after(ServiceState(), decide_deploy(ServiceState(), spec(), References()))
    state = after(state, decide_update(state, spec(), References()))
    assert state.revisions[1].stage == "retired"
    for decision in (
        decide_resolved(state, 1, RESOLVED),
        decide_provided(state, 1, PROVIDED),
        decide_placed(state, 1, ALLOCATED),
        decide_deployed(state, 1, "u"),
        decide_failed(state, 1, PROBLEM),
    ):
        assert not decision.facts


def test_answers_that_come_twice_change_nothing() -> None:
    state = deployed()
    assert not decide_resolved(state, 1, RESOLVED).facts
    assert not decide_provided(state, 1, PROVIDED).facts
    assert not decide_deployed(state, 1, "u").facts


@pytest.mark.parametrize("decide", [decide_delete, lambda state: decide_update(state, spec(), References())])
def test_what_does_not_exist_cannot_be_changed(decide: Any) -> None:
    with pytest.raises(NotFound) as absent:
        decide(ServiceState())
    assert absent.value.code == "service_not_found"


def test_a_new_key_replaces_only_its_own() -> None:
    state = deployed()
    before = keys_of(PEPPER, "default", "s", state)
    state = after(state, decide_rekey(state, "primary"))
    now = keys_of(PEPPER, "default", "s", state)
    assert now["secondary"] == before["secondary"]
    assert now["primary"] != before["primary"]
    with pytest.raises(NotFound):
        decide_rekey(state, "third")


def test_keys_differ_between_projects_services_and_incarnations() -> None:
    state = deployed()
    again = deployed(after(state, decide_delete(state)))
    keys = [keys_of(PEPPER, *place, one) for one in (state, again) for place in (("a", "s"), ("a", "t"), ("b", "s"))]
    assert len({key for pair in keys for key in pair.values()}) == 12


def test_old_revisions_are_forgotten() -> None:
    state = deployed()
    for _ in range(3 * KEPT_REVISIONS):
        state = deployed(state)
    assert len(state.revisions) <= KEPT_REVISIONS + 2
    assert state.newest.number == state.active == 3 * KEPT_REVISIONS + 1


def test_facts_about_unknown_revisions_are_ignored() -> None:
    assert evolve(ServiceState(), ServiceFailed(revision=7, problem=PROBLEM)) == ServiceState()
    assert evolve(deployed(), ReferencesResolved(environment=ENVIRONMENT)) == deployed()


@given(st.lists(st.sampled_from(["deploy", "update", "resolve", "provide", "serve", "fail", "delete"]), max_size=40))
def test_only_provided_revisions_ever_get_traffic_and_revisions_have_no_gap(steps: list[str]) -> None:
    state = ServiceState()
    numbers: list[int] = []
    for step in steps:
        decision = take(step, state)
        numbers += [fact.revision for fact in decision.facts if isinstance(fact, ServiceSubmitted)]
        state = after(state, decision)
        assert all(state.revisions[number].lock_digest for number in wanted(state))
        assert ServiceState.model_validate_json(state.model_dump_json()) == state
    assert numbers == list(range(1, len(numbers) + 1))


def take(step: str, state: ServiceState) -> Decision:
    latest = state.latest
    steps = {
        "deploy": lambda: decide_deploy(state, spec(), References()),
        "update": lambda: decide_update(state, spec(), References()),
        "resolve": lambda: decide_resolved(state, latest, RESOLVED),
        "provide": lambda: decide_provided(state, latest, PROVIDED),
        "serve": lambda: decide_deployed(state, latest, "u"),
        "fail": lambda: decide_failed(state, latest, PROBLEM),
        "delete": lambda: decide_delete(state),
    }
    try:
        return steps[step]()
    except (Conflict, NotFound):
        return Decision()


def placed(state: ServiceState, node: str) -> ServiceState:
    answer = ReplicaAllocated(node=node, holder=f"service/default/iris#1.{state.places[1]}")
    return after(state, decide_placed(state, state.latest, answer))


def on_many_nodes(node: str) -> ServiceState:
    state = after(ServiceState(), decide_deploy(ServiceState(), spec(), References()))
    state = after(state, decide_resolved(state, 1, RESOLVED))
    state = after(state, decide_provided(state, 1, PROVIDED, many=True))
    return placed(state, node)


def test_where_there_are_many_nodes_every_revision_asks_for_one_and_only_for_that() -> None:
    state = after(ServiceState(), decide_deploy(ServiceState(), spec(), References()))
    state = after(state, decide_resolved(state, 1, RESOLVED))
    decision = decide_provided(state, 1, PROVIDED, many=True)
    request = decision.facts[-1]
    assert isinstance(request, ReplicaRequested)
    assert (request.resources.cpus, request.resources.memory, request.resources.gpus) == (0, 0, 0)
    assert wanted(after(state, decision)) == []


def test_a_placed_revision_is_wanted_on_its_node_alone() -> None:
    state = on_many_nodes("n1")
    assert (wanted(state, "n1"), wanted(state, "n2"), wanted(state)) == ([1], [], [1])


def test_a_service_moves_when_its_node_is_lost_and_keeps_its_revision() -> None:
    state = on_many_nodes("n1")
    state = after(state, decide_deployed(state, 1, "u"))
    assert not decide_displaced(state, "n2").facts
    decision = decide_displaced(state, "n1")
    assert [type(fact) for fact in decision.facts] == [ReplicaLost, ReplicaRequested]
    state = after(state, decision)
    assert (wanted(state), state.active, state.status) == ([], 1, "Healthy")
    assert not decide_displaced(state, "n1").facts
    state = placed(state, "n2")
    assert (wanted(state, "n1"), wanted(state, "n2")) == ([], [1])


def test_what_lived_on_a_lost_node_has_ended_only_when_that_node_says_so() -> None:
    state = on_many_nodes("n1")
    state = after(state, decide_deployed(state, 1, "u"))
    state = placed(after(state, decide_displaced(state, "n1")), "n2")
    assert (left_on(state, "n1"), left_on(state, "n2")) == ([(1, 0)], [])
    assert not decide_left(state, 1, 1).facts
    state = after(state, decide_left(state, 1, 0))
    assert (left_on(state, "n1"), state.holding) == ([], {1: "n2"})
    assert not decide_left(state, 1, 0).facts


def test_what_nobody_wants_any_more_is_held_until_its_lost_node_returns() -> None:
    state = on_many_nodes("n1")
    state = after(state, decide_delete(state))
    assert not decide_displaced(state, "n1").facts
    assert (spent(state, "n1"), spent(state, "n2")) == ([1], [])
    assert not after(state, decide_ended(state, 1)).holding


def test_an_answer_to_an_earlier_request_places_nothing() -> None:
    state = on_many_nodes("n1")
    state = after(state, decide_displaced(state, "n1"))
    assert not decide_placed(state, 1, ReplicaAllocated(node="n1", holder="service/default/iris#1.0")).facts
    assert decide_placed(state, 1, ReplicaAllocated(node="n2", holder="service/default/iris#1.1")).facts


def test_an_answer_for_a_place_that_was_not_asked_for_changes_nothing() -> None:
    assert not decide_placed(deployed(), 1, ReplicaAllocated(node="n1", holder="service/default/iris#1.0")).facts
