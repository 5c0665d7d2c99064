"""The runner as its clients, the other services and its node meet it, on ports in memory and in virtual time."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import httpx2
import orjson
import pytest

from cloche_runner.adapters.memory import MemoryAttemptFiles, MemoryDisk, MemoryNodeFiles
from cloche_runner.attempt import NodeParts
from cloche_runner.settings import RunnerSettings
from cloche_runner.wiring import NodePorts, Runner, build
from cloche_shared.access import AccessTable, issue_key
from cloche_shared.adapters.devices import MemoryDevices
from cloche_shared.adapters.http_client import HttpClient
from cloche_shared.adapters.memory_blobs import MemoryBlobStore
from cloche_shared.adapters.memory_bus import MemoryBroker, MemoryBus
from cloche_shared.adapters.memory_executor import CannotStart, Life, MemoryExecutor, MemoryMachine, Program
from cloche_shared.adapters.memory_journal import MemoryJournal, MemoryStore
from cloche_shared.adapters.memory_leases import MemoryLeases
from cloche_shared.adapters.memory_views import MemoryViews
from cloche_shared.adapters.system_clock import MemoryClock
from cloche_shared.adapters.system_random import SeededRandom
from cloche_shared.contracts.definition import Definition, Lock
from cloche_shared.contracts.envelope import Event
from cloche_shared.contracts.fact import Fact, fact_type
from cloche_shared.contracts.facts import (
    TOPICS,
    ApiKeyIssued,
    ImageProvided,
    ImageRefused,
    ReferencesRefused,
    ReferencesResolved,
    ReplicaRequested,
    ServiceDeleted,
)
from cloche_shared.contracts.files import FileEntry, Manifest
from cloche_shared.contracts.references import Problem, ResolvedEnvironment
from cloche_shared.contracts.runs import Resources
from cloche_shared.http.app import AppParts, create_app
from cloche_shared.http.files import FILE_RULES
from cloche_shared.http.front import FrontParts
from cloche_shared.http.health import Version
from cloche_shared.http.policy import FrontPolicy
from cloche_shared.journal.commit import StreamId, written
from cloche_shared.lifecycle import Lifecycle
from cloche_shared.ports.devices import Gpu, Offer
from cloche_shared.ports.executor import ProcessSpec
from cloche_shared.service import Platform
from cloche_shared.store.hashing import lock_bytes, lock_digest, manifest_bytes

pytestmark = pytest.mark.looptime

PEPPER = b"p" * 32
LOCK = Lock(definition_hash="e1:" + "0" * 64, python="3.11.9", platform="linux-x86_64", artefacts=(), pylock="")
GIB = 2**30
OFFER = Offer(cpus=2.0, memory=4 * GIB, gpus=(Gpu("GPU-a", "H200", 141 * GIB),))


async def quick(life: Life) -> int:
    life.begin()
    life.say(b"hello\n")
    return 0


def sleeping(seconds: float, *, code: int = 0, stubborn: bool = False) -> Program:
    async def program(life: Life) -> int:
        life.stubborn = stubborn
        life.begin()
        life.say(b"begun\n")
        await asyncio.sleep(seconds)
        life.say(b"done\n")
        return code

    return program


class Cluster:
    """What outlives the runner: store, broker, blobs, a machine for each node, and the other services' answers."""

    def __init__(self, *, shared: bool = False) -> None:
        self.shared = shared
        self.store = MemoryStore()
        self.broker = MemoryBroker()
        self.bus = MemoryBus(self.broker)
        self.blobs = MemoryBlobStore()
        self.views = MemoryViews()
        self.leases = MemoryLeases()
        self.random = SeededRandom(1)
        self.clock = MemoryClock()
        self.programs: dict[str, Program] = {}
        self.machines: dict[str, MemoryMachine] = {}
        self.disks: dict[str, MemoryDisk] = {}
        self.access = AccessTable(PEPPER, self.clock)
        key = issue_key(self.random, PEPPER)
        self.token = key.token
        self.access.apply(ApiKeyIssued(key_id=key.key_id, digest=key.digest, role="admin", projects=("*",)))
        self.resolves = True
        self.builds = True
        self.copies = 1

    def platform(self) -> Platform:
        return Platform(
            journal=MemoryJournal(self.store),
            views=self.views,
            leases=self.leases,
            bus=self.bus,
            blobs=self.blobs,
            clock=self.clock,
            random=self.random,
            http=HttpClient(),
            access=self.access,
            installation="here",
            exclusive=not self.shared,
        )

    def program_of(self, spec: ProcessSpec) -> Program:
        return self.programs.get(Path(spec.argv[3]).name, quick)

    def node(self, name: str) -> NodePorts:
        machine = self.machines.setdefault(name, MemoryMachine(self.program_of))
        disk = self.disks.setdefault(name, MemoryDisk())
        parts = NodeParts(
            MemoryExecutor(machine), MemoryNodeFiles(disk), MemoryAttemptFiles(disk), Path("/rt/bootstrap.py")
        )
        return NodePorts(parts, MemoryDevices(OFFER))

    async def publish(self, subject: str, fact: Fact, event_id: str, *, topic: str) -> None:
        event = Event(
            id=event_id,
            type=fact_type(type(fact)),
            source="/cloche/other",
            subject=subject,
            sequence=1,
            project="default",
            time="2026-01-01T00:00:00Z",
            correlation="chain",
            data=orjson.loads(fact.model_dump_json()),
            topic=topic,
            key=subject,
        )
        await self.bus.publish([event] * self.copies)

    async def others(self) -> None:
        """Answer as the registry and the builder do."""
        async with self.bus.tail([TOPICS["run"]], from_start=True) as runs:
            while True:
                for delivery in await runs.fetch():
                    if delivery.event is not None:
                        await self._answer(delivery.event)

    async def _answer(self, event: Event) -> None:
        answer: Fact | None = None
        if event.name == "RunSubmitted" and self.resolves:
            answer = ReferencesResolved(environment=RESOLVED)
        elif event.name == "RunSubmitted":
            answer = ReferencesRefused(problem=Problem(code="environment_not_found", message="No such environment."))
        elif event.name == "RunPreparing" and self.builds:
            answer = ImageProvided(
                definition_hash=LOCK.definition_hash,
                lock_digest=lock_digest(LOCK),
                scope="public",
                target="process",
                image="cloche/x",
                reused=True,
            )
        elif event.name == "RunPreparing":
            answer = ImageRefused(problem=Problem(code="solver_conflict", message="They do not fit."))
        if answer is not None:
            await self.publish(event.subject, answer, f"{event.id}!answer", topic=TOPICS["answers"])


RESOLVED = ResolvedEnvironment(
    name="sk",
    version="2",
    definition_hash=LOCK.definition_hash,
    definition=Definition(variables={"COLOUR": "red"}),
)


class Client:
    """A caller of one replica."""

    def __init__(self, cluster: Cluster, runner: Runner) -> None:
        self.cluster = cluster
        self.runner = runner
        policy = FrontPolicy(hosts=frozenset({"cloche.test"}), routes=FILE_RULES)
        front = FrontParts(access=cluster.access, clock=cluster.clock, random=cluster.random, policy=policy)
        version = Version(name="cloche", version="0", installation="here")
        app = create_app([runner.surface.router], AppParts(version=version, front=front))
        self.http = httpx2.AsyncClient(
            transport=httpx2.ASGITransport(app=app),
            base_url="http://cloche.test/api/v1",
            headers={"authorization": f"Bearer {cluster.token}"},
        )

    async def snapshot(self, *paths: str) -> str:
        space = self.cluster.blobs.space("runner", "default")
        blob = await space.put_bytes(b"print()")
        files = tuple(FileEntry(path=path, digest=blob.digest, size=blob.size) for path in sorted(paths))
        return (await space.put_bytes(manifest_bytes(Manifest(files=files)))).digest

    async def post(self, path: str, body: object = None, **headers: str) -> httpx2.Response:
        return await self.http.post(path, json=body, headers={k.replace("_", "-"): v for k, v in headers.items()})

    async def get(self, path: str) -> Any:
        answer = await self.http.get(path)
        assert answer.status_code == 200, answer.text
        return answer.json()

    async def submit(self, script: str = "train.py", **more: object) -> str:
        body = {"script": script, "snapshot": await self.snapshot(script), **more}
        answer = await self.post("/runs", body)
        assert answer.status_code == 202, answer.text
        assert answer.headers["location"] == f"/api/v1/runs/{answer.json()['id']}"
        return str(answer.json()["id"])

    async def ended(self, run_id: str) -> Any:
        for _ in range(200):
            shown = await self.get(f"/runs/{run_id}?wait=60")
            if shown["status"] in {"Completed", "Failed", "Canceled"}:
                return shown
        raise AssertionError(shown)

    async def until(self, run_id: str, status: str) -> Any:
        for _ in range(2000):
            shown = await self.get(f"/runs/{run_id}")
            if shown["status"] == status:
                return shown
            await asyncio.sleep(0.05)
        raise AssertionError(shown)


@asynccontextmanager
async def replica(cluster: Cluster, node: str = "n1", **settings: object) -> AsyncIterator[Client]:
    """Run a replica that drives a node (an empty name: none) until the block is left."""
    ports = cluster.node(node) if node else None
    runner = build(cluster.platform(), RunnerSettings(node=node, **settings), ports)  # type: ignore[arg-type]
    client = Client(cluster, runner)
    async with Lifecycle() as life, client.http:
        await runner.start(life)
        try:
            yield client
        finally:
            life.stop()
            if ports is not None:
                ports.parts.executor.disconnect()  # type: ignore[attr-defined]


@asynccontextmanager
async def answering(cluster: Cluster) -> AsyncIterator[None]:
    await cluster.blobs.space("builder", "public").put_bytes(lock_bytes(LOCK))
    task = asyncio.create_task(cluster.others())
    await asyncio.sleep(0)
    try:
        yield
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


@pytest.fixture(params=[False, True], ids=["exclusive", "shared"])
async def cluster(request: pytest.FixtureRequest) -> AsyncIterator[Cluster]:
    made = Cluster(shared=request.param)
    async with answering(made):
        yield made


@pytest.fixture
async def client(cluster: Cluster) -> AsyncIterator[Client]:
    async with replica(cluster) as made:
        yield made


def facts_of(cluster: Cluster, run_id: str) -> list[str]:
    """Return the names of a run's facts, in order, and check its fences on the way."""
    names = []
    for key in cluster.store.keys:
        if key.startswith(f"run/default/{run_id}/"):
            commit = written(cluster.store.documents[key])
            for name, data in commit.facts:
                names.append(name.split(".")[1])
                if name.split(".")[1] == "AttemptClaimed":
                    fence = commit.seq
                if "fence" in data and name.split(".")[1] != "RunMeasured":
                    assert data["fence"] == fence
    return names


CHAIN = [
    "RunSubmitted",
    "RunPreparing",
    "RunQueued",
    "AttemptClaimed",
    "RunStarted",
    "RunFinalizing",
    "RunCompleted",
]


# --- the whole way


async def test_a_run_goes_through_its_chain_and_leaves_nothing_behind(client: Client, cluster: Cluster) -> None:
    run_id = await client.submit(arguments=["--fast"], tags={"a": "b"})
    shown = await client.ended(run_id)
    assert shown["status"] == "Completed", shown
    assert shown["exit"]["code"] == 0
    assert shown["environment"]["version"] == "2"
    assert facts_of(cluster, run_id) == CHAIN
    await asyncio.sleep(1)
    assert cluster.machines["n1"].groups == {}
    assert cluster.disks["n1"].work == {}
    assert cluster.disks["n1"].journals == {}
    [node] = (await client.get("/nodes"))["items"]
    assert (node["free_cpus"], node["holders"]) == (2.0, [])
    [listed] = (await client.get("/runs?status=Completed"))["items"]
    assert listed["id"] == run_id


async def test_every_answer_may_come_twice(client: Client, cluster: Cluster) -> None:
    cluster.copies = 2
    run_id = await client.submit()
    await client.ended(run_id)
    assert facts_of(cluster, run_id) == CHAIN


# --- bad input


async def test_a_reference_that_does_not_exist_fails_the_run(client: Client, cluster: Cluster) -> None:
    cluster.resolves = False
    shown = await client.ended(await client.submit())
    assert (shown["status"], shown["problem"]["code"]) == ("Failed", "environment_not_found")


async def test_an_environment_that_cannot_be_built_fails_the_run(client: Client, cluster: Cluster) -> None:
    cluster.builds = False
    shown = await client.ended(await client.submit())
    assert (shown["status"], shown["problem"]["code"]) == ("Failed", "solver_conflict")


async def test_a_script_that_is_not_in_the_snapshot_is_refused_with_near_names(client: Client) -> None:
    snapshot = await client.snapshot("train.py", "data.csv")
    answer = await client.post("/runs", {"script": "trian.py", "snapshot": snapshot})
    assert (answer.status_code, answer.json()["code"]) == (422, "script_not_found")
    assert answer.json()["near"] == ["train.py"]


async def test_a_snapshot_whose_blobs_are_missing_is_refused(client: Client, cluster: Cluster) -> None:
    absent = "sha256:" + "9" * 64
    answer = await client.post("/runs", {"script": "a.py", "snapshot": absent})
    assert (answer.status_code, answer.json()["code"]) == (422, "snapshot_incomplete")
    files = (FileEntry(path="a.py", digest=absent, size=1),)
    whole = await cluster.blobs.space("runner", "default").put_bytes(manifest_bytes(Manifest(files=files)))
    answer = await client.post("/runs", {"script": "a.py", "snapshot": whole.digest})
    assert (answer.json()["code"], answer.json()["missing"]) == ("snapshot_incomplete", [absent])


async def test_a_snapshot_over_its_limit_is_refused(cluster: Cluster) -> None:
    async with replica(cluster, snapshot_files=1) as client:
        answer = await client.post("/runs", {"script": "a.py", "snapshot": await client.snapshot("a.py", "b.py")})
    assert (answer.status_code, answer.json()["code"]) == (413, "snapshot_too_large")


async def test_reserved_variables_and_paths_that_leave_the_tree_are_refused(client: Client) -> None:
    snapshot = await client.snapshot("a.py")
    body = {"script": "a.py", "snapshot": snapshot, "variables": {"LD_PRELOAD": "x"}}
    assert (await client.post("/runs", body)).json()["code"] == "reserved_variable"
    assert (await client.post("/runs", {"script": "../a.py", "snapshot": snapshot})).json()["code"] == "unsafe_path"


async def test_a_run_that_does_not_exist_is_not_found_anywhere(client: Client) -> None:
    for path in ("", "/why", "/log", "/metrics", "/outputs", "/outputs/a"):
        answer = await client.http.get(f"/runs/none{path}")
        assert (answer.status_code, answer.json()["code"]) == (404, "run_not_found"), path
    assert (await client.post("/runs/none/cancel")).status_code == 404


async def test_the_same_idempotency_key_makes_one_run(client: Client) -> None:
    body = {"script": "a.py", "snapshot": await client.snapshot("a.py")}
    answers = await asyncio.gather(*(client.post("/runs", body, Idempotency_Key="k1") for _ in range(5)))
    assert len({answer.json()["id"] for answer in answers}) == 1
    other = await client.post("/runs", {**body, "priority": 1}, Idempotency_Key="k1")
    assert other.json()["code"] == "idempotency_key_reused"
    await client.ended(answers[0].json()["id"])
    assert len((await client.get("/runs"))["items"]) == 1


# --- endings


async def crash(life: Life) -> int:
    life.begin()
    life.say(b"Traceback\nValueError: no\n")
    return 3


async def hungry(life: Life) -> int:
    life.begin()
    life.use(8 * GIB)
    await asyncio.sleep(1)
    return 0


async def unstartable(life: Life) -> int:
    raise CannotStart("no such interpreter")


@pytest.mark.parametrize(
    ("program", "more", "code", "part"),
    [
        (crash, {}, "user_code_failed", "exit code 3"),
        (hungry, {}, "out_of_memory", "512 MiB"),
        (sleeping(1000), {"deadline": 5.0}, "deadline_exceeded", "5 s"),
        (unstartable, {}, "not_started", "no such interpreter"),
    ],
)
async def test_a_bad_end_is_named_and_the_log_is_kept(
    client: Client, cluster: Cluster, program: Program, more: dict[str, object], code: str, part: str
) -> None:
    cluster.programs["bad.py"] = program
    shown = await client.ended(await client.submit("bad.py", **more))
    assert (shown["status"], shown["problem"]["code"]) == ("Failed", code)
    assert part in shown["problem"]["message"]
    assert shown["outputs"] is not None
    log = await client.http.get(f"/runs/{shown['id']}/log")
    assert len(log.content) == shown["log_bytes"]


async def test_user_code_is_retried_only_as_often_as_asked(client: Client, cluster: Cluster) -> None:
    cluster.programs["bad.py"] = crash
    shown = await client.ended(await client.submit("bad.py", retries=2))
    assert (shown["status"], shown["attempt"]) == ("Failed", 3)
    log = await client.http.get(f"/runs/{shown['id']}/log")
    assert log.text.count("Traceback") == 3


async def test_lost_attempts_are_tried_again_three_times_in_all(client: Client, cluster: Cluster) -> None:
    cluster.programs["a.py"] = sleeping(1000)
    run_id = await client.submit("a.py")
    for attempt in (1, 2, 3):
        await client.until(run_id, "Running")
        await asyncio.sleep(1)
        assert (await client.get(f"/runs/{run_id}"))["attempt"] == attempt
        [name] = cluster.machines["n1"].groups
        cluster.machines["n1"].lose(name)
        await asyncio.sleep(0.1)
    shown = await client.ended(run_id)
    assert (shown["status"], shown["problem"]["code"]) == ("Failed", "infrastructure_failure")
    names = facts_of(cluster, run_id)
    assert (names.count("AttemptLost"), names.count("RunRequeued")) == (3, 2)


async def test_a_machine_that_starts_nothing_loses_attempts(client: Client, cluster: Cluster) -> None:
    cluster.machines["n1"].refuses = True
    shown = await client.ended(await client.submit())
    assert (shown["status"], shown["problem"]["code"]) == ("Failed", "infrastructure_failure")


async def test_what_the_environment_and_the_run_set_reaches_the_process(client: Client, cluster: Cluster) -> None:
    seen: list[ProcessSpec] = []

    async def program(life: Life) -> int:
        seen.append(life.spec)
        return 0

    cluster.programs["a.py"] = program
    run_id = await client.submit(
        "a.py", arguments=["x"], variables={"SIZE": "9"}, resources={"gpus": 1, "gpu_kind": "h200"}
    )
    await client.ended(run_id)
    [spec] = seen
    assert spec.argv[1:] == ["/rt/bootstrap.py", "--", "a.py", "x"]
    assert (spec.env["COLOUR"], spec.env["SIZE"]) == ("red", "9")
    assert (spec.env["CLOCHE_RUN_ID"], spec.env["CUDA_VISIBLE_DEVICES"]) == (run_id, "GPU-a")
    await client.ended(await client.submit("a.py"))
    assert (seen[1].env["CUDA_VISIBLE_DEVICES"], seen[1].env["NVIDIA_VISIBLE_DEVICES"]) == ("", "void")


# --- cancel


async def test_a_cancel_before_any_claim_decides_at_once(client: Client, cluster: Cluster) -> None:
    run_id = await client.submit(resources={"gpus": 3})
    await client.until(run_id, "Queued")
    answer = await client.post(f"/runs/{run_id}/cancel")
    assert (answer.status_code, answer.json()["status"]) == (200, "Canceled")
    again = await client.post(f"/runs/{run_id}/cancel")
    assert (again.status_code, again.json()["status"]) == (200, "Canceled")
    assert "AttemptClaimed" not in facts_of(cluster, run_id)


@pytest.mark.parametrize("stubborn", [False, True])
async def test_a_cancel_of_a_running_run_ends_its_group(client: Client, cluster: Cluster, stubborn: bool) -> None:
    cluster.programs["a.py"] = sleeping(1000, stubborn=stubborn)
    run_id = await client.submit("a.py", grace=2.0)
    await client.until(run_id, "Running")
    answer = await client.post(f"/runs/{run_id}/cancel")
    assert (answer.status_code, answer.json()["status"]) == (202, "CancelRequested")
    asked = asyncio.get_running_loop().time()
    shown = await client.ended(run_id)
    assert shown["status"] == "Canceled"
    assert asyncio.get_running_loop().time() - asked <= 7
    assert cluster.machines["n1"].groups == {}


async def test_cancelling_at_any_moment_leaves_one_terminal_state(cluster: Cluster) -> None:
    cluster.programs["a.py"] = sleeping(0.05)
    async with replica(cluster) as client:
        for step in range(40):
            run_id = await client.submit("a.py", grace=0.0)
            for _ in range(step):
                await asyncio.sleep(0)
            await client.post(f"/runs/{run_id}/cancel")
            assert (await client.ended(run_id))["status"] in {"Canceled", "Completed"}
            ends = [name for name in facts_of(cluster, run_id) if name in {"RunCanceled", "RunCompleted", "RunFailed"}]
            assert len(ends) == 1
        await asyncio.sleep(1)
        assert cluster.machines["n1"].groups == {}
        [node] = (await client.get("/nodes"))["items"]
        assert node["free_cpus"] == 2.0


async def test_all_runs_can_be_cancelled_at_once(client: Client, cluster: Cluster) -> None:
    cluster.programs["a.py"] = sleeping(1000)
    ids = [await client.submit("a.py") for _ in range(4)]
    await client.until(ids[1], "Running")
    assert await client.runner.cancel_all() == 4
    assert {(await client.ended(run_id))["status"] for run_id in ids} == {"Canceled"}


# --- why, log, metrics, outputs


async def test_why_says_what_a_run_waits_for(client: Client, cluster: Cluster) -> None:
    cluster.programs["a.py"] = sleeping(1000)
    never = await client.submit(resources={"gpus": 3})
    await client.until(never, "Queued")
    assert (await client.get(f"/runs/{never}/why"))["reason"] == "The run asks for 3 GPUs; the largest node has 1."
    running = await client.submit("a.py", resources={"cpus": 2.0})
    await client.until(running, "Running")
    waiting = await client.submit("a.py")
    await client.until(waiting, "Queued")
    assert (await client.get(f"/runs/{waiting}/why"))["reason"] == "The run waits for 1 CPUs: 0 free."
    assert "is running on the node n1" in (await client.get(f"/runs/{running}/why"))["reason"]


async def test_a_log_can_be_followed_from_the_beginning_and_resumed(client: Client, cluster: Cluster) -> None:
    cluster.programs["a.py"] = sleeping(5)
    run_id = await client.submit("a.py")
    stream = client.http.stream("GET", f"/runs/{run_id}/log?follow=true")
    async with stream as answer:
        text = (await answer.aread()).decode()
    assert "data: begun" in text
    assert "data: done" in text
    assert 'event: end\ndata: {"status":"Completed","log_bytes":11,"exit_code":0}' in text
    resumed = await client.http.get(
        f"/runs/{run_id}/log", headers={"accept": "text/event-stream", "last-event-id": "6"}
    )
    assert "begun" not in resumed.text
    assert "id: 11\ndata: done" in resumed.text
    assert (await client.http.get(f"/runs/{run_id}/log?offset=6")).text == "done\n"
    assert (await client.http.get(f"/runs/{run_id}/log?tail=1")).text == "done\n"


async def test_metrics_outputs_and_uploads_are_kept(client: Client, cluster: Cluster) -> None:
    async def program(life: Life) -> int:
        life.begin()
        disk, name = cluster.disks["n1"], life.spec.id
        disk.log(name, v=1, op="log", name="loss", value=1.0)
        await asyncio.sleep(3)
        disk.log(name, v=1, op="log", name="loss", value="NaN")
        disk.log(name, v=1, op="log_list", name="long", value=[0.5] * 20_000)
        disk.log(name, v=1, op="tag", name="stage", value="late")
        disk.log(name, v=1, op="property", name="seed", value="7")
        disk.journals[name] += b'not json\n{"op": 3}\n{"op": "log"}\n'
        disk.write(name, "outputs/model.pkl", b"m")
        disk.write(name, "logs/a.txt", b"l")
        disk.write(name, "train.log", b"not kept")
        disk.upload(name, "outputs/extra.bin", b"e")
        return 0

    cluster.programs["a.py"] = program
    shown = await client.ended(await client.submit("a.py"))
    path = f"/runs/{shown['id']}"
    found = await client.get(f"{path}/metrics")
    assert found["metrics"]["loss"] == [1.0, "NaN"]
    assert len(found["metrics"]["long"]) == 20_000
    assert (found["tags"], found["properties"]) == ({"stage": "late"}, {"seed": "7"})
    listed = await client.get(f"{path}/outputs")
    assert [file["path"] for file in listed["files"]] == ["logs/a.txt", "outputs/extra.bin", "outputs/model.pkl"]
    file = await client.http.get(f"{path}/outputs/outputs/model.pkl")
    assert (file.content, file.headers["content-disposition"]) == (b"m", "attachment; filename*=UTF-8''model.pkl")
    missing = await client.http.get(f"{path}/outputs/outputs/none")
    assert (missing.status_code, missing.json()["code"]) == (404, "output_not_found")
    assert max(len(document.body) for document in cluster.store.documents.values()) < 64 * 1024


async def test_a_caller_may_wait_for_the_end(client: Client, cluster: Cluster) -> None:
    cluster.programs["a.py"] = sleeping(5)
    body = {"script": "a.py", "snapshot": await client.snapshot("a.py")}
    answer = await client.post("/runs", body, Prefer="wait=2")
    assert (answer.status_code, answer.json()["status"]) == (202, "Running")
    answer = await client.post("/runs", body, Prefer="wait=20")
    assert (answer.status_code, answer.json()["status"]) == (200, "Completed")


# --- crashes


@pytest.mark.parametrize("down_for", [0.0, 100.0])
async def test_a_run_is_adopted_after_a_crash_not_started_again(cluster: Cluster, down_for: float) -> None:
    cluster.programs["a.py"] = sleeping(30)
    async with replica(cluster) as client:
        run_id = await client.submit("a.py")
        await client.until(run_id, "Running")
    assert len(cluster.machines["n1"].groups) == 1
    await asyncio.sleep(down_for)
    async with replica(cluster) as client:
        shown = await client.ended(run_id)
        assert (shown["status"], shown["attempt"]) == ("Completed", 1)
        assert (await client.http.get(f"/runs/{run_id}/log")).text == "begun\ndone\n"
    assert facts_of(cluster, run_id) == CHAIN


async def test_a_crash_at_any_moment_loses_no_run(cluster: Cluster) -> None:
    cluster.programs["a.py"] = sleeping(0.01)
    ids = []
    for step in range(60):
        async with replica(cluster) as client:
            ids.append(await client.submit("a.py"))
            for _ in range(step):
                await asyncio.sleep(0)
    async with replica(cluster) as client:
        for run_id in ids:
            shown = await client.ended(run_id)
            assert (shown["status"], shown["attempt"]) == ("Completed", 1), run_id
            assert facts_of(cluster, run_id) == CHAIN
        await asyncio.sleep(100)
        assert cluster.machines["n1"].groups == {}
        [node] = (await client.get("/nodes"))["items"]
        assert (node["free_cpus"], node["holders"]) == (2.0, [])


async def test_a_process_that_nobody_holds_is_ended_and_forgotten(cluster: Cluster) -> None:
    executor = cluster.node("n1").parts.executor
    cluster.programs["a.py"] = sleeping(1e6)
    spec = ProcessSpec(id="run-x-1", owner="runner", argv=["p", "b", "--", "a.py"], cwd=Path("/"), env={})
    await executor.start(spec)
    await executor.start(replace(spec, id="service-y", owner="deployer"))
    async with replica(cluster):
        await asyncio.sleep(5)
    assert list(cluster.machines["n1"].groups) == ["service-y"]


async def test_a_claim_whose_process_vanished_is_lost_and_tried_again(cluster: Cluster) -> None:
    cluster.programs["a.py"] = sleeping(30)
    async with replica(cluster) as client:
        run_id = await client.submit("a.py")
        await client.until(run_id, "Running")
    cluster.machines["n1"].groups.clear()
    async with replica(cluster) as client:
        shown = await client.ended(run_id)
    assert (shown["status"], shown["attempt"]) == ("Completed", 2)


# --- several nodes


async def test_a_lost_nodes_run_goes_on_elsewhere_and_its_zombie_is_refused() -> None:
    cluster = Cluster(shared=True)
    cluster.programs["a.py"] = sleeping(200)
    async with answering(cluster), AsyncExitStack() as stack:
        zombie = await stack.enter_async_context(replica(cluster, "n1"))
        run_id = await zombie.submit("a.py")
        await zombie.until(run_id, "Running")
        other = await stack.enter_async_context(replica(cluster, "n2"))
        third = await stack.enter_async_context(replica(cluster, ""))
        assert [node["id"] for node in (await third.get("/nodes"))["items"]] == ["n1", "n2"]
        [old] = list(zombie.runner.core.board.claims.values())
        # n1 stops renewing: its store takes no lease any more
        refusing = _Refusing()
        zombie.runner._membership._leases = refusing
        await asyncio.sleep(70)
        shown = await third.get(f"/runs/{run_id}")
        assert (shown["status"], shown["node"], shown["attempt"]) == ("Running", "n2", 2)
        assert cluster.machines["n1"].groups == {}
        assert old.fence < zombie.runner.core.board.claims[StreamId("run", "default", run_id)].fence
        shown = await other.ended(run_id)
        assert (shown["status"], shown["attempt"]) == ("Completed", 2)
        zombie.runner._membership._leases = cluster.leases
        await asyncio.sleep(60)
        nodes = (await third.get("/nodes"))["items"]
        assert [(node["status"], node["free_cpus"]) for node in nodes] == [("ready", 2.0), ("ready", 2.0)]


class _Refusing(MemoryLeases):
    async def put(self, lease: object) -> None:
        raise TimeoutError


async def test_replicas_of_services_get_gpus_until_they_end(client: Client, cluster: Cluster) -> None:
    subject = "service/default/iris"
    wanted = ReplicaRequested(revision=1, replica=1, resources=Resources(gpus=1))
    async with cluster.bus.tail([TOPICS["answers"]]) as answers:
        await cluster.publish(subject, wanted, f"{subject}/1#0", topic=TOPICS["service"])
        await cluster.publish(subject, wanted, f"{subject}/1#0", topic=TOPICS["service"])
        [first] = await answers.fetch()
        assert first.event is not None
        assert (first.event.name, first.event.data["gpus"]) == ("ReplicaAllocated", ["GPU-a"])
        other = wanted.model_copy(update={"revision": 2})
        await cluster.publish(subject, other, f"{subject}/2#0", topic=TOPICS["service"])
        [second] = await answers.fetch()
        assert second.event is not None
        assert (second.event.name, second.event.data["problem"]["code"]) == ("ReplicaRefused", "resources_busy")
    run_id = await client.submit(resources={"gpus": 1})
    await client.until(run_id, "Queued")
    await cluster.publish(subject, ServiceDeleted(), f"{subject}/3#0", topic=TOPICS["service"])
    assert (await client.ended(run_id))["status"] == "Completed"


async def test_many_runs_share_a_node_without_ever_overbooking_it(client: Client, cluster: Cluster) -> None:
    live = 0
    most = 0

    async def program(life: Life) -> int:
        nonlocal live, most
        life.begin()
        live += 1
        most = max(most, live)
        await asyncio.sleep(1)
        live -= 1
        return 0

    cluster.programs["a.py"] = program
    ids = [await client.submit("a.py") for _ in range(20)]
    for run_id in ids:
        assert (await client.ended(run_id))["status"] == "Completed"
    assert most == 2
