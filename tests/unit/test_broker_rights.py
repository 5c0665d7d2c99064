"""Who may do what at the broker."""

import pytest

from cloche_shared.bus.rights import (
    HIDDEN,
    OWNERS,
    PRODUCER,
    SERVICES,
    SHARED,
    Operation,
    Resource,
    Right,
    rights,
    topics,
    written_by,
)
from cloche_shared.contracts.facts import TOPICS


def writers(topic: str) -> set[str]:
    wanted = (Operation.WRITE, Resource.TOPIC)
    return {
        right.user
        for right in rights()
        if (right.operation, right.resource) == wanted
        and (topic.startswith(right.name) if right.prefixed else topic == right.name)
    }


def test_every_kind_of_aggregate_has_one_owner_or_is_everybodys() -> None:
    assert set(OWNERS) | SHARED == set(TOPICS)
    assert not set(OWNERS) & SHARED
    assert set(OWNERS.values()) == set(SERVICES)


@pytest.mark.parametrize("kind", sorted(OWNERS))
def test_facts_are_written_by_their_owner_alone(kind: str) -> None:
    assert writers(TOPICS[kind]) == {OWNERS[kind]}


@pytest.mark.parametrize("kind", sorted(SHARED))
def test_answers_and_denials_are_written_by_every_service_and_nobody_else(kind: str) -> None:
    assert writers(TOPICS[kind]) == set(SERVICES)


def test_producers_write_commands_and_read_no_keys() -> None:
    mine = [right for right in rights() if right.user == PRODUCER]
    assert [right.name for right in mine if right.operation is Operation.WRITE] == ["cloche.commands."]
    assert not {right.name for right in mine} & HIDDEN
    assert not any(right.operation is Operation.CREATE for right in mine)


def test_nobody_may_do_anything_to_all_topics_or_all_groups() -> None:
    assert all(len(right.name) > len("cloche.") or right.resource is Resource.GROUP for right in rights())
    assert {right.name for right in rights() if right.resource is Resource.GROUP} == {*SERVICES, PRODUCER}


def test_a_prefix_goes_before_every_name() -> None:
    assert all(right.name.startswith("mine.") for right in rights("mine."))
    assert len(rights("mine.")) == len(rights())


def test_every_topic_has_one_for_what_cannot_be_understood() -> None:
    named = topics()
    assert all(f"{name}.dead" in named for name in named if not name.endswith(".dead"))
    assert Right("runner", Operation.WRITE, Resource.TOPIC, "cloche.runs.dead") in rights()
    assert "cloche.runs" in written_by("runner")
