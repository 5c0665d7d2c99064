"""Judges a history by the invariants of the design. Pure: it knows nothing of the services' code.

It replays the recorded documents with small rules of its own, and compares them with what the
broker's log holds, what clients were told, and which processes lived when.
"""

import itertools
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import orjson

from tests.simulation.record import ASKING, Entry, History, Op

Facts = Sequence[tuple[Entry, int, str, Mapping[str, Any]]]
"""The facts of one stream in order: document, index in it, name, data."""

TERMINAL = frozenset({"RunCompleted", "RunFailed", "RunCanceled"})
_BEFORE_CLAIM = frozenset({"submitted", "preparing"})
_HELD = frozenset({"claimed", "running", "finalizing"})


@dataclass(frozen=True, slots=True)
class Violation:
    """An invariant (`I2`) that does not hold, and why."""

    invariant: str
    why: str

    def __str__(self) -> str:
        return f"{self.invariant}: {self.why}"


def check(history: History) -> list[Violation]:
    """Return everything that is wrong with a history."""
    streams = _streams(history.entries)
    rules: tuple[Callable[[History, Mapping[str, Facts]], Iterator[Violation]], ...] = (
        _accepted,
        _versions,
        _published,
        _ordered,
        _attempts,
        _builds,
        _devices,
        _answered,
        _acted_once,
        _finished,
    )
    return [violation for rule in rules for violation in rule(history, streams)]


def _streams(entries: Sequence[Entry]) -> dict[str, Facts]:
    found: defaultdict[str, list[Entry]] = defaultdict(list)
    for entry in entries:
        if entry.seq:
            found[entry.subject].append(entry)
    return {
        subject: [
            (entry, index, name, data)
            for entry in sorted(mine, key=lambda one: one.seq)
            for index, (name, data) in enumerate(entry.facts)
        ]
        for subject, mine in found.items()
    }


# --- I1: what was accepted reads back


def _accepted(history: History, streams: Mapping[str, Facts]) -> Iterator[Violation]:
    for op in history.ops:
        if op.told == "ok":
            why = _lost(op, streams)
            if why:
                yield Violation("I1", why)
    yield from (Violation("I1", sentence) for sentence in history.read_back)
    yield from _same_answers(history.ops)


def _lost(op: Op, streams: Mapping[str, Facts]) -> str:
    args = op.args
    if op.kind == "register":
        facts = streams.get(f"environment/{args['project']}/{args['name']}", ())
        kept = [data for _, _, name, data in facts if name == "EnvironmentRegistered"]
        wanted = _definition(args["definition"])
        told = op.result["version"]
        if not any(data["environment_version"] == told and _definition(data["definition"]) == wanted for data in kept):
            return f"version {told} of {args['name']} was accepted and is not there as it was accepted"
    elif op.kind == "model":
        facts = streams.get(f"model/{args['project']}/{args['name']}", ())
        accepted = (op.result["version"], args["manifest"])
        there = [(data["model_version"], data["manifest"]) for _, _, name, data in facts if name == "ModelRegistered"]
        if accepted not in there:
            return f"version {accepted[0]} of model {args['name']} was accepted and is not there"
    elif op.kind == "submit":
        facts = streams.get(f"run/{args['project']}/{op.result['id']}", ())
        if not any(name == "RunSubmitted" and _says(data["spec"], args["spec"]) for _, _, name, data in facts):
            return f"run {op.result['id']} was accepted and is not there as it was accepted"
    elif op.kind == "deploy" and f"service/{args['project']}/{args['name']}" not in streams:
        return f"service {args['name']} was accepted and is not there"
    elif op.kind == "build" and f"buildrequest/{args['project']}/{op.result['id']}" not in streams:
        return f"the request {op.result['id']} for a build was accepted and is not there"
    return ""


def _says(kept: Mapping[str, Any], asked: Mapping[str, Any]) -> bool:
    """Whether all that was asked is kept; clients may leave out what has a default."""
    return all(kept.get(name) == value for name, value in asked.items())


def _definition(definition: Mapping[str, Any]) -> object:
    return sorted(definition["python"]["pip"]), definition["variables"]


def _same_answers(ops: Sequence[Op]) -> Iterator[Violation]:
    told: dict[tuple[str, str], object] = {}
    for op in ops:
        request = op.args["request"]
        if op.told != "ok" or not request or op.kind in {"deploy", "undeploy"}:
            continue
        first = told.setdefault((op.args["project"], request), op.result)
        if first != op.result:
            yield Violation("I1", f"request {request} was answered with {first} and with {op.result}")


# --- I2: versions


_NUMBERED = {
    "EnvironmentRegistered": "environment_version",
    "ModelRegistered": "model_version",
    "ServiceSubmitted": "revision",
}


def _versions(history: History, streams: Mapping[str, Facts]) -> Iterator[Violation]:
    for subject, facts in streams.items():
        numbers = [data[_NUMBERED[name]] for _, _, name, data in facts if name in _NUMBERED]
        if numbers != list(range(1, len(numbers) + 1)):
            yield Violation("I2", f"the versions of {subject} are {numbers}")
        sequence = sorted({entry.seq for entry, _, _, _ in facts})
        if sequence != list(range(1, len(sequence) + 1)):
            yield Violation("I2", f"the documents of {subject} are numbered {sequence}")


# --- I3, I4: events


def _published(history: History, streams: Mapping[str, Facts]) -> Iterator[Violation]:
    held = {
        f"{entry.key}#{index}": (fact["type"], orjson.dumps(fact["data"]))
        for entry in history.entries
        if entry.topic
        for index, fact in enumerate(entry.body["facts"])
    }
    seen = set()
    for event in history.sent:
        if held.get(event.id) != (event.type, event.data):
            yield Violation("I3", f"event {event.id} was sent, and the journal does not hold it so")
        seen.add(event.id)
    for missing in [event_id for event_id in held if event_id not in seen]:
        yield Violation("I3", f"event {missing} is in the journal and was not sent")


def _ordered(history: History, streams: Mapping[str, Facts]) -> Iterator[Violation]:
    newest: dict[str, tuple[int, int]] = {}
    seen: set[str] = set()
    for event in history.sent:
        key, _, index = event.id.rpartition("#")
        if event.id in seen or key.startswith("answers/"):
            continue
        seen.add(event.id)
        stream, _, number = key.rpartition("/")
        place = (int(number), int(index))
        if place < newest.get(stream, (0, 0)):
            yield Violation("I4", f"event {event.id} came after {newest[stream]}")
        newest[stream] = max(place, newest.get(stream, (0, 0)))


# --- I5: attempts


@dataclass
class _Run:
    subject: str
    phase: str = ""
    fence: int = 0
    attempt: int = 0
    wrong: list[Violation] = field(default_factory=list)

    def refuse(self, name: str, why: str) -> None:
        self.wrong.append(Violation("I5", f"{name} in {self.subject} {why}"))

    def take(self, entry: Entry, name: str, data: Mapping[str, Any]) -> None:
        if self.phase == "ended":
            self.refuse(name, f"stands at {entry.seq}, after the run's end")
        elif name == "AttemptClaimed":
            self._claim(entry, name, data)
        elif name in {"RunStarted", "RunFinalizing", "RunMeasured", "RunLogKept", "AttemptLost"}:
            self._hold(name, data)
        elif (name == "RunCompleted" and self.phase != "finalizing") or (
            name == "RunRequeued" and self.phase not in _HELD
        ):
            self.refuse(name, f"follows {self.phase}")
        self.phase = _PHASES.get(name, self.phase)

    def _claim(self, entry: Entry, name: str, data: Mapping[str, Any]) -> None:
        if self.phase != "queued":
            self.refuse(name, f"at {entry.seq} while the run is {self.phase}")
        elif data["attempt"] != self.attempt + 1:
            self.refuse(name, f"is number {data['attempt']} after {self.attempt}")
        self.attempt, self.fence = data["attempt"], entry.seq

    def _hold(self, name: str, data: Mapping[str, Any]) -> None:
        if self.phase not in _HELD or data["fence"] != self.fence:
            self.refuse(name, f"has the fence {data['fence']}; the run is {self.phase} under {self.fence}")


_PHASES = {
    "RunSubmitted": "submitted",
    "RunPreparing": "preparing",
    "RunQueued": "queued",
    "AttemptClaimed": "claimed",
    "RunStarted": "running",
    "RunFinalizing": "finalizing",
    "RunRequeued": "queued",
    **dict.fromkeys(TERMINAL, "ended"),
}


def _attempts(history: History, streams: Mapping[str, Facts]) -> Iterator[Violation]:
    for subject, facts in streams.items():
        if subject.startswith("run/"):
            run = _Run(subject)
            for entry, _, name, data in facts:
                run.take(entry, name, data)
            yield from run.wrong
    by_run: defaultdict[str, list[tuple[float, float, str]]] = defaultdict(list)
    for lived in history.lived:
        name = f"{lived.attempt_id} on {lived.node}"
        by_run[lived.attempt_id.rpartition("-")[0]].append((lived.began, lived.ended, name))
    for spans in by_run.values():
        for one, other in _overlaps(spans):
            yield Violation("I5", f"{one} and {other} lived at the same time")


def _overlaps(spans: Sequence[tuple[float, float, str]]) -> Iterator[tuple[str, str]]:
    for one, other in itertools.combinations(sorted(spans), 2):
        if other[0] < one[1]:
            yield one[2], other[2]


# --- I6: builds


def _builds(history: History, streams: Mapping[str, Facts]) -> Iterator[Violation]:
    for subject, facts in streams.items():
        if subject.startswith("build/"):
            yield from _build(subject, facts)
    spans: defaultdict[str, list[tuple[float, float, str]]] = defaultdict(list)
    for solved in history.solved:
        spans[solved.what].append((solved.began, solved.ended, solved.builder))
    for what, mine in spans.items():
        for one, other in _overlaps(mine):
            yield Violation("I6", f"{one} and {other} solved {what} at the same time")


def _build(subject: str, facts: Facts) -> Iterator[Violation]:
    claim = last = 0
    for entry, _, name, data in facts:
        if name == "ImageBuildStarted":
            if data["attempt"] != last + 1:
                yield Violation("I6", f"claim {data['attempt']} of {subject} at {entry.seq} follows {last}")
            claim = last = data["attempt"]
        elif name in {"ImageBuilt", "ImageBuildFailed"} and data["attempt"]:
            if data["attempt"] != claim:
                yield Violation("I6", f"{subject} took a result of {data['attempt']} under the claim {claim}")
            claim = 0


# --- I7: devices


def _devices(history: History, streams: Mapping[str, Facts]) -> Iterator[Violation]:
    for subject, facts in streams.items():
        if subject.startswith("node/"):
            yield from _node(subject, facts)
    by_gpu: defaultdict[str, list[tuple[float, float, str]]] = defaultdict(list)
    for lived in (*history.lived, *history.scoring):
        for uuid in lived.gpus:
            by_gpu[uuid].append((lived.began, lived.ended, lived.attempt_id))
    for uuid, spans in by_gpu.items():
        for one, other in _overlaps(spans):
            if one != other:  # the workers of one revision share what it was given
                yield Violation("I7", f"{one} and {other} used {uuid} at the same time")


def _node(subject: str, facts: Facts) -> Iterator[Violation]:
    held: dict[str, tuple[str, ...]] = {}
    for entry, _, name, data in facts:
        if name == "ResourcesAllocated":
            taken = {uuid: holder for holder, uuids in held.items() for uuid in uuids}
            for uuid in data["gpus"]:
                if uuid in taken:
                    yield Violation("I7", f"{subject} at {entry.seq} gives {uuid}, which {taken[uuid]} holds")
            held[data["holder"]] = tuple(data["gpus"])
        elif name == "ResourcesReleased":
            held.pop(data["holder"], None)
        elif name == "NodeLost":
            held = {holder: uuids for holder, uuids in held.items() if holder.startswith("service/")}


# --- I14: everything ends, every request is answered once


def _answered(history: History, streams: Mapping[str, Facts]) -> Iterator[Violation]:
    answers = Counter(entry.request for entry in history.entries if entry.key.startswith("answers/"))
    told = _telling(history.entries)
    for facts in streams.values():
        for entry, index, name, _ in facts:
            question = f"{entry.key}#{index}"
            if name in ASKING and (answers[question] != 1 or len(told[question]) != 1):
                yield Violation(
                    "I14", f"{question} has {answers[question]} answers and {len(told[question])} answering events"
                )
    for op in history.ops:
        if op.told == "ok" and op.args["request"] and not answers[op.args["request"]]:
            yield Violation("I14", f"request {op.args['request']} was accepted, and its answer is not kept")


def _telling(entries: Sequence[Entry]) -> defaultdict[str, set[str]]:
    """Return the ids of the events that answer each question."""
    told: defaultdict[str, set[str]] = defaultdict(set)
    for entry in entries:
        if entry.key.startswith("answers/") and entry.topic:
            told[entry.body.get("cause", "")].update(f"{entry.key}#{index}" for index in range(len(entry.facts)))
    return told


def _acted_once(history: History, streams: Mapping[str, Facts]) -> Iterator[Violation]:
    effects: Counter[tuple[str, str]] = Counter(
        (entry.subject.split("/")[1], entry.request)
        for entry in history.entries
        if entry.seq and entry.request and entry.facts
    )
    for (_, request), count in effects.items():
        if count > 1:
            yield Violation("I14", f"request {request} acted {count} times")


def _finished(history: History, streams: Mapping[str, Facts]) -> Iterator[Violation]:
    yield from (Violation("I14", sentence) for sentence in history.unsettled)
    yield from (Violation("I9", sentence) for sentence in history.left_over)
    yield from (Violation("I8", f"{letter} became a dead letter") for letter in history.buried)
