"""Services that die at a step: as soon as a fact is in the journal, or on the broker, before anybody hears of it."""

import os
import signal
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from typing import Final

from tests.e2e.topology import eventually
from tests.faults.standing import Standing

CHAIN: Final = {
    "RunSubmitted": ("runner", "registry"),
    "EnvironmentRegistered": ("registry", "builder"),
    "ReferencesResolved": ("registry", "deployer"),
    "RunPreparing": ("runner", "builder"),
    "ImageBuildStarted": ("builder", "registry"),
    "ImageBuilt": ("builder", "deployer"),
    "ImageProvided": ("builder", "deployer"),
    "RunQueued": ("runner", "registry"),
    "AttemptClaimed": ("runner", "deployer"),
    "RunStarted": ("runner", "registry"),
    "RunFinalizing": ("runner", "builder"),
    "RunCompleted": ("runner", "deployer"),
}
"""The facts of the main job in their order: who writes each, and, by turns, another service."""
_ORDER: Final = tuple(CHAIN)
JOURNAL, BROKER = "journal", "broker"
RESTART_S: Final = 0.1
"""Seconds between a death and the next start."""
_INSERT: Final = b"insert"


@dataclass(frozen=True, slots=True)
class Step:
    """A service dies when a fact is where it is to be."""

    service: str
    fact: str
    place: str

    def is_in(self, request: bytes) -> bool:
        return b"cloche.%s.v" % self.fact.encode() in request


@dataclass
class Killer:
    """Kills a replica of a service at each of its steps, the first time that it is ready then, and starts it again."""

    cluster: Standing
    left: set[Step]
    killed: list[Step] = field(default_factory=list)
    _up: set[str] = field(default_factory=set)
    _ended: set[int] = field(default_factory=set)
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def inserted(self, request: bytes) -> bool:
        """Whether a request to the store holds a fact of a step."""
        return _INSERT in request and any(step.place == JOURNAL and step.is_in(request) for step in tuple(self.left))

    def in_journal(self, request: bytes) -> None:
        self._met(JOURNAL, request)

    def on_broker(self, request: bytes) -> None:
        self._met(BROKER, request)

    def _met(self, place: str, request: bytes) -> None:
        """Kill who is to die now. Called by the links, before the answer goes on."""
        with self._lock:
            met = [one for one in self.left if one.place == place and one.service in self._up and one.is_in(request)]
            for step in sorted(met, key=lambda one: _ORDER.index(one.fact)):
                if step.service not in self._up:
                    continue
                self._up.discard(step.service)
                self.left.discard(step)
                self.killed.append(step)
                self.cluster.own.count(f"{step.service} killed at a step")
                pid = self.cluster.pids[f"{step.service}-1"]
                self._ended.add(pid)
                with suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)

    def tend(self) -> None:
        """Start what died, and count what is ready again as a target."""
        for service in sorted({step.service for step in self.left} | {step.service for step in self.killed}):
            if service in self._up:
                continue
            name = f"{service}-1"
            if _dead(self.cluster.pids[name]):
                time.sleep(RESTART_S)
                self.cluster.begin(name)
            elif not self.cluster.failing(name):
                with self._lock:
                    self._up.add(service)

    def mend(self) -> None:
        """Start whatever was killed last."""
        for name, pid in list(self.cluster.pids.items()):
            if pid in self._ended:
                eventually(lambda pid=pid: _dead(pid), f"{name} is dead")
                self.cluster.begin(name)


def _dead(pid: int) -> bool:
    try:
        with open(f"/proc/{pid}/stat") as file:  # noqa: PTH123 - no file of a disk
            return file.read().rpartition(")")[2].split()[0] in {"Z", "X"}
    except OSError:
        return True


@contextmanager
def killing(cluster: Standing, steps: set[Step]) -> Iterator[Killer]:
    """Watch the links of a cluster; afterwards everything runs that ran before."""
    killer, own = Killer(cluster, set(steps)), cluster.own
    own.mongo_link.watches, own.mongo_link.answered = killer.inserted, killer.in_journal
    own.kafka_link.produced = killer.on_broker
    try:
        yield killer
    finally:
        own.mongo_link.watches, own.mongo_link.answered = (lambda _request: False), (lambda _request: None)
        own.kafka_link.produced = lambda _request: None
        killer.mend()
