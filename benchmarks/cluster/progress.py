"""Whether an installation has worked off what it holds: nothing unsent, and every group at the end of its topics."""

from collections.abc import Mapping
from typing import Any, Final

from confluent_kafka import ConsumerGroupTopicPartitions, KafkaException, TopicPartition
from confluent_kafka.admin import AdminClient, OffsetSpec  # type: ignore[attr-defined]  # public, not listed
from pymongo import MongoClient

from tests.environments.servers import KafkaServer, MongoServer

ANSWER_S: Final = 5.0
Offsets = dict[tuple[str, int], int]


class Progress:
    """A look from outside at the servers of one installation. Close it in the end.

    `behind` says what the last look found to be missing.
    """

    def __init__(self, kafka: KafkaServer, store: MongoServer, installation: str) -> None:
        self._kafka = kafka
        self._admin = self._asking()
        self._client: MongoClient[dict[str, Any]] = MongoClient(store.url)
        self._name = installation
        self.behind = ""

    def _asking(self) -> AdminClient:
        return AdminClient({"bootstrap.servers": self._kafka.bootstrap, "log_level": 0})

    def connect_again(self) -> None:
        """Ask the broker over new connections, since it was started again."""
        self._admin = self._asking()

    def close(self) -> None:
        """Close the connections to the document store."""
        self._client.close()

    def caught_up(self) -> bool:
        """Whether nothing waits: neither for the bus, nor in a topic. What cannot be asked now is not caught up."""
        try:
            self.behind = self._unsent() or self._unread() or self._unsent()
        except KafkaException as error:
            self.behind = f"the broker does not tell: {error}"
            self.connect_again()
        return not self.behind

    def groups(self) -> list[str]:
        """Return the names of the installation's groups."""
        found = self._admin.list_consumer_groups(request_timeout=ANSWER_S).result()
        return [one.group_id for one in found.valid if one.group_id.startswith(f"{self._name}.")]

    def _unsent(self) -> str:
        """Return whose journal holds a document that is not known to be with the bus."""
        mine = (name for name in self._client.list_database_names() if name.startswith(f"{self._name}_"))
        held = [name for name in mine if self._client[name]["journal"].find_one({"unsent": True}) is not None]
        return f"unsent documents in {', '.join(held)}" if held else ""

    def _unread(self) -> str:
        """Return which groups are not at the end of the topics that they read."""
        committed = self._committed()
        ends = self._ends({topic for offsets in committed.values() for topic, _ in offsets})
        late = [group for group, offsets in committed.items() if not _is_read(offsets, ends)]
        if not committed:
            return "there are no groups"
        return f"messages for {', '.join(late)}" if late else ""

    def _committed(self) -> dict[str, Offsets]:
        asked = [ConsumerGroupTopicPartitions(name) for name in self.groups()]
        answers = [
            self._admin.list_consumer_group_offsets([one], request_timeout=ANSWER_S)[one.group_id] for one in asked
        ]
        found = (answer.result() for answer in answers)
        return {
            one.group_id: {(place.topic, place.partition): place.offset for place in one.topic_partitions}
            for one in found
        }

    def _ends(self, topics: set[str]) -> Offsets:
        known = self._admin.list_topics(timeout=ANSWER_S).topics
        places = [TopicPartition(topic, number) for topic in topics for number in known[topic].partitions]
        newest = OffsetSpec.latest()  # type: ignore[no-untyped-call]  # the client has no types for it
        answers = self._admin.list_offsets(dict.fromkeys(places, newest), request_timeout=ANSWER_S)
        return {(place.topic, place.partition): answer.result().offset for place, answer in answers.items()}


def _is_read(committed: Offsets, ends: Mapping[tuple[str, int], int]) -> bool:
    """Whether a group is at the end of all partitions of the topics that it reads."""
    topics = {topic for topic, _ in committed}
    return all(committed.get(place, 0) >= end for place, end in ends.items() if place[0] in topics)
