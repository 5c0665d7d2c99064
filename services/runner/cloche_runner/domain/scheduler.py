"""The scheduler: which waiting run goes where, as a pure function.

Order. A higher priority goes first. Within a priority the project that holds the smallest share of
the nodes goes first, and within a project whoever came first. A run that waited longer than
`starving_s` goes before all younger ones of its priority, whatever its project's share: nobody is
outrun for ever by projects that hold less.

Where. On nodes that are open to its project: those where projects may meet, its own, and those where nobody has
had anything yet.

What does not fit. Smaller runs behind it may go first (backfill) until it has waited `patience_s`.
Then it reserves the node that lacks least for it, and runs that stand behind it get nothing on that
node until it fits; other nodes stay open. So a large run waits at most for what runs already. What
no node can meet reserves nothing. Only a higher priority can hold a run back without an end.
"""

from bisect import insort
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from heapq import heappop, heappush
from itertools import islice

from cloche_runner.domain.nodes import (
    NO_NODE_OF_ITS_OWN,
    Claimant,
    Node,
    allocate,
    could_fit,
    evolve,
    fits,
    is_free_of_projects,
    is_open_to,
    never,
    project_of,
    suited,
    waits_for,
)
from cloche_shared.contracts.runs import Resources

LOOK = 500
"""Waiting runs that one round looks at, at most; a round comes with every change."""
MISSES = 100
"""How many of them may find no room before the round ends: that bounds what a full node costs."""


@dataclass(frozen=True, slots=True)
class Waiting:
    """A queued run. `holder` names the attempt that it would become.

    `since` is when it was submitted, `not_before` when it may go at the earliest (RFC 3339).
    """

    key: str
    holder: str
    project: str
    priority: int
    since: str
    resources: Resources
    not_before: str = ""

    @property
    def place(self) -> tuple[str, str]:
        """What decides who came first."""
        return (self.since, self.key)


@dataclass(frozen=True, slots=True)
class Policy:
    """Seconds; see the module's text."""

    patience_s: float = 30.0
    starving_s: float = 600.0


@dataclass(frozen=True, slots=True)
class Placement:
    """A run and the node that is to take it."""

    waiting: Waiting
    node: str


@dataclass(frozen=True, slots=True)
class Plan:
    """What one round decided. `reasons` hold what the nodes' states alone do not tell."""

    placements: tuple[Placement, ...] = ()
    reasons: Mapping[str, str] = field(default_factory=dict)


class Queue:
    """The waiting runs, kept in order."""

    def __init__(self) -> None:
        self._known: dict[str, Waiting] = {}
        self._timed: dict[str, Waiting] = {}
        self._lanes: dict[tuple[int, str], list[tuple[tuple[str, str], str]]] = {}

    def __len__(self) -> int:
        return len(self._known)

    def __contains__(self, key: str) -> bool:
        return key in self._known

    def get(self, key: str) -> Waiting | None:
        """Return a waiting run."""
        return self._known.get(key)

    def __iter__(self) -> Iterator[str]:
        return iter(list(self._known))

    def add(self, waiting: Waiting) -> None:
        """Put a run into its place, again if it changed."""
        self.remove(waiting.key)
        self._known[waiting.key] = waiting
        if waiting.not_before:
            self._timed[waiting.key] = waiting
        insort(self._lanes.setdefault((waiting.priority, waiting.project), []), (waiting.place, waiting.key))

    def remove(self, key: str) -> None:
        """Take a run out; one that is not there is no harm."""
        waiting = self._known.pop(key, None)
        self._timed.pop(key, None)
        if waiting is None:
            return
        lane = self._lanes[waiting.priority, waiting.project]
        lane.remove((waiting.place, key))
        if not lane:
            del self._lanes[waiting.priority, waiting.project]

    def next_time(self, now: str) -> str:
        """Return the next moment at which a run that waits for its time may go, or an empty text."""
        return min((one.not_before for one in self._timed.values() if one.not_before > now), default="")

    def priorities(self) -> list[int]:
        """Return the priorities that occur, highest first."""
        return sorted({priority for priority, _ in self._lanes}, reverse=True)

    def lanes(self, priority: int, possible: Callable[[Waiting], bool]) -> dict[str, Iterator[Waiting]]:
        """Return the runs of a priority that are `possible`, by project, each in order."""
        return {
            project: (one for one in map(self._waiting, lane) if possible(one))
            for (of, project), lane in self._lanes.items()
            if of == priority
        }

    def _waiting(self, item: tuple[tuple[str, str], str]) -> Waiting:
        return self._known[item[1]]


class Shares:
    """How much of all nodes each project holds: the largest of its shares of CPU, memory and GPUs."""

    def __init__(self, nodes: Mapping[str, Node]) -> None:
        here = [node for node in nodes.values() if node.is_here]
        self._cpus = sum(node.cpus for node in here) or 1.0
        self._memory = sum(node.memory for node in here) or 1
        self._gpus = sum(len(node.gpus) for node in here) or 1
        self._held: dict[str, tuple[float, float, float]] = {}
        for node in here:
            for holder, held in node.held.items():
                self._add(project_of(holder), held.cpus, held.memory, len(held.gpus))

    def _add(self, project: str, cpus: float, memory: float, gpus: float) -> None:
        has = self._held.get(project, (0.0, 0.0, 0.0))
        self._held[project] = (has[0] + cpus, has[1] + memory, has[2] + gpus)

    def take(self, waiting: Waiting) -> None:
        """Count a placement."""
        wanted = waiting.resources
        self._add(waiting.project, wanted.cpus, wanted.memory, wanted.gpus)

    def of(self, project: str) -> float:
        """Return a project's share."""
        cpus, memory, gpus = self._held.get(project, (0.0, 0.0, 0.0))
        return max(cpus / self._cpus, memory / self._memory, gpus / self._gpus)


def in_order(
    queue: Queue, shares: Shares, old: str, possible: Callable[[Waiting], bool] = lambda _: True
) -> Iterator[Waiting]:
    """Yield the waiting runs, best first; `shares` may change between two. Who came before `old` is starving.

    Those that are not `possible` are passed over: however many they are, they hold up nobody.
    """
    for priority in queue.priorities():
        heads: list[tuple[tuple[object, ...], Waiting, Iterator[Waiting]]] = []
        for lane in queue.lanes(priority, possible).values():
            _push(heads, lane, shares, old)
        while heads:
            _, waiting, lane = heappop(heads)
            yield waiting
            _push(heads, lane, shares, old)


def _push(
    heads: list[tuple[tuple[object, ...], Waiting, Iterator[Waiting]]],
    lane: Iterator[Waiting],
    shares: Shares,
    old: str,
) -> None:
    waiting = next(lane, None)
    if waiting is not None:
        heappush(heads, (_rank(waiting, shares, old), waiting, lane))


def _rank(waiting: Waiting, shares: Shares, old: str) -> tuple[float, str, str]:
    starving = waiting.since < old
    return (-1.0 if starving else shares.of(waiting.project), *waiting.place)


@dataclass(frozen=True, slots=True)
class Times:
    """Moments (RFC 3339).

    Runs from before `impatient` may reserve a node, those from before `starving` go first.
    """

    now: str
    impatient: str
    starving: str


class _Round:
    """One round: the nodes as they become, and who reserved which."""

    def __init__(self, nodes: Mapping[str, Node], times: Times) -> None:
        self.nodes = {name: node for name, node in nodes.items() if node.is_here}
        self.times = times
        self.reserved: dict[str, str] = {}
        self.placements: list[Placement] = []
        self.reasons: dict[str, str] = {}

    @property
    def is_full(self) -> bool:
        """Whether no node has any CPU left: what few runs could still use (those that ask for none) waits too."""
        return all(node.free_cpus <= 0 for node in self.nodes.values())

    def place(self, waiting: Waiting) -> bool:
        wanted = waiting.resources
        able = [name for name in self._open_to(waiting) if fits(self.nodes[name], wanted) and name not in self.reserved]
        if not able:
            self._decline(waiting)
            return False
        name = min(able, key=lambda one: (*_left(self.nodes[one], wanted), one))
        fact = allocate(self.nodes[name], Claimant(waiting.holder, wanted))
        if fact is None:
            self.reasons[waiting.key] = "is about to start."
            return False
        self.nodes[name] = evolve(self.nodes[name], fact)
        self.placements.append(Placement(waiting, name))
        return True

    def _open_to(self, waiting: Waiting) -> list[str]:
        return [name for name, node in self.nodes.items() if is_open_to(node, waiting.project)]

    def _decline(self, waiting: Waiting) -> None:
        could = (name for name in self._open_to(waiting) if fits(self.nodes[name], waiting.resources))
        kept = next((self.reserved[name] for name in could if name in self.reserved), "")
        if kept:
            self.reasons[waiting.key] = f"waits for its turn: the free room is kept for {kept}, which came before."
        if waiting.since < self.times.impatient:
            self._reserve(waiting)

    def _reserve(self, waiting: Waiting) -> None:
        wanted = waiting.resources
        fitting = (name for name in self._open_to(waiting) if could_fit(self.nodes[name], wanted))
        able = [name for name in fitting if name not in self.reserved]
        if able:
            name = min(able, key=lambda one: (*_lack(self.nodes[one], wanted), one))
            self.reserved[name] = waiting.key


def _left(node: Node, wanted: Resources) -> tuple[bool, int, float]:
    """Return what would stay free: the tightest node is best, so that large holes stay for large requests."""
    return (is_free_of_projects(node), len(node.free_gpus) - wanted.gpus, node.free_cpus - wanted.cpus)


def _lack(node: Node, wanted: Resources) -> tuple[bool, int, float, int]:
    """Return what is missing."""
    return (
        is_free_of_projects(node),
        max(0, wanted.gpus - len(suited(node.free_gpus, wanted))),
        max(0.0, wanted.cpus - node.free_cpus),
        max(0, wanted.memory - node.free_memory),
    )


def plan(queue: Queue, nodes: Mapping[str, Node], times: Times) -> Plan:
    """Decide one round."""
    shares = Shares(nodes)
    state = _Round(nodes, times)
    misses = 0
    known: dict[tuple[str, Resources], bool] = {}

    def possible(waiting: Waiting) -> bool:
        asked = (waiting.project, waiting.resources)
        if asked not in known:
            known[asked] = any(
                is_open_to(node, waiting.project) and could_fit(node, waiting.resources) for node in nodes.values()
            )
        return known[asked]

    for waiting in islice(in_order(queue, shares, times.starving, possible), LOOK):
        if waiting.not_before > times.now:
            state.reasons[waiting.key] = f"is tried again, not before {waiting.not_before}."
            continue
        if state.place(waiting):
            shares.take(waiting)
            continue
        misses += 1
        if misses >= MISSES or state.is_full or len(state.reserved) == len(state.nodes):
            break
    return Plan(tuple(state.placements), state.reasons)


def explain(waiting: Waiting, nodes: Mapping[str, Node], plan: Plan) -> str:
    """Return why a run waits."""
    here = [node for node in nodes.values() if node.is_here]
    able = [node for node in here if is_open_to(node, waiting.project)]
    if here and not able:
        return NO_NODE_OF_ITS_OWN
    return plan.reasons.get(waiting.key) or never(able, waiting.resources) or waits_for(able, waiting.resources)
