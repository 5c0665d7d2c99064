"""Messages that nobody of ours would send, of each kind, for every topic; their keys tell them from all others."""

from collections.abc import Callable, Iterator, Sequence
from typing import Final

import orjson
from confluent_kafka import KafkaError, KafkaException, Message, Producer

from cloche_shared.contracts.commands import command_topic
from cloche_shared.contracts.facts import TOPICS
from tests.faults.standing import Standing

KEY: Final = "poison-"
UNREADABLE: Final = ("bad JSON", "missing headers", "tombstone", "huge")
"""Kinds that nobody can read, whatever the topic: each becomes a dead letter of every group that reads it."""
HUGE: Final = (1 << 20) + 1
TOO_LARGE: Final = 8 << 20
_WRONG: Final = {
    "cloche.runs": "RunSubmitted",
    "cloche.answers": "ReferencesResolved",
    "cloche.services": "ServicePreparing",
}
"""Facts whose data somebody reads; their data is not that here."""

Headers = list[tuple[str, str | bytes | None]]
Poison = tuple[str, str, Headers, bytes | None]
"""Topic, kind, headers and value."""


def topics() -> list[str]:
    """Return every topic of facts, and one of commands."""
    return [*dict.fromkeys(TOPICS.values()), command_topic("default")]


def poisons() -> Iterator[Poison]:
    """Yield one message of each kind for each topic."""
    for topic in topics():
        event = {"ce_specversion": "1.0", "ce_id": f"{KEY}{topic}", "ce_source": "/elsewhere", "ce_sequence": "1"}
        about = {"ce_subject": f"run/default/{KEY}1", "ce_project": "default", "ce_time": "2026-01-01T00:00:00Z"}
        known = "cloche.SubmitRun.v1" if topic.startswith("cloche.commands") else "cloche.RunSubmitted.v1"
        wrong = f"cloche.{_WRONG.get(topic, 'RunSubmitted')}.v1"

        def as_headers(kind: str, whole: dict[str, str]) -> Headers:
            return [(name, text.encode()) for name, text in {**whole, "ce_type": kind}.items()]

        usual = {**event, **about}
        yield topic, "bad JSON", as_headers(known, usual), b'{"spec": '
        yield topic, "missing headers", [], b"{}"
        yield topic, "tombstone", as_headers(known, usual), None
        yield topic, "huge", [], b"x" * HUGE
        yield topic, "unknown type", as_headers("cloche.Nonsense.v1", usual), b"{}"
        yield topic, "unknown version", as_headers(known.replace(".v1", ".v99"), usual), b"{}"
        if topic in _WRONG or topic.startswith("cloche.commands"):
            kind = known if topic.startswith("cloche.commands") else wrong
            yield topic, "wrong data", as_headers(kind, usual), orjson.dumps({"spec": 5, "environment": []})


def send_poison(cluster: Standing) -> None:
    """Put one message of each kind into every topic."""
    _send(cluster, list(poisons()))


def send_one(cluster: Standing, topic: str, kind: str) -> None:
    """Put the message of one kind into one topic."""
    _send(cluster, [one for one in poisons() if one[:2] == (topic, kind)])


def _send(cluster: Standing, messages: Sequence[Poison]) -> None:
    options = {"bootstrap.servers": cluster.own.kafka.bootstrap, "message.max.bytes": 2 * TOO_LARGE, "log_level": 0}
    producer, failed = Producer(options), list[object]()
    for topic, kind, headers, value in messages:
        name, key = f"{cluster.installation}.{topic}", f"{KEY}{kind}"
        producer.produce(name, value, key=key, headers=headers, on_delivery=_noting(failed))
        producer.poll(0)
    producer.flush(30)
    assert not failed, failed
    cluster.own.count("poison messages", len(messages))


def is_refused(cluster: Standing, topic: str) -> bool:
    """Whether the broker refuses what is larger than any message may be."""
    options = {"bootstrap.servers": cluster.own.kafka.bootstrap, "message.max.bytes": 2 * TOO_LARGE, "log_level": 0}
    producer, failed = Producer(options), list[object]()
    try:
        producer.produce(
            f"{cluster.installation}.{topic}", b"x" * TOO_LARGE, key=f"{KEY}too large", on_delivery=_noting(failed)
        )
    except KafkaException:
        return True
    producer.flush(30)
    return bool(failed)


def _noting(failed: list[object]) -> "Callable[[KafkaError | None, Message], None]":
    def note(error: KafkaError | None, _message: Message) -> None:
        if error is not None:
            failed.append(error)

    return note
