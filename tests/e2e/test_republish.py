"""Facts that are sent again and groups that read again, by command line: the same on every topology."""

from collections.abc import Callable
from pathlib import Path
from typing import cast

import pytest

from cloche import Client
from tests.e2e.problems import said
from tests.e2e.steps import completed
from tests.e2e.topology import Topology, eventually

HELLO = "print('hello')\n"


def facts(client: Client, run_id: str) -> list[str]:
    """Return the ids of an ended run's own facts, each once, as they came first; waits for the last one."""
    stream = f"run/default/{run_id}"

    def found() -> list[str] | None:
        events = [one for one in client.events(follow=False, from_start=True, subject=stream) if one.subject == stream]
        own = dict.fromkeys(one.id for one in events if one.id.startswith(f"{stream}/"))
        return list(own) if any(one.name == "RunCompleted" for one in events) else None

    return cast("list[str]", eventually(found, "the last fact of the run is there"))


def test_a_runs_facts_are_republished_with_their_ids_and_change_nothing(
    topology: Topology, client: Client, script: Callable[..., Path]
) -> None:
    run = completed(client, script(HELLO))
    stream = f"run/default/{run.id}"
    before = facts(client, run.id)
    counted = topology.cli("events", "republish", "--stream", stream, "--dry-run", "--json").document
    assert counted == {"runner": len(before)}
    assert topology.cli("events", "republish", "--stream", stream).out == f"Sent again: runner {len(before)}.\n"
    assert topology.cli("events", "republish", "--stream", stream, "--last", "1", "--json").document == {"runner": 1}
    assert facts(client, run.id) == before
    assert client.runs.get(run.id).status == "Completed"


def test_only_what_happened_in_a_time_is_republished(topology: Topology) -> None:
    late = ("--since", "2100-01-01", "--json")
    assert topology.cli("events", "republish", "builder", "runner", *late).document == {"builder": 0, "runner": 0}


@pytest.mark.parametrize("group", ["registry.runs", "runner", "builder", "deployer"])
def test_a_group_has_its_past_again_and_does_nothing_twice(
    topology: Topology, client: Client, script: Callable[..., Path], group: str
) -> None:
    run = completed(client, script(HELLO))
    before = facts(client, run.id)
    groups = {one["group"] for one in topology.cli("events", "groups", "--json").document}
    assert group in groups
    count = topology.cli("events", "replay", group, "--since", "1m", "--json").document["messages"]
    assert count > 0
    assert completed(client, script(HELLO)).status == "Completed"
    assert facts(client, run.id) == before


def test_what_does_not_exist_cannot_be_sent_again(topology: Topology) -> None:
    said(topology.cli("events", "replay", "nobody", code=3), "group_not_found", names="nobody")
    said(topology.cli("events", "republish", "nobody", code=2), "unknown_service", names="nobody")
    said(topology.cli("events", "republish", "--since", "soon", code=2), "invalid_time", names="soon")
    wrong = ("events", "republish", "runner", "--stream", "environment/default/a")
    said(topology.cli(*wrong, code=2), "unknown_stream", names="environment/default/a")
