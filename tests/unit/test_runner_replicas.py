"""Scoring replicas on nodes that are lost and come back: the pure part."""

from cloche_runner.domain.nodes import (
    Claimant,
    Node,
    decide_allocate,
    decide_ended,
    decide_join,
    decide_lost,
    decide_replica,
)
from cloche_runner.domain.nodes import evolve as evolve_node
from cloche_shared.contracts.facts import ReplicaAllocated
from cloche_shared.contracts.runs import Resources
from cloche_shared.journal.streams import Decision
from cloche_shared.ports.devices import Gpu, Offer

TWO_GPUS = Offer(8.0, 2**34, (Gpu("GPU-a", "T4", 2**34), Gpu("GPU-b", "T4", 2**34)))


def _joined_with_gpus() -> Node:
    return after_node(Node(), decide_join(Node(), TWO_GPUS, ""))


def after_node(node: Node, decision: Decision) -> Node:
    """Return the node after what was decided."""
    for fact in decision.facts:
        node = evolve_node(node, fact)
    return node


def test_a_lost_node_keeps_what_scoring_replicas_hold_until_they_are_proven_ended() -> None:
    node = _joined_with_gpus()
    node = after_node(node, decide_replica(node, "n", Claimant("service/p/iris#1.0", Resources(gpus=1))))
    node = after_node(node, decide_allocate(node, [Claimant("run/p/r#1", Resources(gpus=1))]))
    node = after_node(node, decide_lost(node))
    assert list(node.held) == ["service/p/iris#1.0"]
    node = after_node(node, decide_join(node, TWO_GPUS, ""))
    assert [gpu.uuid for gpu in node.free_gpus] == ["GPU-b"]
    assert not decide_ended(node, "service/p/iris#1", 1).facts
    assert not decide_ended(node, "service/p/iris#10", None).facts
    node = after_node(node, decide_ended(node, "service/p/iris#1", 0))
    assert len(node.free_gpus) == 2


def test_a_replica_that_comes_back_to_its_node_gets_the_same_gpus() -> None:
    node = _joined_with_gpus()
    node = after_node(node, decide_replica(node, "n", Claimant("service/p/iris#1.0", Resources(gpus=1))))
    node = after_node(node, decide_join(after_node(node, decide_lost(node)), TWO_GPUS, ""))
    decision = decide_replica(node, "n", Claimant("service/p/iris#1.1", Resources(gpus=1)))
    assert decision.answer == ReplicaAllocated(node="n", holder="service/p/iris#1.1", gpus=("GPU-a",))
    assert list(after_node(node, decision).held) == ["service/p/iris#1.1"]
