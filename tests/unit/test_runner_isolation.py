"""Programs of two projects never share a node, unless it is said to be for all: the pure part."""

from collections.abc import Iterable

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cloche_runner.domain import nodes as rules
from cloche_runner.domain.nodes import Claimant, Node, Tenancy, evolve
from cloche_runner.domain.scheduler import MISSES, Queue, Times, Waiting, explain, plan
from cloche_shared.contracts.facts import ReplicaAllocated, ReplicaRefused
from cloche_shared.contracts.runs import Resources
from cloche_shared.errors import Forbidden
from cloche_shared.journal.streams import Decision
from cloche_shared.ports.devices import Offer

GIB = 2**30
OFFER = Offer(4.0, 8 * GIB)
APART = Tenancy(shared=False)
ALL = Tenancy(shared=True)
NEVER = Times("9", "", "")
"""Nobody is impatient, nobody starves."""


def after(node: Node, *decisions: Decision) -> Node:
    for decision in decisions:
        for fact in decision.facts:
            node = evolve(node, fact)
    return node


def node(tenancy: Tenancy = APART) -> Node:
    return after(Node(), rules.decide_join(Node(), OFFER, "", tenancy))


def claimant(project: str, run: str = "r") -> Claimant:
    return Claimant(f"run/{project}/{run}#1", Resources(cpus=1.0, memory=GIB))


def replica(project: str) -> Claimant:
    return Claimant(f"service/{project}/iris#1.0", Resources(cpus=0, memory=0), Resources(cpus=1.0, memory=GIB))


def given_to(found: Node, *claimants: Claimant) -> Node:
    return after(found, rules.decide_allocate(found, claimants))


def waiting(project: str, run: str, since: str = "5") -> Waiting:
    return Waiting(f"run/{project}/{run}", f"run/{project}/{run}#1", project, 0, since, Resources(cpus=1.0, memory=GIB))


def queue(items: Iterable[Waiting]) -> Queue:
    made = Queue()
    for item in items:
        made.add(item)
    return made


def projects_on(found: Node) -> set[str]:
    return {rules.project_of(holder) for holder in found.held}


def test_a_node_is_for_whoever_got_anything_there_first_for_always() -> None:
    taken = given_to(node(), claimant("red"), claimant("blue"))
    assert list(taken.held) == ["run/red/r#1"]
    ended = after(taken, rules.decide_release(taken, ["run/red/r#1"]))
    lost = after(ended, rules.decide_lost(ended))
    back = after(lost, rules.decide_join(lost, OFFER, "", APART))
    for one in (taken, ended, back):
        assert rules.is_open_to(one, "red")
        assert not rules.is_open_to(one, "blue")
    assert Node.model_validate_json(back.model_dump_json()) == back
    assert not rules.decide_join(back, OFFER, "", APART).facts


def test_a_node_that_is_given_to_a_project_waits_for_the_end_of_what_another_has_there() -> None:
    taken = given_to(node(), claimant("red"))
    given_away = after(taken, rules.decide_join(taken, OFFER, "", Tenancy(shared=False, project="blue")))
    assert not rules.is_open_to(given_away, "red")
    assert not rules.is_open_to(given_away, "blue")
    ended = after(given_away, rules.decide_release(given_away, ["run/red/r#1"]))
    assert list(given_to(ended, claimant("red"), claimant("blue")).held) == ["run/blue/r#1"]


def test_a_shared_node_takes_all_and_keeps_to_none_when_that_ends() -> None:
    both = given_to(node(ALL), claimant("red"), claimant("blue"))
    assert projects_on(both) == {"red", "blue"}
    apart = after(both, rules.decide_join(both, OFFER, "", APART))
    assert not any(rules.is_open_to(apart, project) for project in ("red", "blue", "green"))
    rest = after(apart, rules.decide_release(apart, ["run/red/r#1"]))
    assert rules.is_open_to(rest, "blue")


def test_runs_of_two_projects_go_to_two_nodes_and_a_third_project_is_told_why_it_waits() -> None:
    nodes = {"a": node(), "b": node()}
    runs = [waiting("red", "1", "1"), waiting("red", "2", "2"), waiting("blue", "1", "3"), waiting("green", "1", "4")]
    made = plan(queue(runs), nodes, NEVER)
    found = {one.waiting.key: one.node for one in made.placements}
    assert found["run/red/1"] == found["run/red/2"] != found["run/blue/1"]
    assert "run/green/1" not in found
    for one in made.placements:
        nodes[one.node] = given_to(nodes[one.node], Claimant(one.waiting.holder, one.waiting.resources))
    assert "isolation_required" in explain(runs[3], nodes, plan(queue(runs[3:]), nodes, NEVER))
    assert explain(waiting("red", "3"), nodes, made) == "waits for its turn."


def test_runs_that_no_node_may_take_hold_up_nobody() -> None:
    nodes = {"a": given_to(node(), claimant("red"))}
    others = [waiting("blue", str(number), "1") for number in range(2 * MISSES)]
    made = plan(queue([*others, waiting("red", "late", "7")]), nodes, Times("9", "8", "8"))
    assert [one.waiting.key for one in made.placements] == ["run/red/late"]


def test_a_replica_goes_to_its_projects_node_before_it_takes_a_fresh_one() -> None:
    nodes = {"a": node(), "b": given_to(node(), claimant("red")), "c": given_to(node(), claimant("blue"))}
    assert [rules.choose(nodes, replica(project)) for project in ("red", "blue", "green")] == ["b", "c", "a"]
    answer = rules.decide_replica(nodes["b"], "b", replica("red")).answer
    assert isinstance(answer, ReplicaAllocated)


def test_a_replica_that_would_have_to_share_a_node_is_refused() -> None:
    nodes = {"b": given_to(node(), claimant("red"))}
    decision = rules.decide_replica(nodes["b"], rules.choose(nodes, replica("blue")), replica("blue"))
    assert isinstance(decision.answer, ReplicaRefused)
    assert decision.answer.problem.code == "isolation_required"
    assert rules.is_isolated(decision)
    assert not decision.facts


def test_a_project_without_a_node_is_refused_only_where_every_node_is_anothers() -> None:
    taken, fresh = given_to(node(), claimant("red")), node()
    lost = after(given_to(node(), claimant("blue")), Decision(rules.decide_lost(node()).facts))
    rules.decide_admit([], "blue")
    rules.decide_admit([taken, fresh], "blue")
    rules.decide_admit([taken, lost], "blue")
    with pytest.raises(Forbidden) as caught:
        rules.decide_admit([taken], "blue")
    assert caught.value.code == "isolation_required"


@settings(max_examples=100, deadline=None)
@given(st.lists(st.tuples(st.sampled_from("rgb"), st.booleans(), st.booleans()), max_size=30), st.integers(1, 3))
def test_no_node_ever_has_programs_of_two_projects(steps: list[tuple[str, bool, bool]], count: int) -> None:
    nodes = {str(number): node() for number in range(count)}
    owners: dict[str, set[str]] = {name: set() for name in nodes}
    for number, (project, is_service, frees) in enumerate(steps):
        if is_service:
            asked = Claimant(f"service/{project}/s{number}#1.0", Resources(cpus=0, memory=0), Resources())
            name = rules.choose(nodes, asked)
            nodes[name] = after(nodes[name], rules.decide_replica(nodes[name], name, asked))
        else:
            for one in plan(queue([waiting(project, str(number))]), nodes, NEVER).placements:
                nodes[one.node] = given_to(nodes[one.node], Claimant(one.waiting.holder, one.waiting.resources))
        for name, found in nodes.items():
            owners[name] |= projects_on(found)
            nodes[name] = after(found, rules.decide_release(found, list(found.held)[:1])) if frees else found
    assert all(len(projects) <= 1 for projects in owners.values())
