"""A node: what it offers, and who holds what of it.

One insert in the node's stream gives a holder its CPU, memory and all its GPUs. The state keeps only
what is held now, so it stays small however many runs went over the node.
"""

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from pydantic import BaseModel, ConfigDict, Field

from cloche_shared.contracts.fact import Fact
from cloche_shared.contracts.facts import (
    NodeGpu,
    NodeJoined,
    NodeLost,
    ReplicaAllocated,
    ReplicaRefused,
    ResourcesAllocated,
    ResourcesReleased,
)
from cloche_shared.contracts.references import Problem
from cloche_shared.contracts.runs import Resources
from cloche_shared.errors import Forbidden, Unavailable
from cloche_shared.journal.streams import Decision
from cloche_shared.ports.devices import Offer

NODE_PROJECT = "-"
"""The project of all nodes' streams: no user's project can have this name."""
REPLICAS = "service/"
"""How the holders' names of scoring replicas begin."""


class Held(BaseModel):
    """What one holder has."""

    model_config = ConfigDict(frozen=True)

    cpus: float = 0.0
    memory: int = 0
    gpus: tuple[str, ...] = ()


class Node(BaseModel):
    """A node as it is. A default instance does not exist.

    Where it is not `shared` it runs the code of one `project` only (empty: nobody has got anything there yet).
    """

    model_config = ConfigDict(frozen=True)

    joined: bool = False
    lost: bool = False
    cpus: float = 0.0
    memory: int = 0
    gpus: tuple[NodeGpu, ...] = ()
    address: str = ""
    shared: bool = True
    project: str = ""
    held: dict[str, Held] = Field(default_factory=dict)

    @property
    def is_here(self) -> bool:
        """Whether it can be given work."""
        return self.joined and not self.lost

    @property
    def free_cpus(self) -> float:
        """Cores that nobody holds."""
        return round(self.cpus - sum(held.cpus for held in self.held.values()), 6)

    @property
    def free_memory(self) -> int:
        """Bytes of memory that nobody holds."""
        return self.memory - sum(held.memory for held in self.held.values())

    @property
    def free_gpus(self) -> tuple[NodeGpu, ...]:
        """GPUs that nobody holds."""
        taken = {uuid for held in self.held.values() for uuid in held.gpus}
        return tuple(gpu for gpu in self.gpus if gpu.uuid not in taken)


def _joined(node: Node, fact: NodeJoined) -> Node:
    """Take the offer; whose code a node has run it does not forget, unless it is given to a project by name."""
    project = "" if fact.shared else fact.project or node.project
    offered = fact.model_dump(include={"cpus", "memory", "address", "shared"})
    return Node(joined=True, gpus=fact.gpus, project=project, held=node.held, **offered)


def _lost(node: Node, _: NodeLost) -> Node:
    """Free what attempts held: their grants ended before. Scoring workers have none; theirs stays until it is freed."""
    held = {name: held for name, held in node.held.items() if name.startswith(REPLICAS)}
    return node.model_copy(update={"lost": True, "held": held})


def _allocated(node: Node, fact: ResourcesAllocated) -> Node:
    wanted = fact.resources
    held = Held(cpus=wanted.cpus, memory=wanted.memory, gpus=fact.gpus)
    project = "" if node.shared else node.project or project_of(fact.holder)
    return node.model_copy(update={"held": {**node.held, fact.holder: held}, "project": project})


def _released(node: Node, fact: ResourcesReleased) -> Node:
    return node.model_copy(update={"held": {name: held for name, held in node.held.items() if name != fact.holder}})


_EVOLVE: Mapping[type[Fact], Callable[..., Node]] = {
    NodeJoined: _joined,
    NodeLost: _lost,
    ResourcesAllocated: _allocated,
    ResourcesReleased: _released,
}


def evolve(node: Node, fact: Fact) -> Node:
    """Return the node after a fact; facts of other kinds change nothing."""
    change = _EVOLVE.get(type(fact))
    return node if change is None else change(node, fact)


# --- what fits


def project_of(holder: str) -> str:
    """Return whose a holder is (`run/<project>/<id>#<attempt>`, or a replica)."""
    return holder.split("/")[1] if holder.count("/") > 1 else ""


def is_open_to(node: Node, project: str) -> bool:
    """Tell whether a node may run a project's code: all programs of a node have one user of the system."""
    if node.shared:
        return True
    return node.project in {"", project} and all(project_of(holder) == project for holder in node.held)


def is_free_of_projects(node: Node) -> bool:
    """Tell whether a node becomes the first comer's for always: such nodes are taken last."""
    return not node.shared and not node.project


def is_kind(gpu: NodeGpu, kind: str) -> bool:
    """Tell whether a GPU is of the kind that is asked for: its name, or a word of it, in any case."""
    return not kind or kind.casefold() == gpu.kind.casefold() or kind.casefold() in gpu.kind.casefold().split()


def suited(gpus: Sequence[NodeGpu], wanted: Resources) -> list[NodeGpu]:
    """Return those GPUs that count for a request."""
    return [gpu for gpu in gpus if is_kind(gpu, wanted.gpu_kind)]


def fits(node: Node, wanted: Resources) -> bool:
    """Tell whether a request fits into what is free."""
    return (
        node.is_here
        and wanted.cpus <= node.free_cpus
        and wanted.memory <= node.free_memory
        and wanted.gpus <= len(suited(node.free_gpus, wanted))
    )


def could_fit(node: Node, wanted: Resources) -> bool:
    """Tell whether a request fits when nobody holds anything."""
    return (
        node.is_here
        and wanted.cpus <= node.cpus
        and wanted.memory <= node.memory
        and wanted.gpus <= len(suited(node.gpus, wanted))
    )


# --- decisions


@dataclass(frozen=True, slots=True)
class Claimant:
    """Who wants what."""

    holder: str
    resources: Resources
    within: Resources | None = None
    """What the node must have in all, though others may use it too."""

    @property
    def project(self) -> str:
        """Whose it is."""
        return project_of(self.holder)

    def could_live_on(self, node: "Node") -> bool:
        """Whether an empty node of this kind would do."""
        return self.within is None or could_fit(node, self.within)


@dataclass(frozen=True, slots=True)
class Tenancy:
    """Whose code a node runs: that of any project, or of one: of `project`, or (empty) of the first that comes."""

    shared: bool = True
    project: str = ""


def decide_join(node: Node, offer: Offer, address: str, tenancy: Tenancy = Tenancy()) -> Decision:
    """Offer what the node has; nothing when that is known and the node is not lost."""
    gpus = tuple(NodeGpu(uuid=gpu.uuid, kind=gpu.kind, memory=gpu.memory) for gpu in offer.gpus)
    fact = NodeJoined(
        cpus=offer.cpus,
        memory=offer.memory,
        gpus=gpus,
        address=address,
        shared=tenancy.shared,
        project=tenancy.project,
    )
    return Decision() if node.is_here and _joined(node, fact) == node else Decision([fact])


def decide_lost(node: Node) -> Decision:
    """Declare the node lost: what its attempts held is free, since their supervisors ended them."""
    return Decision([NodeLost()]) if node.is_here else Decision()


def allocate(node: Node, claimant: Claimant) -> ResourcesAllocated | None:
    """Return the allocation, or None where it does not fit, is another project's, or the holder has one already."""
    wanted = claimant.resources
    if claimant.holder in node.held or not fits(node, wanted) or not is_open_to(node, claimant.project):
        return None
    gpus = tuple(gpu.uuid for gpu in suited(node.free_gpus, wanted)[: wanted.gpus])
    return ResourcesAllocated(holder=claimant.holder, resources=wanted, gpus=gpus)


def decide_allocate(node: Node, claimants: Sequence[Claimant]) -> Decision:
    """Give each claimant all that it wants, or nothing; those that do not fit any more are passed over."""
    facts = []
    for claimant in claimants:
        fact = allocate(node, claimant)
        if fact is not None:
            facts.append(fact)
            node = _allocated(node, fact)
    return Decision(facts)


def decide_use(node: Node, claimant: str, gpus: Sequence[str]) -> Decision:
    """Record nothing. Raises `Unavailable` (`allocation_lost`) unless a holder has exactly these GPUs here."""
    held = node.held.get(claimant)
    if held is None or held.gpus != tuple(gpus):
        raise Unavailable(
            "allocation_lost",
            "The node does not hold what the attempt was given.",
            why="The node was declared lost in between, or the claim came long after the allocation.",
        )
    return Decision()


def decide_release(node: Node, holders: Sequence[str]) -> Decision:
    """Free what these holders have; harmless for those that have nothing."""
    return Decision([ResourcesReleased(holder=name) for name in dict.fromkeys(holders) if name in node.held])


def former_place(node: Node, holder: str) -> str:
    """Return the holder of an earlier place of the same revision here, whose workers may still live; or nothing."""
    revision = holder.rpartition(".")[0]
    return next((name for name in node.held if name != holder and name.rpartition(".")[0] == revision), "")


def decide_ended(node: Node, revision: str, replica: int | None) -> Decision:
    """Free what a revision (`service/default/iris#2`) has in one of its places, or in all."""
    ended = [name for name in node.held if name.rpartition(".")[0] == revision]
    return decide_release(node, [name for name in ended if replica is None or name == f"{revision}.{replica}"])


def choose(nodes: Mapping[str, Node], claimant: Claimant) -> str:
    """Return the node that is to answer a scoring replica, of those that are here: `nodes` are never empty."""
    having = [name for name, node in nodes.items() if claimant.holder in node.held]
    having += [name for name, node in nodes.items() if former_place(node, claimant.holder)]
    emptiest = sorted(nodes, key=lambda name: (is_free_of_projects(nodes[name]), len(nodes[name].held), name))
    permitted = [name for name in emptiest if is_open_to(nodes[name], claimant.project)]
    able = [name for name in permitted if claimant.could_live_on(nodes[name])]
    fitting = [name for name in able if fits(nodes[name], claimant.resources)]
    return (having or fitting or able or permitted or emptiest)[0]


def decide_replica(node: Node, name: str, claimant: Claimant) -> Decision:
    """Answer a scoring replica's request from the node named `name`."""
    held = node.held.get(claimant.holder)
    if held is not None:
        return Decision(answer=ReplicaAllocated(node=name, holder=claimant.holder, gpus=held.gpus))
    if claimant.within is not None and not claimant.could_live_on(node):
        return Decision(answer=ReplicaRefused(problem=no_room([node], claimant.within)))
    former = former_place(node, claimant.holder)
    if former and node.is_here:
        mine = node.held[former]
        moved = ResourcesAllocated(holder=claimant.holder, resources=claimant.resources, gpus=mine.gpus)
        answer = ReplicaAllocated(node=name, holder=claimant.holder, gpus=mine.gpus)
        return Decision([ResourcesReleased(holder=former), moved], answer=answer)
    if not is_open_to(node, claimant.project):
        return Decision(answer=ReplicaRefused(problem=isolated()))
    fact = allocate(node, claimant)
    if fact is None:
        return Decision(answer=ReplicaRefused(problem=no_room([node], claimant.resources)))
    return Decision([fact], answer=ReplicaAllocated(node=name, holder=claimant.holder, gpus=fact.gpus))


ISOLATED: Final = "isolation_required"
"""The code of what must not share a node with another project."""
_ISOLATED_TODO: Final = (
    "Add a node for this project, or have its administrator let the projects that trust each other share nodes."
)


def isolated() -> Problem:
    """Return why a replica gets no place where every node is another project's."""
    return Problem(code=ISOLATED, message=f"The replica {NO_NODE_OF_ITS_OWN}", todo=_ISOLATED_TODO)


def is_isolated(decision: Decision) -> bool:
    """Tell whether a replica was refused because the node is another project's."""
    return isinstance(decision.answer, ReplicaRefused) and decision.answer.problem.code == ISOLATED


def decide_admit(nodes: Collection[Node], project: str) -> None:
    """Raise `Forbidden` (`isolation_required`) when all nodes that there ever were are other projects'."""
    if nodes and not any(is_open_to(node, project) for node in nodes):
        raise Forbidden(
            ISOLATED,
            "Every node runs the code of another project.",
            why="All programs of a node have one user of the system, so projects do not share nodes.",
            todo=_ISOLATED_TODO,
        )


def no_room(nodes: Sequence[Node], wanted: Resources) -> Problem:
    """Return why a replica gets nothing."""
    lack = never(nodes, wanted)
    if lack:
        return Problem(code="insufficient_resources", message=f"The replica {lack}", todo="Ask for less.")
    return Problem(
        code="resources_busy",
        message=f"The replica {waits_for(nodes, wanted)}",
        todo="Wait for runs to end, or cancel some, then deploy again.",
    )


# --- explanations

NO_NODE_OF_ITS_OWN: Final = (
    f"waits for a node of its project: every node that is here runs the code of another one ({ISOLATED})."
)


def _gpus(count: int, kind: str) -> str:
    return f"{count} GPU{'' if count == 1 else 's'}" + (f" of kind {kind}" if kind else "")


def _gib(size: int) -> str:
    return f"{size / 2**30:.1f} GiB"


def never(nodes: Sequence[Node], wanted: Resources) -> str:
    """Return what no node can ever meet, or an empty text where one could."""
    here = [node for node in nodes if node.is_here]
    if not here:
        return "waits for a node: none is there."
    if any(could_fit(node, wanted) for node in here):
        return ""
    gpus = max(len(suited(node.gpus, wanted)) for node in here)
    if wanted.gpus > gpus:
        return f"asks for {_gpus(wanted.gpus, wanted.gpu_kind)}; the largest node has {gpus}."
    cpus = max(node.cpus for node in here)
    if wanted.cpus > cpus:
        return f"asks for {wanted.cpus:g} CPUs; the largest node has {cpus:g}."
    memory = max(node.memory for node in here)
    if wanted.memory > memory:
        return f"asks for {_gib(wanted.memory)} of memory; the largest node has {_gib(memory)}."
    return "asks for more of everything together than any one node has."


def waits_for(nodes: Sequence[Node], wanted: Resources) -> str:
    """Return what is lacking just now on the nodes that could take the request."""
    able = [node for node in nodes if could_fit(node, wanted)]
    gpus = max((len(suited(node.free_gpus, wanted)) for node in able), default=0)
    if wanted.gpus > gpus:
        return f"waits for {_gpus(wanted.gpus, wanted.gpu_kind)}: {gpus} free."
    cpus = max((node.free_cpus for node in able), default=0.0)
    if wanted.cpus > cpus:
        return f"waits for {wanted.cpus:g} CPUs: {cpus:g} free."
    memory = max((node.free_memory for node in able), default=0)
    if wanted.memory > memory:
        return f"waits for {_gib(wanted.memory)} of memory: {_gib(max(0, memory))} free."
    return "waits for its turn."
