"""Reads back what servers hold of a cluster, as a history of the simulation's kind.

Every document of every service's journal, straight from the document store; every message of every topic,
from its beginning, straight from the broker; what clients were told; and when scripts lived.
"""

import time
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, cast

import orjson
from confluent_kafka import OFFSET_BEGINNING, Consumer, ConsumerGroupTopicPartitions, Message, TopicPartition
from confluent_kafka.admin import AdminClient
from pymongo import MongoClient

from cloche_shared.adapters.kafka.letters import DONE, NOTES
from cloche_shared.adapters.mongo_documents import JOURNAL, document_of
from cloche_shared.bus.letters import RESENT
from cloche_shared.bus.topics import DEAD
from cloche_shared.contracts.envelope import COMMANDS
from tests.e2e.cluster import SERVICES
from tests.e2e.topology import Topology
from tests.faults.load import PROJECT, Load
from tests.faults.poison import KEY
from tests.faults.standing import Standing
from tests.simulation.checker import Violation, check
from tests.simulation.record import Entry, History, Lived, Pending, Sent, entry_of

QUIET_S: Final = 180.0
"""Seconds after the faults within which everything has to come to its end."""
READ_S: Final = 120.0
"""Seconds for reading everything once: hundreds of megabytes where poison was sent often."""
FETCH_BYTES: Final = 16 << 20
ENDED: Final = frozenset(("Completed", "Failed", "Canceled"))


# --- the document store


def entries_of(cluster: Standing, *services: str) -> tuple[list[Entry], list[str]]:
    """Return every document of the journals (all), and the keys of those that were not published yet."""
    found, unsent = list[Entry](), list[str]()
    client: MongoClient[dict[str, Any]] = MongoClient(cluster.own.mongo.url, timeoutMS=int(READ_S * 1000))
    with client:
        for service in services or SERVICES:
            for row in client[cluster.database(service)][JOURNAL].find():
                document = document_of(row)
                found.append(entry_of(service, 0.0, document))
                unsent += [document.key] if document.topic and not document.sent else []
    return sorted(found, key=lambda entry: (entry.key.startswith("answers/"), entry.subject, entry.seq)), unsent


# --- the broker


@dataclass
class Topics:
    """What the broker holds of an installation: facts in the order of their partitions, and dead letters.

    `poisoned`: topic and key of each dead letter that was poison (`tests.faults.poison`); it is in none of the others.
    """

    sent: list[Sent]
    letters: list[str]
    ends: Mapping[tuple[str, int], int]
    poisoned: list[tuple[str, str]]

    @property
    def duplicates(self) -> int:
        return len(self.sent) - len({event.id for event in self.sent})


def topics_of(cluster: Standing, ending: str = "") -> Topics:
    """Read every topic (whose name ends so) from its beginning."""
    prefix = f"{cluster.installation}."
    options = {
        "bootstrap.servers": cluster.own.kafka.bootstrap,
        "group.id": f"{prefix}checker",
        "enable.auto.commit": False,
        "fetch.message.max.bytes": FETCH_BYTES,
    }
    consumer = Consumer({**options, "log_level": 0})
    try:
        topics = consumer.list_topics(timeout=READ_S).topics
        places = [
            TopicPartition(name, number, OFFSET_BEGINNING)
            for name in sorted(topics)
            if name.startswith(prefix) and name.endswith(ending)
            for number in topics[name].partitions
        ]
        ends = {(one.topic, one.partition): consumer.get_watermark_offsets(one, timeout=READ_S) for one in places}
        found = list(_messages(consumer, places, {place: high for place, (low, high) in ends.items() if high > low}))
    finally:
        consumer.close()
    names = {place: high for place, (_, high) in ends.items()}
    poison = [one for one in found if _key(one).startswith(KEY)]
    mine = [one for one in found if not _key(one).startswith(KEY)]
    facts = [one for one in mine if _carries_facts(str(one.topic()).removeprefix(prefix))]
    dead = [one for one in mine if str(one.topic()).endswith(DEAD) and DONE not in _headers(one)]
    put_aside = [
        (str(one.topic()).removeprefix(prefix), _key(one)) for one in poison if str(one.topic()).endswith(DEAD)
    ]
    return Topics([_sent(one) for one in facts], [_letter(one) for one in dead], names, put_aside)


def _messages(
    consumer: Consumer, places: Sequence[TopicPartition], ends: dict[tuple[str, int], int]
) -> Iterator[Message]:
    """Yield what stands before the ends, partition by partition in order."""
    left, until = set(ends), time.monotonic() + READ_S
    consumer.assign([place for place in places if (place.topic, place.partition) in ends])
    while left:
        assert time.monotonic() < until, f"the broker does not give what it has in {left}"
        message = consumer.poll(0.5)
        if message is None or message.error():
            continue
        place = (str(message.topic()), int(message.partition() or 0))
        offset = int(message.offset() or 0)
        if offset < ends[place]:
            yield message
        if offset >= ends[place] - 1:
            left.discard(place)


def _key(message: Message) -> str:
    return (message.key() or b"").decode(errors="replace")


def _carries_facts(topic: str) -> bool:
    return not topic.endswith(DEAD) and not topic.startswith(COMMANDS) and topic != RESENT


def _sent(message: Message) -> Sent:
    headers = _headers(message)
    return Sent(
        f"{message.topic()}/{message.partition()}",
        headers["ce_id"],
        headers["ce_subject"],
        int(headers["ce_sequence"]),
        headers["ce_type"],
        message.value() or b"",
    )


def _letter(message: Message) -> str:
    headers = _headers(message)
    notes = orjson.loads(headers[NOTES]) if NOTES in headers else {}
    return f"{headers.get('ce_id', message.offset())} on {message.topic()}: {notes.get('reason', 'no letter of ours')}"


def _headers(message: Message) -> dict[str, str]:
    pairs = cast("list[tuple[str, bytes | None]]", message.headers() or [])
    return {name: (value or b"").decode() for name, value in pairs}


def unread(cluster: Standing, ends: Mapping[tuple[str, int], int]) -> list[str]:
    """Return which groups have not come to the end of what they read."""
    prefix = f"{cluster.installation}."
    admin = AdminClient({"bootstrap.servers": cluster.own.kafka.bootstrap, "log_level": 0})
    listed = admin.list_consumer_groups(request_timeout=READ_S).result()
    groups = [one.group_id for one in listed.valid if one.group_id.startswith(prefix)]
    asked = [
        admin.list_consumer_group_offsets([ConsumerGroupTopicPartitions(group)], request_timeout=READ_S)
        for group in groups
    ]
    found = [one.result() for answer in asked for one in answer.values()]
    return [
        f"{one.group_id} has read {place.offset} of {ends[place.topic, place.partition]} in {place.topic}"
        for one in found
        for place in one.topic_partitions
        if 0 <= place.offset < ends.get((place.topic, place.partition), 0)
    ]


# --- scripts


def lived_of(load: Load) -> list[Lived]:
    """Return when each process of a run lived, at least: what it wrote down itself."""
    spans: dict[tuple[str, str], list[float]] = {}
    lines = load.lived.read_text().splitlines() if load.lived.exists() else []
    for name, pid, moment in (line.split() for line in lines):
        spans.setdefault((name, pid), []).append(float(moment))
    return [Lived(f"process {pid}", name, (), min(at), max(at)) for (name, pid), at in spans.items()]


# --- a whole history


@dataclass
class Judged:
    """A history that was read back, and what is wrong with it."""

    history: History
    topics: Topics
    violations: list[Violation]
    counts: Counter[str]

    def said(self) -> str:
        """Return the counts as one line."""
        return ", ".join(f"{count} {what}" for what, count in sorted(self.counts.items()))


def collected(cluster: Standing, load: Load) -> tuple[History, Topics, list[str]]:
    """Return the history as it is now, and sentences about what is still open."""
    entries, unsent = entries_of(cluster)
    topics = topics_of(cluster)
    pending = Pending()
    for entry in entries:
        pending.take(entry)
    history = History(entries, topics.sent, list(load.ops), lived_of(load), buried=topics.letters)
    held = {entry.key for entry in entries}
    newer = sorted({event.id for event in topics.sent if event.id.rpartition("#")[0] not in held})
    open_ends = [*pending.open(), *(f"{key} is not published" for key in unsent), *unread(cluster, topics.ends)]
    open_ends += [f"{event} was not in the journal when that was read, before the broker was" for event in newer]
    return history, topics, open_ends


def judged(cluster: Standing, load: Load, *, seconds: float = QUIET_S) -> Judged:
    """Wait until everything has come to its end, then read everything back and judge it."""
    end, pause = time.monotonic() + seconds, 0.5
    while True:
        history, topics, open_ends = collected(cluster, load)
        if not open_ends or time.monotonic() > end:
            break
        time.sleep(pause)
        pause = min(3.0, pause * 1.5)
    history.unsettled = open_ends
    history.read_back = read_back(cluster, load)
    violations = check(history)
    counts = load.counts() + load.told.counts()
    counts.update(documents=len(history.entries), facts=len(topics.sent), duplicates=topics.duplicates)
    counts.update({"scripts that lived": len(history.lived), "violations": len(violations)})
    return Judged(history, topics, violations, counts)


def read_back(topology: Topology, load: Load) -> list[str]:
    """Return sentences about accepted things that the services do not show as they were accepted."""
    wrong = []
    with topology.rest() as rest:
        for op in load.ops:
            if op.told != "ok":
                continue
            if op.kind == "submit":
                wrong += _shows(rest.get(f"/api/v1/runs/{op.result['id']}"), op.result["id"], {"project": PROJECT})
            elif op.kind in {"register", "model"}:
                area = "environments" if op.kind == "register" else "models"
                version = {"version": str(op.result["version"])}
                wrong += _shows(rest.get(f"/api/v1/{area}/{op.args['name']}", params=version), op.args["name"], version)
    return wrong


def _shows(answer: Any, what: str, wanted: Mapping[str, str]) -> list[str]:
    if answer.status_code != 200:
        return [f"{what} was accepted, and reading it says {answer.status_code}"]
    body = answer.json()
    if "status" in body and body["status"] not in ENDED:
        return [f"{what} reads back as {body['status']}"]
    if "version" in wanted and body["version"] != wanted["version"]:
        return [f"version {wanted['version']} of {what} reads back as {body['version']}"]
    return []
