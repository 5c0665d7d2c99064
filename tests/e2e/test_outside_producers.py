"""Programs that know nothing of Cloche but its messages submit a run and see it complete."""

import json
import os
import subprocess
import sys
import uuid
from pathlib import Path
from typing import TYPE_CHECKING, cast

import pytest

from cloche import Client
from tests.e2e.steps import log_of
from tests.e2e.topology import PATIENCE, Topology, eventually

if TYPE_CHECKING:
    from tests.e2e.cluster import Cluster

EXAMPLES = Path(__file__).parent.parent.parent / "examples" / "events"


@pytest.fixture
def properties(topology: Topology, tmp_path: Path) -> Path:
    """A file as `docker compose run --rm client librdkafka.properties` writes it."""
    stores = cast("Cluster", topology)._stores()
    found = {
        "bootstrap.servers": stores["CLOCHE_KAFKA__BOOTSTRAP_SERVERS"],
        "security.protocol": "SASL_SSL",
        "sasl.mechanism": "SCRAM-SHA-512",
        "sasl.username": stores["CLOCHE_KAFKA__USERNAME"],
        "sasl.password": stores["CLOCHE_KAFKA__PASSWORD"],
        "ssl.ca.location": stores["CLOCHE_KAFKA__CA_FILE"],
    }
    file = tmp_path / "client.properties"
    file.touch(mode=0o600)
    file.write_text("".join(f"{name}={value}\n" for name, value in found.items()))
    return file


def prefix(topology: Topology) -> str:
    return cast("Cluster", topology)._stores()["CLOCHE_KAFKA__TOPIC_PREFIX"]


@pytest.mark.parametrize("example", ["submit_aiokafka.py", "submit_confluent.py"])
def test_an_outside_producer_submits_a_run_and_sees_it_complete(
    topology: Topology, properties: Path, client: Client, example: str
) -> None:
    ended = subprocess.run(
        [sys.executable, str(EXAMPLES / example), str(properties)],
        env={"PATH": os.environ["PATH"], "CLOCHE_TOPIC_PREFIX": prefix(topology)},
        cwd=properties.parent,
        capture_output=True,
        text=True,
        timeout=2 * PATIENCE,
        check=False,
    )
    lines = [line.split() for line in ended.stdout.splitlines()]
    assert (ended.returncode, ended.stderr) == (0, ""), ended
    assert [kind for kind, _ in lines if kind.startswith("cloche.Command")] == ["cloche.CommandAccepted.v1"]
    assert lines[-1][0] == "cloche.RunCompleted.v1"
    run = client.runs.get(lines[-1][1].rpartition("/")[2])
    assert run.status == "Completed"
    assert "hello from a message" in log_of(client, run)


def test_a_command_from_a_file_is_answered_and_acts_once(topology: Topology, client: Client, tmp_path: Path) -> None:
    order = f"order-{uuid.uuid4().hex}"
    command = {
        "specversion": "1.0",
        "id": order,
        "source": "/tests",
        "type": "cloche.SubmitRun.v1",
        "data": {"script": "a.py", "files": {"a.py": "print('hello')"}},
    }
    file = tmp_path / "command.json"
    file.write_text(json.dumps(command))
    for _ in range(2):
        assert topology.cli("events", "send", str(file), "--json").document["correlationid"] == order

    def told() -> list[str]:
        return [one.type for one in client.events(follow=False, from_start=True, correlation=order)]

    eventually(lambda: "cloche.RunCompleted.v1" in told(), "the run completed")
    names = told()
    assert names.count("cloche.CommandAccepted.v1") == names.count("cloche.RunSubmitted.v1") == 1
