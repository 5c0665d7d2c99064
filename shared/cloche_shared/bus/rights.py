"""Who may do what at the broker: authority by topic, denied unless it stands here.

A service alone may write the facts that it owns; `answers` and `denials` belong to all. Every service
reads all facts, and may put what it cannot understand beside them. Producers from outside write
commands, and read the facts that concern work.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from enum import StrEnum
from typing import Final

from cloche_shared.bus.letters import RESENT
from cloche_shared.contracts.facts import TOPICS

SERVICES: Final = ("registry", "builder", "runner", "deployer")
PRODUCER: Final = "producer"
COMMANDS: Final = "cloche.commands."
DEAD: Final = ".dead"

OWNERS: Final = {
    "environment": "registry",
    "wheel": "registry",
    "model": "registry",
    "access": "registry",
    "letter": "registry",
    "build": "builder",
    "buildrequest": "builder",
    "run": "runner",
    "node": "runner",
    "service": "deployer",
}
"""Who alone writes the facts about each kind of aggregate."""

SHARED: Final = frozenset(("answers", "denial", "usage", "operation"))
"""Kinds that every service writes: its answers, who came to its door or was turned away there, what operators did."""

RESENDER: Final = "registry"
"""Who answers operators, and lets dead letters come again."""

HIDDEN: Final = frozenset((TOPICS["access"], TOPICS["denial"]))
"""Topics that nobody outside reads: keys, and attempts at doors."""


class Resource(StrEnum):
    """What a right is about."""

    TOPIC = "topic"
    GROUP = "group"


class Operation(StrEnum):
    """What a right allows; both reading and writing bring looking with them."""

    READ = "read"
    WRITE = "write"
    CREATE = "create"


@dataclass(frozen=True, slots=True, order=True)
class Right:
    """A user may do one thing to a resource, or with `prefixed` to all whose names begin so."""

    user: str
    operation: Operation
    resource: Resource
    name: str
    prefixed: bool = False


def topics() -> list[str]:
    """Return the topics of facts and of letters that come again, each with the one for what cannot be understood."""
    return [name for topic in dict.fromkeys((*TOPICS.values(), RESENT)) for name in (topic, topic + DEAD)]


def written_by(service: str) -> list[str]:
    """Return the topics that a service may write, without those for what cannot be understood."""
    kinds = [kind for kind in TOPICS if OWNERS.get(kind) == service or kind in SHARED]
    return list(dict.fromkeys([*(TOPICS[kind] for kind in kinds), *([RESENT] if service == RESENDER else [])]))


def kinds_of(service: str) -> list[str]:
    """Return the kinds of aggregates in a service's journal: keys before all else, for nobody gets in without."""
    kinds = [kind for kind in TOPICS if OWNERS.get(kind) == service or kind in SHARED]
    return sorted(kinds, key=lambda kind: (kind != "access", kind))


def rights(prefix: str = "") -> list[Right]:
    """Return all rights of an installation whose topics and groups begin with `prefix`."""
    return [right for service in SERVICES for right in _of_service(service, prefix)] + list(_of_producer(prefix))


def _of_service(service: str, prefix: str) -> Iterator[Right]:
    for topic in written_by(service):
        yield Right(service, Operation.WRITE, Resource.TOPIC, prefix + topic)
    for topic in topics():
        yield Right(service, Operation.READ, Resource.TOPIC, prefix + topic)
        if topic.endswith(DEAD):
            yield Right(service, Operation.WRITE, Resource.TOPIC, prefix + topic)
    for operation in Operation:  # commands that cannot be understood are put beside them
        yield Right(service, operation, Resource.TOPIC, prefix + COMMANDS, prefixed=True)
    yield Right(service, Operation.READ, Resource.GROUP, prefix + service, prefixed=True)


def _of_producer(prefix: str) -> Iterator[Right]:
    yield Right(PRODUCER, Operation.WRITE, Resource.TOPIC, prefix + COMMANDS, prefixed=True)
    for topic in dict.fromkeys(TOPICS.values()):
        if topic not in HIDDEN:
            yield Right(PRODUCER, Operation.READ, Resource.TOPIC, prefix + topic)
    yield Right(PRODUCER, Operation.READ, Resource.GROUP, prefix + PRODUCER, prefixed=True)
