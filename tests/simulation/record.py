"""What is written down of a history: documents in the order of their insertion, what clients were
told, and which processes lived when. The checker judges nothing else."""

import hashlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

import orjson

from cloche_shared.adapters.memory_journal import MemoryStore
from cloche_shared.ports.journal import Document

SEQ_DIGITS = 12
Told = Literal["ok", "fail", "unknown"]


@dataclass(frozen=True, slots=True)
class Entry:
    """One inserted document: which service's store took it, when, and what it says.

    `subject` is its stream (`run/default/x`) and `seq` its number there; an answer has `seq` 0.
    """

    service: str
    at: float
    key: str
    subject: str
    seq: int
    topic: str
    body: Mapping[str, Any]

    @property
    def facts(self) -> list[tuple[str, Mapping[str, Any]]]:
        """Names (`RunSubmitted`) and data of the facts."""
        return [(fact["type"].split(".")[1], fact["data"]) for fact in self.body.get("facts", ())]

    @property
    def request(self) -> str:
        """The request that it acts for or answers, or an empty text."""
        return str(self.body.get("req", ""))


@dataclass(frozen=True, slots=True)
class Sent:
    """One event in the broker's log, in its partition's order."""

    partition: str
    id: str
    subject: str
    sequence: int
    type: str
    data: bytes


@dataclass(slots=True)
class Op:
    """What a client did and was told; `unknown` may or may not have happened."""

    kind: str
    args: Mapping[str, Any]
    told: Told = "unknown"
    result: Mapping[str, Any] = field(default_factory=dict)


@dataclass(slots=True)
class Lived:
    """A process of a user on a node: which attempt it is, with which GPUs, from when to when."""

    node: str
    attempt_id: str
    gpus: tuple[str, ...]
    began: float
    ended: float = float("inf")


@dataclass(slots=True)
class Solved:
    """A builder at work on a resolution: what it resolves, who, from when to when it ended or stood still."""

    what: str
    builder: str
    began: float
    ended: float = float("inf")


@dataclass
class History:
    """Everything that the checker looks at."""

    entries: list[Entry] = field(default_factory=list)
    sent: list[Sent] = field(default_factory=list)
    ops: list[Op] = field(default_factory=list)
    lived: list[Lived] = field(default_factory=list)
    scoring: list[Lived] = field(default_factory=list)
    """Scoring workers; `attempt_id` names the revision (`service/default/iris#2`)."""
    solved: list[Solved] = field(default_factory=list)
    buried: list[str] = field(default_factory=list)
    read_back: list[str] = field(default_factory=list)
    """Sentences about accepted things that a live service does not show."""
    left_over: list[str] = field(default_factory=list)
    """What lives on, or lies on a node, although nothing needs it any more."""
    unsettled: list[str] = field(default_factory=list)
    """What had not come to its end long after the faults stopped."""


def place_of(key: str) -> tuple[str, int]:
    """Return stream and number of a document; 0 where it is not part of a stream."""
    head, _, tail = key.rpartition("/")
    numbered = tail.isdigit() and len(tail) == SEQ_DIGITS and head.count("/") == 2
    return (head, int(tail)) if numbered and not key.startswith("answers/") else (key, 0)


def entry_of(service: str, at: float, document: Document) -> Entry:
    """Read a document."""
    subject, seq = place_of(document.key)
    return Entry(service, at, document.key, subject, seq, document.topic, orjson.loads(document.body))


class RecordingStore(MemoryStore):
    """A store that tells of every document that it takes."""

    def __init__(self, taken: Callable[[Document], None]) -> None:
        super().__init__()
        self._taken = taken

    def insert(self, document: Document) -> bool:
        inserted = super().insert(document)
        if inserted:
            self._taken(document)
        return inserted


ASKING = frozenset(
    {
        "RunSubmitted",
        "RunPreparing",
        "ServiceSubmitted",
        "ServicePreparing",
        "ReplicaRequested",
        "BuildSubmitted",
        "BuildAssigned",
    }
)
"""Facts that ask another service for exactly one answer."""
_RUN_ENDS = frozenset({"RunCompleted", "RunFailed", "RunCanceled"})


class Pending:
    """What has not come to its end yet, kept as documents come in."""

    def __init__(self) -> None:
        self.questions: dict[str, None] = {}
        self.runs: dict[str, None] = {}
        self.revisions: dict[tuple[str, int], None] = {}
        self.requests: dict[str, None] = {}
        self.held: dict[tuple[str, str], None] = {}
        self.serving: dict[str, int] = {}
        self.places: dict[tuple[str, int], str] = {}
        self.gone: set[str] = set()
        self._answered: set[str] = set()

    def take(self, entry: Entry) -> None:
        """Take a document into account."""
        if entry.key.startswith("answers/"):
            self._answered.add(entry.request)
            self.questions.pop(entry.request, None)
            return
        for index, (name, data) in enumerate(entry.facts):
            question = f"{entry.key}#{index}"
            if name in ASKING and question not in self._answered:
                self.questions[question] = None
            self._follow(entry, name, data)

    def _follow(self, entry: Entry, name: str, data: Mapping[str, Any]) -> None:
        subject = entry.subject
        if name == "RunSubmitted":
            self.runs[subject] = None
        elif name in _RUN_ENDS:
            self.runs.pop(subject, None)
        elif name == "BuildSubmitted":
            self.requests[subject] = None
        elif name in {"BuildCompleted", "BuildExplained", "BuildFailed"}:
            self.requests.pop(subject, None)
        elif name == "ResourcesAllocated":
            self.held[subject, data["holder"]] = None
        elif name == "ResourcesReleased":
            self.held.pop((subject, data["holder"]), None)
        elif name == "NodeLost":
            self.held = {place: None for place in self.held if place[0] != subject or place[1].startswith("service/")}
        elif subject.startswith("service/"):
            self._follow_service(subject, name, data)

    def _follow_service(self, subject: str, name: str, data: Mapping[str, Any]) -> None:
        if name in {"ServiceSubmitted", "ServiceDeleted"}:
            self.revisions = {place: None for place in self.revisions if place[0] != subject}
        if name == "ReplicaPlaced":
            self.places[subject, data["revision"]] = data["node"]
        elif name == "ReplicaLost":
            self.places.pop((subject, data["revision"]), None)
        elif name == "ServiceSubmitted":
            self.revisions[subject, data["revision"]] = None
        elif name in {"ServiceDeployed", "ServiceFailed"}:
            self.revisions.pop((subject, data["revision"]), None)
        if name == "ServiceDeployed":
            self.serving[subject] = data["revision"]
        elif name == "ServiceDeleted" or (name == "ServiceFailed" and self.serving.get(subject) == data["revision"]):
            self.serving.pop(subject, None)

    def open(self) -> list[str]:
        """Return sentences about what is still open."""
        leaks = [
            f"{node} holds resources for {holder}, which has ended"
            for node, holder in self.held
            if node not in self.gone and not self._is_holding(node.rpartition("/")[2], *holder.rsplit("#", 1))
        ]
        return [
            *(f"{question} was not answered" for question in self.questions),
            *(f"{run} has not ended" for run in self.runs),
            *(f"{request} has not ended" for request in self.requests),
            *(f"revision {number} of {service} is still on its way" for service, number in self.revisions),
            *leaks,
        ]

    def _is_holding(self, node: str, subject: str, number: str) -> bool:
        """Whether a run, or a revision of a service on a node, still needs what it holds."""
        if subject.startswith("run/"):
            return subject in self.runs
        revision = int(number.partition(".")[0])
        wanted = self.serving.get(subject) == revision or (subject, revision) in self.revisions
        return wanted and self.places.get((subject, revision), node) == node


class Trace:
    """A digest of all that happens; with `say` each line is shown too."""

    def __init__(self, say: Callable[[str], None] | None = None) -> None:
        self._hash = hashlib.sha256()
        self.say = say

    def note(self, at: float, *words: object) -> None:
        """Add a line."""
        line = f"{at:10.3f} " + " ".join(map(str, words))
        self._hash.update(line.encode())
        if self.say is not None:
            self.say(line)

    def digest(self) -> str:
        """Return the digest of all lines."""
        return self._hash.hexdigest()
