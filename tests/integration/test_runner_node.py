"""The runner on this machine: real processes, files and SQLite, with an environment of the bare interpreter."""

import asyncio
import platform as machine
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from cloche_runner.domain.runs import Run
from cloche_runner.handlers import Submission
from cloche_runner.settings import RunnerSettings
from cloche_runner.wiring import Runner, build, local_node
from cloche_shared.access import AccessTable
from cloche_shared.adapters.devices import MemoryDevices
from cloche_shared.adapters.file_blobs import FileBlobStore
from cloche_shared.adapters.http_client import HttpClient
from cloche_shared.adapters.local_executor import LocalExecutor
from cloche_shared.adapters.local_node_files import LocalNodeFiles
from cloche_shared.adapters.socket_executor import SocketExecutor
from cloche_shared.adapters.sqlite import SqliteFile
from cloche_shared.adapters.system_clock import SystemClock
from cloche_shared.adapters.system_random import SystemRandom
from cloche_shared.contracts.definition import Definition, Lock
from cloche_shared.contracts.envelope import Event
from cloche_shared.contracts.fact import Fact
from cloche_shared.contracts.facts import TOPICS, ImageProvided, ReferencesResolved
from cloche_shared.contracts.files import FileEntry, Manifest
from cloche_shared.contracts.references import References, ResolvedEnvironment
from cloche_shared.contracts.runs import RunSpec
from cloche_shared.journal.commit import Actor, Origin, StreamId
from cloche_shared.journal.writer import Writer
from cloche_shared.lifecycle import Lifecycle
from cloche_shared.ports.devices import Offer
from cloche_shared.service import Platform
from cloche_shared.store.hashing import lock_bytes, lock_digest, manifest_bytes

LOCK = Lock(
    definition_hash="e1:" + "0" * 64,
    python=machine.python_version(),
    platform="linux-x86_64",
    artefacts=(),
    pylock="",
)
RESOLVED = ResolvedEnvironment(
    name="bare", version="1", definition_hash=LOCK.definition_hash, definition=Definition(variables={"COLOUR": "red"})
)


class Installation:
    """A data folder, and the answers of the registry and the builder written into their journals."""

    def __init__(self, home: Path) -> None:
        self.home = home
        self.blobs = FileBlobStore(home / "blobs")
        self.clock, self.random = SystemClock(), SystemRandom()

    async def snapshot(self, source: str) -> str:
        space = self.blobs.space("runner", "default")
        blob = await space.put_bytes(source.encode())
        manifest = Manifest(files=(FileEntry(path="main.py", digest=blob.digest, size=blob.size),))
        return (await space.put_bytes(manifest_bytes(manifest))).digest

    def platform(self, file: SqliteFile) -> Platform:
        return Platform(
            journal=file.journal("runner"),
            views=file.views("runner"),
            leases=file.leases("runner"),
            bus=file.bus(),
            blobs=self.blobs,
            clock=self.clock,
            random=self.random,
            http=HttpClient(),
            access=AccessTable(b"p" * 32, self.clock),
            installation="here",
            exclusive=True,
            relays=False,
        )

    async def answer(self, file: SqliteFile) -> None:
        """Answer as the registry and the builder do."""
        writers = {name: Writer(file.journal(name), self.clock, self.random) for name in ("registry", "builder")}
        async with file.bus().tail([TOPICS["run"]]) as runs:
            while True:
                for delivery in await runs.fetch():
                    if delivery.event is not None and delivery.event.name in _ANSWERS:
                        name, fact = _ANSWERS[delivery.event.name]
                        await writers[name].reply("default", _origin(delivery.event, name), fact)

    def executor(self) -> LocalExecutor | SocketExecutor:
        """Return what holds the processes."""
        return LocalExecutor(self.home / "supervised")

    @asynccontextmanager
    async def up(self) -> AsyncIterator["Client"]:
        """Run the service; leaving is like a stop: processes go on."""
        await self.blobs.space("builder", "public").put_bytes(lock_bytes(LOCK))
        file = await SqliteFile.open(self.home / "cloche.db")
        executor = self.executor()
        files = LocalNodeFiles(self.home / "node")
        node = local_node(self.home / "node", executor, files, MemoryDevices(Offer(cpus=2.0, memory=2**32)))
        runner = build(self.platform(file), RunnerSettings(node="n1"), node)
        answers = asyncio.create_task(self.answer(file))
        try:
            async with Lifecycle() as life:
                await runner.start(life)
                yield Client(self, runner)
                life.stop()
        finally:
            answers.cancel()
            await asyncio.gather(answers, return_exceptions=True)
            await files.close()
            await executor.close()
            await file.close()


_ANSWERS: dict[str, tuple[str, Fact]] = {
    "RunSubmitted": ("registry", ReferencesResolved(environment=RESOLVED)),
    "RunPreparing": (
        "builder",
        ImageProvided(
            definition_hash=LOCK.definition_hash,
            lock_digest=lock_digest(LOCK),
            scope="public",
            target="process",
            image="cloche/x",
            reused=True,
        ),
    ),
}


def _origin(event: Event, service: str) -> Origin:
    return Origin.of_event(event, service, asks=True)


class Client:
    """Submits and looks."""

    def __init__(self, installation: Installation, runner: Runner) -> None:
        self.installation = installation
        self.runner = runner

    async def submit(self, source: str, **more: object) -> str:
        return await self.submit_snapshot(await self.installation.snapshot(source), **more)

    async def submit_snapshot(self, snapshot: str, **more: object) -> str:
        spec = RunSpec.model_validate({"script": "main.py", "snapshot": snapshot, **more}, strict=False)
        submission = Submission(Origin(Actor("key:test"), "chain"))
        return (await self.runner.commands.submit("default", spec, References(), submission)).stream.id

    async def ended(self, run_id: str) -> Run:
        return (await self.runner.reading.ended("default", run_id, 30)).state

    async def log(self, run_id: str, *, follow: bool = False) -> str:
        stream = StreamId("run", "default", run_id)
        return b"".join([chunk.data async for chunk in self.runner.reading.log(stream, 0, follow=follow)]).decode()

    async def until_log(self, run_id: str, text: str) -> None:
        stream = StreamId("run", "default", run_id)
        seen = ""
        async for chunk in self.runner.reading.log(stream, 0, follow=True):
            seen += chunk.data.decode()
            if text in seen:
                return


@pytest.fixture
def installation(tmp_path: Path) -> Installation:
    return Installation(tmp_path)


TRAIN = """
import os, sys
from cloche.core import Run
run = Run.get_context()
run.log("loss", 0.5)
run.tag("stage", "late")
os.makedirs("outputs")
open("outputs/model.pkl", "w").write("model")
open("/dev/null").close()
run.upload_file("outputs/extra.txt", __file__)
print(sys.argv[1:], os.environ["COLOUR"], os.environ["SIZE"], os.environ["CUDA_VISIBLE_DEVICES"] == "")
"""


async def test_a_script_logs_metrics_and_leaves_outputs(installation: Installation) -> None:
    async with installation.up() as client:
        run_id = await client.submit(TRAIN, arguments=["--fast"], variables={"SIZE": "9"})
        assert "['--fast'] red 9 True" in await client.log(run_id, follow=True)
        run = await client.ended(run_id)
        assert run.phase == "completed", run.problem
        manifest = await client.runner.reading.outputs("default", run)
        assert [entry.path for entry in manifest.files] == ["outputs/extra.txt", "outputs/model.pkl"]
        assert run.measures.metrics["loss"].last == 0.5
        assert run.measures.tags == {"stage": "late"}
        await asyncio.sleep(0.2)
    assert not any((installation.home / "supervised").glob("run-*"))
    assert not any((installation.home / "node" / "work").glob("run-*"))
    assert not any((installation.home / "node" / "attempts").glob("run-*"))


@pytest.mark.parametrize(
    ("source", "code", "part"),
    [
        ("raise SystemExit(3)", "user_code_failed", "exit code 3"),
        ("1 +", "user_code_failed", "SyntaxError"),
        ("import os; os.kill(os.getpid(), 11)", "killed_by_signal", "SIGSEGV"),
        ("import time; time.sleep(60)", "deadline_exceeded", "0.5 s"),
        ("x = bytearray(b'x' * 2**28); import time; time.sleep(60)", "out_of_memory", "64 MiB"),
    ],
)
async def test_a_bad_end_is_named(installation: Installation, source: str, code: str, part: str) -> None:
    more = {"deadline": 0.5} if code == "deadline_exceeded" else {}
    async with installation.up() as client:
        resources = {"memory": 2**26}
        run = await client.ended(await client.submit(source, resources=resources, grace=0.5, **more))
    assert run.problem is not None
    assert (run.phase, run.problem.code) == ("failed", code)
    assert part in run.problem.message


SLOW = """
import time
print("begun")
for number in range(15):
    time.sleep(0.1)
    print(number)
"""


async def test_a_running_script_is_adopted_with_its_whole_log(installation: Installation) -> None:
    async with installation.up() as client:
        run_id = await client.submit(SLOW)
        await client.until_log(run_id, "begun")
    async with installation.up() as client:
        log = await client.log(run_id, follow=True)
        run = await client.ended(run_id)
    assert (run.phase, run.attempt) == ("completed", 1)
    assert log.split() == ["begun", *map(str, range(15))]


async def test_a_script_that_ended_while_nobody_looked_is_finalized(installation: Installation) -> None:
    async with installation.up() as client:
        run_id = await client.submit(SLOW)
        await client.until_log(run_id, "begun")
    await asyncio.sleep(2.5)
    async with installation.up() as client:
        run = await client.ended(run_id)
        assert (await client.log(run_id)).split() == ["begun", *map(str, range(15))]
    assert (run.phase, run.attempt) == ("completed", 1)


async def test_a_cancel_ends_the_whole_group(installation: Installation) -> None:
    source = "import subprocess, sys, time; print('begun'); subprocess.run([sys.executable, '-c', 'while True: pass'])"
    async with installation.up() as client:
        run_id = await client.submit(source, grace=0.5)
        await client.until_log(run_id, "begun")
        await client.runner.commands.cancel("default", run_id, Submission(Origin(Actor("key:test"), "chain")))
        run = await client.ended(run_id)
    assert run.phase == "canceled"
