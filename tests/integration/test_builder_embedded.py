"""The builder as it runs on one machine: SQLite, files, uv, and a package index on loopback."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from cloche_builder.settings import BuilderSettings
from cloche_builder.wiring import BuilderService, build, embedded_ports
from cloche_shared.access import AccessTable
from cloche_shared.adapters.file_blobs import FileBlobStore
from cloche_shared.adapters.http_client import HttpClient
from cloche_shared.adapters.interpreters import Interpreters
from cloche_shared.adapters.local_node_files import LocalNodeFiles
from cloche_shared.adapters.memory_resolver import Package
from cloche_shared.adapters.sqlite import SqliteFile
from cloche_shared.adapters.system_clock import SystemClock
from cloche_shared.adapters.system_random import SystemRandom
from cloche_shared.contracts.definition import Definition, PipOptions, PythonSection
from cloche_shared.contracts.facts import RunPreparing
from cloche_shared.contracts.references import ResolvedEnvironment
from cloche_shared.journal.commit import Actor, Commit, Origin, written
from cloche_shared.lifecycle import Lifecycle
from cloche_shared.ports.journal import Document
from cloche_shared.service import Platform
from cloche_shared.store.hashing import definition_hash
from tests.environments.package_index import PackageIndex, running_index

PACKAGES = (
    Package("alpha", "1.0", requires=("beta",), files={"alpha.py": "one = 1\n"}),
    Package("beta", "1.5", files={"beta.py": ""}),
    Package("source", "1.0", only_source=True),
    Package("broken", "1.0", only_source=True, compiles=False),
)


@pytest.fixture
async def index() -> AsyncIterator[PackageIndex]:
    async with running_index(*PACKAGES) as index:
        yield index


class Machine:
    """A data folder, and what happens in it."""

    def __init__(self, folder: Path, index: PackageIndex) -> None:
        self.folder = folder
        self.index = index

    @asynccontextmanager
    async def running(self) -> AsyncIterator[tuple[BuilderService, SqliteFile]]:
        file = await SqliteFile.open(self.folder / "cloche.db")
        clock, http, interpreters = SystemClock(), HttpClient(), Interpreters()
        node = LocalNodeFiles(self.folder / "node", interpreters)
        settings = BuilderSettings(default_index=self.index.url, platform="linux-x86_64")
        platform = Platform(
            journal=file.journal("builder"),
            views=file.views("builder"),
            leases=file.leases("builder"),
            bus=file.bus(),
            blobs=FileBlobStore(self.folder / "blobs"),
            clock=clock,
            random=SystemRandom(),
            http=http,
            access=AccessTable(b"p" * 32, clock),
            installation="here",
            exclusive=True,
            relays=False,
        )
        own = embedded_ports(
            self.folder / "builder", settings, interpreters=interpreters, prove=node.prefix, warm=node.warm
        )
        service = build(platform, settings, own)
        try:
            async with Lifecycle() as life:
                await service.start(life)
                yield service, file
                assert not life.stopping, "a task died"
        finally:
            await node.close()
            await http.close()
            await file.close()

    def environment(self, *pip: str) -> ResolvedEnvironment:
        options = PipOptions(index_url=self.index.url)
        definition = Definition(python=PythonSection(pip=pip, pip_options=options))
        found = definition_hash(definition, platform="linux-x86_64")
        return ResolvedEnvironment(name="env", version="1", definition_hash=found, definition=definition)


async def prepare(file: SqliteFile, run: str, environment: ResolvedEnvironment) -> None:
    """Record what the runner would."""
    fact = RunPreparing(environment=environment)
    body = Commit(run, (fact,), Origin(Actor("key:1"), "chain"), "2026-01-01T00:00:00Z").body()
    await file.journal("runner").append_many(
        [Document(f"run/default/{run}/{1:012d}", body, "cloche.runs", f"run/default/{run}")]
    )


async def answer(file: SqliteFile, run: str) -> dict[str, object]:
    key = f"answers/default/run:default:{run}:{1:012d}#0"
    async with asyncio.timeout(60):
        while (document := await file.journal("builder").get(key)) is None:  # noqa: ASYNC110 - the journal tells nobody
            await asyncio.sleep(0.02)
    return dict(written(document).facts[0][1])


async def test_a_build_ends_with_a_prefix_that_is_ready(tmp_path: Path, index: PackageIndex) -> None:
    machine = Machine(tmp_path, index)
    async with machine.running() as (service, file):
        await prepare(file, "r1", machine.environment("alpha", "source"))
        provided = await answer(file, "r1")
        lock = await service.reader.lock(await service.reader.find(str(provided["build_id"]), "default"))
        async with asyncio.timeout(5):
            while list((tmp_path / "builder" / "logs").iterdir()):  # noqa: ASYNC110 - its end comes after the answer
                await asyncio.sleep(0.01)
    prefix = tmp_path / "node" / "prefixes" / str(provided["lock_digest"]).removeprefix("sha256:")
    assert [artefact.name for artefact in lock.artefacts] == ["alpha", "beta", "source"]
    assert (prefix / "bin" / "python").exists()


async def test_an_environment_without_packages_is_built_too(tmp_path: Path, index: PackageIndex) -> None:
    machine = Machine(tmp_path, index)
    async with machine.running() as (service, file):
        await prepare(file, "r1", machine.environment())
        provided = await answer(file, "r1")
        lock = await service.reader.lock(await service.reader.find(str(provided["build_id"]), "default"))
    assert lock.artefacts == ()


async def test_a_package_that_does_not_compile_fails_its_build_with_its_name(
    tmp_path: Path, index: PackageIndex
) -> None:
    machine = Machine(tmp_path, index)
    async with machine.running() as (service, file):
        await prepare(file, "r1", machine.environment("broken"))
        refused = await answer(file, "r1")
        found = await service.reader.find(str(refused["build_id"]), "default")
        log = b"".join([piece.data async for piece in service.reader.log(found)]).decode()
    problem = refused["problem"]
    assert isinstance(problem, dict)
    assert (problem["code"], problem["extra"]["package"]) == ("compile_error", "broken")
    assert "fatal error: nowhere.h" in log


async def test_a_build_that_a_stop_cut_off_goes_on_after_the_start(tmp_path: Path, index: PackageIndex) -> None:
    machine = Machine(tmp_path, index)
    async with machine.running() as (service, file):
        index.failing = 1
        await prepare(file, "r1", machine.environment("alpha"))
        async with asyncio.timeout(30):
            while not index.asked:  # noqa: ASYNC110 - nor does the index
                await asyncio.sleep(0.005)
    async with machine.running() as (service, file):
        provided = await answer(file, "r1")
        found = await service.reader.find(str(provided["build_id"]), "default")
        log = b"".join([piece.data async for piece in service.reader.log(found)]).decode()
    assert "attempt 2" in log
    assert provided["lock_digest"]


async def test_a_second_run_is_answered_from_what_is_there(tmp_path: Path, index: PackageIndex) -> None:
    machine = Machine(tmp_path, index)
    loop = asyncio.get_running_loop()
    async with machine.running() as (_, file):
        await prepare(file, "r1", machine.environment("alpha"))
        first = await answer(file, "r1")
        asked, began = len(index.asked), loop.time()
        await prepare(file, "r2", machine.environment("alpha"))
        second = await answer(file, "r2")
    assert loop.time() - began < 1
    assert (second["lock_digest"], second["reused"]) == (first["lock_digest"], True)
    assert len(index.asked) == asked
