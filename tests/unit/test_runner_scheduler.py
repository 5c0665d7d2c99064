"""Nodes and the scheduler: the pure part, and its laws."""

from collections import Counter

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cloche_runner.domain import nodes as rules
from cloche_runner.domain.nodes import Claimant, Node, evolve
from cloche_runner.domain.scheduler import Queue, Times, Waiting, explain, plan
from cloche_shared.contracts.facts import EnvironmentArchived, NodeGpu, ReplicaAllocated, ReplicaRefused
from cloche_shared.contracts.runs import Resources
from cloche_shared.journal.streams import Decision
from cloche_shared.ports.devices import Gpu, Offer

GIB = 2**30
NEVER = Times("9", "", "")
"""Nobody is impatient, nobody starves."""


def after(node: Node, decision: Decision) -> Node:
    for fact in decision.facts:
        node = evolve(node, fact)
    return node


def node(cpus: float = 4.0, memory: int = 8 * GIB, gpus: int = 0, kind: str = "H200") -> Node:
    found = tuple(Gpu(f"GPU-{number}", kind, GIB) for number in range(gpus))
    return after(Node(), rules.decide_join(Node(), Offer(cpus, memory, found), "here"))


def waiting(key: str, project: str = "p", since: str = "5", priority: int = 0, **wanted: object) -> Waiting:
    asked = Resources.model_validate({"memory": GIB, **wanted})
    return Waiting(f"run/{project}/{key}", f"run/{project}/{key}#1", project, priority, since, asked)


def queue(*items: Waiting) -> Queue:
    made = Queue()
    for item in items:
        made.add(item)
    return made


def placed(made: Queue, nodes: dict[str, Node], times: Times = NEVER) -> list[str]:
    return [one.waiting.key.rpartition("/")[2] for one in plan(made, nodes, times).placements]


# --- nodes


def test_a_node_joins_once_and_again_when_its_offer_changed_or_it_was_lost() -> None:
    here = node()
    assert rules.decide_join(here, Offer(4.0, 8 * GIB), "here").facts == ()
    assert rules.decide_join(here, Offer(8.0, 8 * GIB), "here").facts
    lost = after(here, rules.decide_lost(here))
    assert not lost.is_here
    assert rules.decide_lost(lost).facts == ()
    assert after(lost, rules.decide_join(lost, Offer(4.0, 8 * GIB), "here")) == here


def test_allocation_is_all_or_nothing_and_release_is_harmless_twice() -> None:
    here = node(gpus=2)
    asked = [Claimant("a", Resources(gpus=1)), Claimant("b", Resources(gpus=2)), Claimant("c", Resources(gpus=1))]
    held = after(here, rules.decide_allocate(here, asked))
    assert {name: item.gpus for name, item in held.held.items()} == {"a": ("GPU-0",), "c": ("GPU-1",)}
    assert rules.allocate(held, asked[0]) is None
    freed = after(held, rules.decide_release(held, ["a", "a", "x"]))
    assert list(freed.held) == ["c"]
    assert after(freed, rules.decide_lost(freed)).held == {}
    assert evolve(freed, EnvironmentArchived()) == freed
    assert Node.model_validate_json(held.model_dump_json()) == held


def test_gpus_are_chosen_by_kind() -> None:
    assert rules.is_kind(NodeGpu(uuid="u", kind="A100 SXM4", memory=1), "a100")
    assert not rules.is_kind(NodeGpu(uuid="u", kind="A100 SXM4", memory=1), "h200")
    assert not rules.fits(node(gpus=2), Resources(gpus=1, gpu_kind="a100"))


def test_replicas_are_answered_once_and_refused_with_the_reason() -> None:
    here = node(gpus=1)
    claimant = Claimant("service/p/s#1.1", Resources(gpus=1))
    given_ = rules.decide_replica(here, "n1", claimant)
    assert isinstance(given_.answer, ReplicaAllocated)
    held = after(here, given_)
    again = rules.decide_replica(held, "n1", claimant)
    assert (again.facts, again.answer) == ((), given_.answer)
    shared = Resources(cpus=0, memory=0)
    for within in (Resources(cpus=400), Resources(memory=2**50)):
        much = rules.decide_replica(here, "n1", Claimant("service/p/s#3.0", shared, within)).answer
        assert isinstance(much, ReplicaRefused)
        assert much.problem.code == "insufficient_resources"
        assert "the largest node has" in much.problem.message
    busy = rules.decide_replica(held, "n1", Claimant("service/p/s#2.1", Resources(gpus=1))).answer
    never = rules.decide_replica(held, "n1", Claimant("service/p/s#2.1", Resources(gpus=2))).answer
    assert isinstance(busy, ReplicaRefused)
    assert isinstance(never, ReplicaRefused)
    assert (busy.problem.code, never.problem.code) == ("resources_busy", "insufficient_resources")


@pytest.mark.parametrize(
    ("wanted", "sentence"),
    [
        ({"gpus": 3}, "asks for 3 GPUs; the largest node has 1."),
        ({"gpus": 1, "gpu_kind": "a100"}, "asks for 1 GPU of kind a100; the largest node has 0."),
        ({"cpus": 9.0}, "asks for 9 CPUs; the largest node has 4."),
        ({"memory": 99 * GIB}, "asks for 99.0 GiB of memory; the largest node has 8.0 GiB."),
        ({"gpus": 1, "cpus": 4.0}, "asks for more of everything together than any one node has."),
        ({}, ""),
    ],
)
def test_what_no_node_can_meet_is_said(wanted: dict[str, object], sentence: str) -> None:
    nodes = [node(cpus=4.0), node(cpus=1.0, gpus=1)]
    assert rules.never(nodes, Resources.model_validate(wanted)) == sentence
    assert rules.never([], Resources()) == "waits for a node: none is there."


@pytest.mark.parametrize(
    ("wanted", "sentence"),
    [
        ({"gpus": 1}, "waits for 1 GPU: 0 free."),
        ({"cpus": 4.0}, "waits for 4 CPUs: 3 free."),
        ({"memory": 8 * GIB}, "waits for 8.0 GiB of memory: 7.0 GiB free."),
        ({}, "waits for its turn."),
    ],
)
def test_what_is_lacking_just_now_is_said(wanted: dict[str, object], sentence: str) -> None:
    here = node(gpus=1)
    here = after(here, rules.decide_allocate(here, [Claimant("a", Resources(gpus=1, memory=GIB))]))
    assert rules.waits_for([here], Resources.model_validate(wanted)) == sentence


# --- order


def test_priority_goes_before_age_and_age_before_nothing() -> None:
    made = queue(waiting("late", since="7"), waiting("early", since="3"), waiting("urgent", since="9", priority=1))
    assert placed(made, {"n": node()}) == ["urgent", "early", "late"]


def test_projects_share_fairly() -> None:
    items = [waiting(f"a{number}", "a", f"1{number}") for number in range(4)]
    items += [waiting(f"b{number}", "b", f"2{number}") for number in range(4)]
    assert placed(queue(*items), {"n": node(cpus=4.0)}) == ["a0", "b0", "a1", "b1"]
    busy = node(cpus=4.0)
    busy = after(busy, rules.decide_allocate(busy, [Claimant("run/a/x#1", Resources(cpus=2.0))]))
    assert placed(queue(*items), {"n": busy}) == ["b0", "b1"]


def test_who_starves_goes_before_projects_that_hold_less() -> None:
    busy = node(cpus=2.0)
    busy = after(busy, rules.decide_allocate(busy, [Claimant("run/a/x#1", Resources(cpus=1.0))]))
    made = queue(waiting("old", "a", "1"), waiting("young", "b", "5"))
    assert placed(made, {"n": busy}) == ["young"]
    assert placed(made, {"n": busy}, Times("9", "2", "2")) == ["old"]


def test_small_runs_go_first_until_a_large_one_is_impatient() -> None:
    busy = node(cpus=4.0)
    busy = after(busy, rules.decide_allocate(busy, [Claimant("run/a/x#1", Resources(cpus=2.0))]))
    large, small = waiting("large", since="1", cpus=4.0), waiting("small", since="5")
    made = queue(large, small)
    assert placed(made, {"n": busy}) == ["small"]
    found = plan(made, {"n": busy}, Times("9", "2", ""))
    assert found.placements == ()
    other = node(cpus=1.0)
    assert placed(made, {"n": busy, "o": other}, Times("9", "2", "")) == ["small"]


def test_a_reservation_is_explained() -> None:
    busy = node(cpus=4.0)
    busy = after(busy, rules.decide_allocate(busy, [Claimant("run/a/x#1", Resources(cpus=2.0))]))
    full = node(cpus=1.0)
    full = after(full, rules.decide_allocate(full, [Claimant("run/a/y#1", Resources(cpus=1.0))]))
    large, small = waiting("large", since="1", cpus=4.0), waiting("small", since="5")
    nodes = {"n": busy, "o": full}
    found = plan(queue(large, small), nodes, Times("9", "2", ""))
    assert explain(large, nodes, found) == "waits for 4 CPUs: 2 free."
    assert "is kept for run/p/large" in explain(small, nodes, found)


def test_what_no_node_can_meet_holds_nobody_back() -> None:
    made = queue(waiting("huge", since="1", cpus=99.0), waiting("small", since="5"))
    assert placed(made, {"n": node()}, Times("9", "2", "2")) == ["small"]
    assert placed(made, {}, Times("9", "2", "2")) == []


def test_a_run_waits_for_its_time_without_holding_others_back() -> None:
    later = Waiting("run/p/l", "run/p/l#2", "p", 0, "1", Resources(), "95")
    made = queue(later, waiting("now"))
    nodes = {"n": node()}
    found = plan(made, nodes, NEVER)
    assert [one.waiting.key for one in found.placements] == ["run/p/now"]
    assert explain(later, nodes, found) == "is tried again, not before 95."
    assert (made.next_time("9"), made.next_time("96")) == ("95", "")


def test_the_tightest_node_is_taken_and_a_holder_gets_no_second_allocation() -> None:
    roomy, tight = node(cpus=8.0), node(cpus=1.0)
    assert [one.node for one in plan(queue(waiting("a")), {"r": roomy, "t": tight}, NEVER).placements] == ["t"]
    half = after(roomy, rules.decide_allocate(roomy, [Claimant("run/p/a#1", Resources())]))
    found = plan(queue(waiting("a")), {"r": half}, NEVER)
    assert found.placements == ()
    assert found.reasons["run/p/a"] == "is about to start."


def test_a_queue_keeps_what_was_added_once() -> None:
    made = queue(waiting("a"), waiting("a", priority=3), waiting("b"))
    made.remove("run/p/b")
    made.remove("run/p/b")
    assert (len(made), list(made), "run/p/a" in made) == (1, ["run/p/a"], True)
    assert made.priorities() == [3]
    assert made.get("run/p/b") is None


# --- laws

requests = st.builds(
    lambda project, priority, since, cpus, gpus, memory: (project, priority, since, cpus, gpus, memory),
    st.sampled_from("abc"),
    st.integers(0, 1),
    st.integers(0, 99),
    st.sampled_from([0.0, 0.5, 1.0, 2.0, 4.0, 9.0]),
    st.integers(0, 3),
    st.integers(0, 10),
)


def many(found: list[tuple[str, int, int, float, int, int]]) -> list[Waiting]:
    return [
        waiting(f"r{number}", project, f"{since:03d}", priority, cpus=cpus, gpus=gpus, memory=memory * GIB)
        for number, (project, priority, since, cpus, gpus, memory) in enumerate(found)
    ]


@settings(max_examples=80, deadline=None)
@given(st.lists(requests, max_size=25), st.integers(0, 99), st.integers(0, 99))
def test_a_round_never_gives_more_than_there_is(
    found: list[tuple[str, int, int, float, int, int]], impatient: int, starving: int
) -> None:
    nodes = {"n": node(cpus=4.0, gpus=2), "o": node(cpus=2.0, memory=4 * GIB)}
    made = plan(queue(*many(found)), nodes, Times("999", f"{impatient:03d}", f"{starving:03d}"))
    assert len({one.waiting.key for one in made.placements}) == len(made.placements)
    for name, here in nodes.items():
        mine = [one.waiting for one in made.placements if one.node == name]
        held = after(here, rules.decide_allocate(here, [Claimant(one.holder, one.resources) for one in mine]))
        assert set(held.held) == {one.holder for one in mine}
        assert held.free_cpus >= 0
        assert held.free_memory >= 0
        assert max(Counter(uuid for item in held.held.values() for uuid in item.gpus).values(), default=0) <= 1


@settings(max_examples=20, deadline=None)
@given(st.lists(requests, min_size=1, max_size=12))
def test_every_run_that_some_node_can_meet_gets_its_turn(
    found: list[tuple[str, int, int, float, int, int]],
) -> None:
    """Runs end one after another while new small ones keep coming from a project that holds nothing."""
    nodes = {"n": node(cpus=4.0, gpus=2)}
    items = [one for one in many(found) if rules.could_fit(nodes["n"], one.resources)]
    made = queue(*items)
    left = {one.holder for one in items}
    started: list[str] = []
    for now in range(300):
        if not left:
            break
        made.add(waiting(f"s{now}", "z", f"{100 + now}", 1 if now % 7 == 0 else 0))
        here = nodes["n"]
        found_plan = plan(made, nodes, Times("999", f"{100 + now - 5}", f"{100 + now - 50}"))
        for one in found_plan.placements:
            here = after(here, rules.decide_allocate(here, [Claimant(one.waiting.holder, one.waiting.resources)]))
            made.remove(one.waiting.key)
            left.discard(one.waiting.holder)
            started.append(one.waiting.holder)
        oldest = next((name for name in started if name in here.held), None)
        nodes["n"] = after(here, rules.decide_release(here, [oldest])) if oldest else here
    assert not left


@settings(max_examples=40, deadline=None)
@given(st.lists(st.tuples(st.sampled_from("ab"), st.integers(0, 99)), max_size=30))
def test_within_a_project_and_priority_equals_go_first_come_first_served(found: list[tuple[str, int]]) -> None:
    items = [waiting(f"r{number:02d}", project, f"{since:03d}") for number, (project, since) in enumerate(found)]
    made = plan(queue(*items), {"n": node(cpus=8.0, memory=99 * GIB)}, NEVER)
    for project in "ab":
        mine = [one.waiting.place for one in made.placements if one.waiting.project == project]
        assert mine == sorted(one.place for one in items if one.project == project)[: len(mine)]
