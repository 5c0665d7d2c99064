"""Topics: created with partitions, retention and limits; refused where order would break."""

import asyncio
from collections.abc import Collection, Iterable, Sequence
from typing import Any, Final

from aiokafka.admin import AIOKafkaAdminClient, NewTopic
from aiokafka.errors import (
    ClusterAuthorizationFailedError,
    InvalidReplicationFactorError,
    KafkaError,
    NoError,
    SecurityDisabled,
    TopicAlreadyExistsError,
    TopicAuthorizationFailedError,
    for_code,
)
from aiokafka.protocol.admin import DescribeAclsRequest

from cloche_shared.adapters.kafka.reach import (
    ACCESS,
    DEAD,
    LETTER_BYTES,
    MESSAGE_BYTES,
    RETRY_S,
    Reach,
)
from cloche_shared.bus.letters import RESENT
from cloche_shared.contracts.facts import TOPICS
from cloche_shared.errors import Conflict, Invalid

NO_LEADER: Final = -1
SINGLE: Final = (RESENT,)
"""Topics of one partition, besides dead letters: nothing in them needs an order of its own per key."""
ANY: Final = 1
ALLOW: Final = 3


def all_topics() -> list[str]:
    """Return the topics that every installation has, without those for dead letters."""
    return [*dict.fromkeys(TOPICS.values()), RESENT]


class Topics:
    """The topics of one installation."""

    def __init__(self, reach: Reach) -> None:
        self._reach = reach
        self._known: set[str] = set()
        self._seen: set[str] = set()
        self._absent: set[str] = set()
        self._lost: set[str] = set()

    def admin(self) -> AIOKafkaAdminClient:
        """Return a client for an operator's questions."""
        return AIOKafkaAdminClient(**self._reach.options(self._reach.settings.deadline_s))

    async def ensure(self, admin: AIOKafkaAdminClient, names: Iterable[str]) -> None:
        """Create the topics that are not there, with those for their dead letters.

        Returns once each new partition is served. Raises `Conflict` (`topic_partitions_differ`),
        `Invalid` (`bus_forbidden`).
        """
        wanted = [topic for name in names for topic in ((name,) if name.endswith(DEAD) else (name, name + DEAD))]
        if self._known.issuperset(wanted):
            return
        there = {found["topic"] for found in await self._described(admin, wanted)}
        new = [self._new(topic) for topic in wanted if self._reach.prefix + topic not in there]
        if new:
            _check_created((await admin.create_topics(new)).topic_errors)
        found = await self._described(admin, wanted)
        while not _led(found, len(wanted)):
            await asyncio.sleep(RETRY_S[0])
            found = await self._described(admin, wanted)
        for topic in found:
            self._check_partitions(topic["topic"].removeprefix(self._reach.prefix), len(topic["partitions"]))
        if new:
            await self._served([self._reach.prefix + topic for topic in wanted])
        self._known.update(wanted)

    async def _served(self, topics: Sequence[str]) -> None:
        """Wait until the leaders of new partitions answer for them: they are the last to hear of it."""
        consumer = self._reach.loner()
        try:
            await consumer.start()
            await consumer.end_offsets(await self._reach.places(consumer, topics))
        finally:
            await self._reach.stopped(consumer)

    def knows(self, topic: str) -> bool:
        """Return whether a topic is known to be there."""
        return topic in self._known

    def lost(self, there: Collection[str]) -> list[str]:
        """Take note of what the broker shows (full names); return which topics of facts it had, and lost.

        Two looks in a row must miss a topic, as a broker that begins may know less for a moment. What was lost
        once stays so, also when somebody made it anew: this process's places in it are those of the former one.
        """
        mine = {self._reach.prefix + topic for topic in self._known if not topic.endswith(DEAD)}
        absent = self._seen.difference(there)
        self._lost |= absent & self._absent
        self._absent = absent
        self._seen |= mine.intersection(there)
        return sorted(name.removeprefix(self._reach.prefix) for name in self._lost)

    async def names_of_dead(self, admin: AIOKafkaAdminClient) -> list[str]:
        """Return the full names of all dead-letter topics that are there."""
        start = f"{self._reach.prefix}cloche."
        return sorted(name for name in await admin.list_topics() if name.startswith(start) and name.endswith(DEAD))

    async def _described(self, admin: AIOKafkaAdminClient, topics: Sequence[str]) -> list[dict[str, Any]]:
        described = await admin.describe_topics([self._reach.prefix + topic for topic in topics])
        return [found for found in described if found["partitions"]]

    def _check_partitions(self, topic: str, count: int) -> None:
        wanted = self._partitions(topic)
        if count != wanted and not topic.endswith(DEAD):
            cure = f"Set kafka.partitions to {count} in all services." if topic not in SINGLE else "Delete the topic."
            raise Conflict(
                "topic_partitions_differ",
                f"The topic {self._reach.prefix}{topic} has {count} partitions, not {wanted}.",
                why="With another count a key's messages would go to another partition than before: order is lost.",
                todo=cure,
            )

    def _partitions(self, topic: str) -> int:
        return 1 if topic.endswith(DEAD) or topic in SINGLE else self._reach.settings.partitions

    def _new(self, topic: str) -> NewTopic:
        settings = self._reach.settings
        hours = settings.retention_h if topic != ACCESS else -1
        configs = {
            "cleanup.policy": "delete",
            "retention.ms": str(-1 if hours < 0 else hours * 3600 * 1000),
            "retention.bytes": "-1",
            "max.message.bytes": str(LETTER_BYTES if topic.endswith(DEAD) else MESSAGE_BYTES),
            # What was acknowledged lies on two disks wherever three were asked for.
            "min.insync.replicas": str(2 if settings.replication > 2 else 1),  # noqa: PLR2004 - as said
        }
        return NewTopic(
            self._reach.prefix + topic, self._partitions(topic), settings.replication, topic_configs=configs
        )


async def check_guarded(admin: AIOKafkaAdminClient, reach: Reach) -> bool:
    """Return whether the broker tells apart who may write where. Raises `Invalid` (`broker_open`)."""
    settings = reach.settings
    named = settings.security_protocol.startswith("SASL")
    guarded = named and not await _lets_everybody(admin)
    if not guarded and not settings.allow_no_acls:
        raise Invalid(
            "broker_open",
            "The message broker does not know who may write to it."
            if named
            else "The message broker does not know who writes to it.",
            why="Whoever may write to a topic decides what Cloche believes, so the broker must tell users apart.",
            todo="Set authorizer.class.name at the broker and give each service its own topics"
            " (or kafka.allow_no_acls where nobody else reaches it)."
            if named
            else "Set kafka.security_protocol and a user; or kafka.allow_no_acls where nobody else reaches it.",
        )
    return guarded


async def _lets_everybody(admin: AIOKafkaAdminClient) -> bool:
    """Ask for rights: a broker without any says so, one that has them answers or refuses to tell."""
    question = DescribeAclsRequest(ANY, None, ANY, None, None, ANY, ANY)
    answer = await admin._send_request(question)  # noqa: SLF001 - the client has the message, but no call for it
    return for_code(answer.error_code) is SecurityDisabled


def _check_created(errors: Sequence[tuple[str, int, str]]) -> None:
    for topic, code, *_ in errors:
        kind = for_code(code)
        if kind in (NoError, TopicAlreadyExistsError):
            continue
        if kind in (TopicAuthorizationFailedError, ClusterAuthorizationFailedError):
            raise Invalid(
                "bus_forbidden",
                f"The message broker does not let this service create {topic}.",
                todo="Let an administrator create it, or give this service's user the right to.",
            )
        if kind is InvalidReplicationFactorError:
            raise KafkaError(f"{topic}: fewer brokers are up than kafka.replication asks for")
        raise kind(topic)


def _led(found: Sequence[dict[str, Any]], count: int) -> bool:
    return len(found) == count and all(part["leader"] != NO_LEADER for topic in found for part in topic["partitions"])
