"""Events: the chain of facts, live and again, with what caused what."""

import json
import select
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from cloche import Client, Event
from tests.e2e.packages import ThreadedIndex
from tests.e2e.steps import Names, Scripts, completed
from tests.e2e.topology import PATIENCE, Topology, eventually, program

CHAIN = [
    "RunSubmitted", "EnvironmentRegistered", "ReferencesResolved", "RunPreparing", "ImageProvided",
    "RunQueued", "AttemptClaimed", "RunStarted", "RunFinalizing", "RunCompleted",
]  # fmt: skip

OWN = ["RunSubmitted", "RunPreparing", "RunQueued", "AttemptClaimed", "RunStarted", "RunFinalizing", "RunCompleted"]
"""What of it the run tells itself."""


def chain_of(client: Client, script: Scripts, name: str, requirements: str = "") -> list[Event]:
    """Let a run with an environment of its own go through and return the events of its chain."""
    environment: object = {"name": name, "definition": {}}
    if requirements:
        environment = client.environments.register(name, requirements=requirements).name
    run = completed(client, script("print(1)"), environment=environment)
    return told(client, "RunCompleted", correlation=run.id)


def told(client: Client, last: str, **wanted: str) -> list[Event]:
    """Return events by time, as soon as one named `last` is among them; those of one moment by their place in `CHAIN`.

    Topics have no order among them, and times are in milliseconds.
    """

    def look() -> list[Event]:
        found = list(client.events(follow=False, from_start=True, **wanted))
        return found if last in {event.name for event in found} else []

    return sorted(eventually(look, f"{last} is told"), key=lambda event: (event.time, *placed(event.name)))


def placed(name: str) -> list[int]:
    return [CHAIN.index(name)] if name in CHAIN else []


@pytest.mark.main_job
def test_the_chain_of_a_run_has_one_correlation_and_its_order(client: Client, unique: Names, script: Scripts) -> None:
    found = chain_of(client, script, unique("env"))
    names = [event.name for event in found]
    # across aggregates neither topics nor clocks of several processes promise an order; each one's own is kept
    assert {name for name in names if name in CHAIN} == set(CHAIN)
    assert [name for name in names if name in OWN] == OWN
    assert len({event.correlationid for event in found}) == 1


def test_the_chain_shows_the_build_that_it_needed(
    client: Client, index: ThreadedIndex, unique: Names, script: Scripts
) -> None:
    found = chain_of(client, script, unique("env"), index.add(unique("pkg")))
    names = [event.name for event in found]
    build = ["RunPreparing", "ImageRequested", "ImageBuildStarted", "ImageBuilt", "ImageProvided", "RunQueued"]
    assert [name for name in names if name in build] == build
    by_id = {event.id: event for event in found}
    caused = {event.name: by_id[event.causationid].name for event in found if event.causationid in by_id}
    assert set(names) - set(caused) == {"RunSubmitted"}


def test_each_event_of_a_chain_names_the_one_that_caused_it(
    client: Client, index: ThreadedIndex, unique: Names, script: Scripts
) -> None:
    # a build of its own: one that another chain asked for first is caused there
    found = chain_of(client, script, unique("env"), index.add(unique("pkg")))
    ids = {event.id for event in found}
    first, *others = found
    assert all(event.causationid in ids for event in others), [
        (event.name, event.causationid) for event in others if event.causationid not in ids
    ]
    by_id = {event.id: event for event in found}
    resolved = next(event for event in found if event.name == "ReferencesResolved")
    assert by_id[resolved.causationid].name == "RunSubmitted"
    assert first.name == "RunSubmitted"


def test_events_are_cloudevents(topology: Topology, client: Client, script: Scripts) -> None:
    run = completed(client, script("print(1)"))
    subject = f"run/default/{run.id}"
    told(client, "RunCompleted", subject=subject)
    with topology.rest(accept="text/event-stream") as rest:
        path = "/api/v1/events"
        text = rest.get(path, params={"follow": "false", "from_start": "true", "subject": subject}).text
    data = [json.loads(line.removeprefix("data:")) for line in text.splitlines() if line.startswith("data:")]
    assert data
    for event in data:
        assert event["specversion"] == "1.0"
        assert event["type"].startswith("cloche.")
        assert event["type"].endswith(".v1")
        assert event["subject"] == subject
        assert event["project"] == "default"
        assert {"id", "source", "time", "sequence", "correlationid"} <= set(event)


@contextmanager
def tailing(topology: Topology, *arguments: str) -> Iterator["subprocess.Popen[str]"]:
    command = program("events", "tail", "--json", *arguments)
    environ = {**topology.environ(), "PYTHONUNBUFFERED": "1"}
    with subprocess.Popen(command, env=environ, stdout=subprocess.PIPE, text=True) as process:
        try:
            yield process
        finally:
            process.terminate()


def is_readable(process: "subprocess.Popen[str]") -> bool:
    assert process.stdout is not None
    return bool(select.select([process.stdout], [], [], 0.5)[0])


def lines_of(process: "subprocess.Popen[str]") -> Iterator[str]:
    assert process.stdout is not None
    yield from process.stdout


@pytest.mark.main_job
def test_events_tail_shows_the_chain_live(topology: Topology, client: Client, unique: Names, script: Scripts) -> None:
    name = unique("tail")
    with tailing(topology) as process:
        seen: list[dict[str, str]] = []

        def shows() -> bool:
            client.environments.register(unique("first"))
            return is_readable(process)

        eventually(shows, "an event is shown")
        run = completed(client, script("print(1)"), environment={"name": name, "definition": {}})
        for line in lines_of(process):
            seen.append(json.loads(line))
            if seen[-1]["subject"].endswith(run.id) and "RunCompleted" in seen[-1]["type"]:
                break
    (correlation,) = {event["correlationid"] for event in seen if event["subject"].endswith(run.id)}
    chain = [event for event in seen if event["correlationid"] == correlation]
    names = [event["type"].split(".")[1] for event in chain]
    # across aggregates a broker promises no order; each aggregate's own is kept
    assert {name for name in names if name in CHAIN} == set(CHAIN)
    mine = [name for name, event in zip(names, chain, strict=True) if event["subject"].endswith(run.id)]
    assert [name for name in mine if name in CHAIN and name in OWN] == OWN


def test_a_stream_of_events_resumes_where_it_ended(topology: Topology, client: Client, script: Scripts) -> None:
    run = completed(client, script("print(1)"))
    params = {"follow": "false", "from_start": "true", "subject": f"run/default/{run.id}"}
    told(client, "RunCompleted", subject=f"run/default/{run.id}")
    with topology.rest(accept="text/event-stream") as rest:
        whole = ids_of(rest.get("/api/v1/events", params=params).text)
        rest.headers["last-event-id"] = whole[2]
        again = ids_of(rest.get("/api/v1/events", params=params).text)
    assert len(whole) > 4
    assert whole[2] not in again
    assert set(whole[3:]) <= set(again)


@pytest.mark.embedded_only
def test_events_of_all_aggregates_come_in_the_order_of_commits_and_resume_behind_the_last(
    topology: Topology, client: Client, unique: Names, script: Scripts
) -> None:
    run = completed(client, script("print(1)"), environment={"name": unique("env"), "definition": {}})
    told(client, "RunCompleted", correlation=run.id)
    params = {"follow": "false", "from_start": "true", "correlation": run.id}
    with topology.rest(accept="text/event-stream") as rest:
        text = rest.get("/api/v1/events", params=params).text
        ids, names = ids_of(text), [line[7:] for line in text.splitlines() if line.startswith("event: ")]
        assert [name for name in names if name in CHAIN] == CHAIN
        for place in (0, 3, len(ids) - 1):
            rest.headers["last-event-id"] = ids[place]
            assert ids_of(rest.get("/api/v1/events", params=params).text) == ids[place + 1 :]


def ids_of(text: str) -> list[str]:
    return [line.removeprefix("id:").strip() for line in text.splitlines() if line.startswith("id:")]


@pytest.mark.main_job
def test_a_service_tells_its_chain_too(client: Client, unique: Names, script: Scripts) -> None:
    name = unique("svc")
    client.services.deploy(name, script("def init(): pass\ndef run(data): return 1", "score.py"), cpus=0.1)
    client.services.wait(name, timeout=PATIENCE)
    client.services.delete(name)
    found = [event.name for event in told(client, "ServiceDeleted", subject=f"service/default/{name}")]
    wanted = ["ServiceSubmitted", "ServicePreparing", "ServiceDeployed", "ServiceDeleted"]
    assert [one for one in found if one in wanted] == wanted
