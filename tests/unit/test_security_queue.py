"""Nobody holds up the queue with runs that no node can ever meet."""

from cloche_runner.domain import nodes as rules
from cloche_runner.domain.nodes import Node, evolve
from cloche_runner.domain.scheduler import LOOK, Queue, Times, Waiting, explain, plan
from cloche_shared.contracts.runs import Resources
from cloche_shared.ports.devices import Offer

TIMES = Times("9", "9", "9")
"""Everybody is impatient, and everybody starves."""


def here() -> Node:
    node = Node()
    for fact in rules.decide_join(node, Offer(4.0, 2**33), "here").facts:
        node = evolve(node, fact)
    return node


def waiting(key: str, since: str, **wanted: object) -> Waiting:
    return Waiting(f"run/p/{key}", f"run/p/{key}#1", "p", 0, since, Resources.model_validate(wanted))


def test_any_number_of_impossible_runs_in_front_lets_a_possible_one_go() -> None:
    queue, nodes = Queue(), {"n": here()}
    for number in range(2 * LOOK):
        queue.add(waiting(f"huge{number:05}", "1", gpus=1 + number % 64))
    queue.add(waiting("small", "2"))
    made = plan(queue, nodes, TIMES)
    assert [one.waiting.key for one in made.placements] == ["run/p/small"]
    huge = queue.get("run/p/huge00000")
    assert huge is not None
    assert "1 GPU" in explain(huge, nodes, made)
