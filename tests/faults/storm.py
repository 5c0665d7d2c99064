"""Members that come to every group of a cluster and go again: each time all partitions are dealt anew, twice."""

import time
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from typing import Final

from confluent_kafka import Consumer

from cloche_shared.contracts.commands import EVERY_TOPIC, command_topic
from tests.faults.load import PROJECT
from tests.faults.standing import Standing

DEALT_S: Final = 180.0
"""Seconds within which a new member has to be given its part: the others hear of it with their next heartbeat."""


def dealt_anew(cluster: Standing, groups: Mapping[str, Sequence[str]]) -> None:
    """Join every group, wait until each has given the new member a part, read nothing, and leave."""
    with ExitStack() as stack:
        members = {group: _member(stack, cluster, group, topics) for group, topics in groups.items()}
        waiting, end = set(members), time.monotonic() + DEALT_S
        while waiting:
            assert time.monotonic() < end, f"nothing was dealt anew in {sorted(waiting)}"
            for group, member in members.items():
                member.poll(0.02)
                if member.assignment():
                    waiting.discard(group)
    cluster.own.count("groups joined and left", len(groups))


def _member(stack: ExitStack, cluster: Standing, group: str, topics: Sequence[str]) -> Consumer:
    prefix = f"{cluster.installation}."
    member = Consumer(
        {
            "bootstrap.servers": cluster.own.kafka.bootstrap,
            "group.id": prefix + group,
            "enable.auto.commit": False,
            "partition.assignment.strategy": "roundrobin",
            "session.timeout.ms": 6000,
            "log_level": 0,
        }
    )
    stack.callback(member.close)
    member.subscribe([prefix + (command_topic(PROJECT) if topic == EVERY_TOPIC else topic) for topic in topics])
    return member
