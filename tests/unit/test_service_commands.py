"""Commands of runner, builder and deployer: the chain that they begin, and the same refusals as by REST."""

import importlib.util
from collections.abc import Mapping
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from cloche_shared.adapters.memory_bus import MemoryBroker, MemoryBus
from cloche_shared.bus.commands import command_id
from cloche_shared.contracts.commands import BY_TYPE, command_topic
from cloche_shared.contracts.envelope import from_message
from cloche_shared.journal.commit import written
from cloche_shared.lifecycle import Lifecycle
from cloche_shared.ports.git import GitTree
from tests.unit.commanding import Answers, message, produce
from tests.unit.runner_world import CHAIN, Cluster, answering, facts_of, replica
from tests.unit.test_builder_service import World as BuilderWorld
from tests.unit.test_deployer_service import deployer

pytestmark = pytest.mark.looptime
EXAMPLES = Path(__file__).parent.parent.parent / "examples" / "events"
RUN: dict[str, object] = {"script": "train.py", "files": {"train.py": "print()"}}


def run_of(answer: Any) -> str:
    return str(answer.data["about"]).rpartition("/")[2]


def correlations(cluster: Cluster, run_id: str) -> list[str]:
    """Return the correlation of each of a run's documents; the world's other services name a chain of their own."""
    documents = (cluster.store.documents[key] for key in cluster.store.keys if key.startswith(f"run/default/{run_id}/"))
    return [found for document in documents if (found := written(document).correlation) != "chain"]


def runs(cluster: Cluster) -> set[str]:
    return {key.split("/")[2] for key in cluster.store.keys if key.startswith("run/")}


async def test_a_run_by_message_goes_its_whole_way_in_the_commands_chain() -> None:
    cluster = Cluster()
    async with answering(cluster), replica(cluster) as client:
        await produce(cluster.bus, message("SubmitRun", RUN, correlationid="order-7"))
        run_id = run_of(await Answers(cluster.bus).to("1"))
        assert (await client.ended(run_id))["status"] == "Completed"
    assert facts_of(cluster, run_id) == CHAIN
    assert correlations(cluster, run_id) == ["order-7"] * 3  # submitted; claimed; begun and ended
    first = written(cluster.store.documents[f"run/default/{run_id}/000000000001"])
    assert (first.actor.subject, first.cause) == ("topic:default", "1")


async def test_a_run_by_message_that_comes_again_is_one_run() -> None:
    cluster = Cluster()
    async with answering(cluster), replica(cluster) as client:
        for _ in range(3):
            await produce(cluster.bus, message("SubmitRun", RUN))
        run_id = run_of(await Answers(cluster.bus).to("1"))
        await client.ended(run_id)
    assert runs(cluster) == {run_id}


async def test_a_run_is_cancelled_by_message() -> None:
    cluster = Cluster()
    cluster.builds = False
    cluster.resolves = True
    async with replica(cluster) as client:
        await produce(cluster.bus, message("SubmitRun", RUN))
        run_id = run_of(await Answers(cluster.bus).to("1"))
        await produce(cluster.bus, message("CancelRun", {"run_id": run_id, "after": "1"}, "2"))
        assert (await Answers(cluster.bus).to("2")).name == "CommandAccepted"
        assert (await client.ended(run_id))["status"] == "Canceled"


@pytest.mark.parametrize(
    ("data", "code"),
    [
        ({**RUN, "script": "other.py"}, "script_not_found"),
        ({"script": "a.py", "snapshot": "sha256:" + "0" * 64}, "snapshot_incomplete"),
        ({**RUN, "files": {"../train.py": ""}}, "unsafe_path"),
        ({"script": "a.py", "git": {"url": "https://example.org/a.git", "commit": "0" * 40}}, "git_unavailable"),
        ({**RUN, "variables": {"PATH": "/"}}, "reserved_variable"),
        ({**RUN, "resources": {"cpus": 0}}, "invalid_field"),
        ({**RUN, "resources": {"memory": 1}}, "invalid_field"),
    ],
)
async def test_a_run_that_cannot_be_is_refused(data: Mapping[str, object], code: str) -> None:
    cluster = Cluster()
    async with replica(cluster):
        await produce(cluster.bus, message("SubmitRun", data))
        answer: Any = await Answers(cluster.bus).to("1")
    assert (answer.name, answer.data["problem"]["code"]) == ("CommandRefused", code)


@pytest.mark.parametrize(
    "data",
    [
        {**RUN, "snapshot": "sha256:" + "0" * 64},
        {"script": "a.py"},
        {**RUN, "files": {"train.py": "x" * 65_536}},
        {"script": "a.py", "git": {"url": "http://example.org/a.git", "commit": "0" * 40}},
        {"script": "a.py", "git": {"url": "https://example.org/a.git", "commit": "main"}},
    ],
)
async def test_a_run_whose_code_is_not_given_in_one_right_way_is_refused(data: Mapping[str, object]) -> None:
    cluster = Cluster()
    async with replica(cluster):
        await produce(cluster.bus, message("SubmitRun", data))
        answer: Any = await Answers(cluster.bus).to("1")
    assert (answer.name, answer.data["problem"]["code"]) == ("CommandRefused", "invalid_field")
    assert (runs(cluster), cluster.broker.dead) == (set(), [])


class Repository:
    """A repository with one commit."""

    async def fetch(self, url: str, commit: str) -> GitTree:
        return GitTree({"train.py": f"# {url} {commit}".encode()})


async def test_a_runs_code_comes_from_a_commit() -> None:
    from cloche_runner.settings import RunnerSettings  # noqa: PLC0415 - only here
    from cloche_runner.wiring import build  # noqa: PLC0415 - only here

    cluster = Cluster()
    runner = build(cluster.platform(), RunnerSettings(), git=Repository())
    async with Lifecycle() as life:
        await runner.start(life)
        git = {"url": "https://example.org/a.git", "commit": "0" * 40}
        await produce(cluster.bus, message("SubmitRun", {"script": "train.py", "git": git}))
        assert (await Answers(cluster.bus).to("1")).name == "CommandAccepted"
        life.stop()


async def test_an_image_is_built_by_message() -> None:
    world = BuilderWorld()
    bus = MemoryBus(world.broker)
    service = world.service()
    async with Lifecycle() as life:
        await service.start(life)
        await produce(bus, message("BuildImage", {"environment": {"name": "sk"}}))
        answer = await Answers(bus).to("1")
        life.stop()
    assert answer.data["about"] == f"buildrequest/default/{command_id('/shop/orders', '1')}"


async def test_a_service_that_is_not_there_cannot_be_deleted_by_message() -> None:
    from cloche_shared.adapters.memory_views import MemoryViews  # noqa: PLC0415 - only here

    broker = MemoryBroker()
    service = deployer(MemoryViews(), MemoryBus(broker), relays=True)
    bus = MemoryBus(broker)
    async with Lifecycle() as life:
        await service.start(life)
        files = {"score.py": "def init():\n    pass\n"}
        await produce(bus, message("DeployService", {"name": "svc", "entry_script": "score.py", "files": files}))
        assert (await Answers(bus).to("1")).data["about"] == "service/default/svc"
        again = {"name": "svc", "entry_script": "score.py", "files": files, "workers": 2}
        await produce(bus, message("DeployService", again, "2"))
        assert (await Answers(bus).to("2")).name == "CommandAccepted"
        assert (await service.streams.get(service.streams.id("default", "svc"))).state.latest == 2
        await produce(bus, message("DeleteService", {"name": "svc"}, "3"))
        assert (await Answers(bus).to("3")).name == "CommandAccepted"
        await produce(bus, message("DeleteService", {"name": "svc"}, "4"))
        refused: Any = await Answers(bus).to("4")
        assert refused.data["problem"]["code"] == "service_not_found"
        life.stop()


def example(name: str) -> ModuleType:
    spec = importlib.util.spec_from_file_location(name, EXAMPLES / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize("name", ["submit_aiokafka", "submit_confluent"])
async def test_an_examples_command_is_a_run_and_its_end_is_recognised(name: str) -> None:
    module = example(name)
    headers, value = module.command("e-1")
    event = from_message(command_topic("default"), b"e-1", dict(headers), value)
    assert event.type in BY_TYPE
    cluster = Cluster()
    ended: list[int] = []
    async with answering(cluster), replica(cluster), cluster.bus.tail(["cloche.runs", "cloche.answers"]) as facts:
        await cluster.bus.publish([event])
        while not ended:
            for delivery in await facts.fetch():
                assert delivery.event is not None
                verdict = module.verdict(delivery.event.headers(), delivery.event.value(), "e-1")
                ended += [verdict] if verdict is not None else []
    assert ended == [0]
    stranger = [("ce_correlationid", b"other"), ("ce_type", b"cloche.RunCompleted.v1")]
    assert module.verdict(stranger, b"{}", "e-1") is None
    refused = [("ce_correlationid", b"e-1"), ("ce_type", b"cloche.CommandRefused.v1")]
    assert module.verdict(refused, b'{"problem":{"message":"no"}}', "e-1") == 1


def test_the_examples_read_the_properties_that_every_client_knows(tmp_path: Path) -> None:
    file = tmp_path / "client.properties"
    file.write_text("# mine\nbootstrap.servers=127.0.0.1:9092\nsasl.username = me\nsasl.password=a=b\n")
    module = example("submit_aiokafka")
    found = module.options(module.properties(str(file)))
    assert (found["bootstrap_servers"], found["sasl_plain_password"]) == ("127.0.0.1:9092", "a=b")
