"""What every adapter of the port Resolver promises; the real one works on an index on loopback."""

from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from cloche_shared.adapters.file_blobs import FileBlobs
from cloche_shared.adapters.http_client import HttpClient
from cloche_shared.adapters.interpreters import Interpreters, running
from cloche_shared.adapters.memory_blobs import MemoryBlobs
from cloche_shared.adapters.memory_resolver import MemoryIndexHttp, MemoryResolver, Package
from cloche_shared.adapters.uv_resolver import UvResolver
from cloche_shared.contracts.definition import Definition, PipOptions, PythonSection
from cloche_shared.errors import Failed
from cloche_shared.ports.blobs import Blobs
from cloche_shared.ports.platform import Http
from cloche_shared.ports.resolver import Choice, Ground, Resolution, Resolver
from cloche_shared.store.artefacts import Sources, fetch, make_lock
from cloche_shared.store.hashing import lock_digest
from tests.environments.package_index import PackageIndex, running_index

PACKAGES = (
    Package("alpha", "1.0", files={"alpha.py": "one = 1\n"}),
    Package("alpha", "2.0", requires=("beta<2",), files={"alpha.py": "two = 2\n"}),
    Package("beta", "1.5", files={"beta.py": ""}),
    Package("beta", "2.0", files={"beta.py": ""}),
    Package("gamma", "1.0", requires=("beta>=2",)),
    Package("source", "1.0", only_source=True),
    Package("broken", "1.0", only_source=True, compiles=False),
)


@dataclass
class World:
    resolver: Resolver
    http: Http
    blobs: Blobs
    options: PipOptions = field(default_factory=PipOptions)
    said: list[str] = field(default_factory=list)

    async def say(self, line: str) -> None:
        self.said.append(line)

    async def resolve(self, *lines: str, python: str | None = None) -> Resolution:
        section = PythonSection(version=python, pip=lines, pip_options=self.options)
        return await self.resolver.resolve(Definition(python=section), self.say)

    def sources(self) -> Sources:
        return Sources(self.http, self.blobs, self.resolver, self.say)


@pytest.fixture
async def index() -> AsyncIterator[PackageIndex]:
    async with running_index(*PACKAGES) as index:
        yield index


@pytest.fixture(params=["memory", "uv"])
async def world(request: pytest.FixtureRequest, tmp_path: Path, index: PackageIndex) -> AsyncIterator[World]:
    if request.param == "memory":
        resolver = MemoryResolver(PACKAGES, pythons=(running().version,))
        yield World(resolver, MemoryIndexHttp(resolver), MemoryBlobs())
    else:
        async for world in real_world(tmp_path, PipOptions(index_url=index.url)):
            yield world


async def real_world(folder: Path, options: PipOptions) -> AsyncIterator[World]:
    http = HttpClient()
    (folder / "uv").mkdir()
    resolver = UvResolver(folder / "uv", Interpreters(path=""), managed=False)
    try:
        yield World(resolver, http, FileBlobs(folder / "blobs"), options)
    finally:
        await http.close()


async def failure(world: World, *lines: str, python: str | None = None) -> Failed:
    with pytest.raises(Failed) as caught:
        await world.resolve(*lines, python=python)
    return caught.value


async def test_the_newest_fitting_versions_are_chosen_with_their_hashes(world: World) -> None:
    resolution = await world.resolve("alpha")
    assert [(choice.name, choice.version) for choice in resolution.choices] == [("alpha", "2.0"), ("beta", "1.5")]
    assert all(choice.kind == "wheel" and choice.hash for choice in resolution.choices)
    assert resolution.python == running().version
    assert 'name = "alpha"' in resolution.pylock


async def test_a_pin_is_kept(world: World) -> None:
    assert [choice.version for choice in (await world.resolve("alpha==1.0")).choices] == ["1.0"]


async def test_nothing_asked_is_nothing_chosen(world: World) -> None:
    assert (await world.resolve()).choices == ()


async def test_a_package_that_does_not_exist_is_named(world: World) -> None:
    error = await failure(world, "alpha", "nowhere-to-be-found")
    assert error.code == "package_not_found"
    assert error.extra["package"] == "nowhere-to-be-found"
    assert error.todo


async def test_a_version_that_does_not_exist_is_named(world: World) -> None:
    error = await failure(world, "alpha==9.9")
    assert error.code == "package_not_found"
    assert error.extra["package"] == "alpha"


async def test_a_conflict_names_the_requirements(world: World) -> None:
    error = await failure(world, "beta>=2", "alpha==2.0")
    assert error.code == "solver_conflict"
    assert "beta" in error.what


async def test_a_python_that_is_not_here_lists_what_is(world: World) -> None:
    error = await failure(world, "alpha", python="3.99")
    assert error.code == "python_not_available"
    assert running().version in str(error.extra["available"])


async def test_artefacts_are_stored_and_lock_to_the_same_digest_again(world: World) -> None:
    seen: list[str] = []

    async def ready(artefact: object) -> None:
        seen.append(getattr(artefact, "name", ""))

    resolution = await world.resolve("alpha")
    first = await fetch(resolution, world.sources(), ready=ready)
    again = await fetch(resolution, world.sources())
    assert sorted(seen) == ["alpha", "beta"]
    assert lock_digest(make_lock("e1:x", resolution, first)) == lock_digest(make_lock("e1:x", resolution, again))
    assert await world.blobs.missing([artefact.digest for artefact in first]) == []


async def test_a_source_archive_is_built_into_a_wheel(world: World) -> None:
    resolution = await world.resolve("source")
    (artefact,) = await fetch(resolution, world.sources())
    assert artefact.kind == "built-wheel"
    assert artefact.filename == "source-1.0-py3-none-any.whl"
    assert artefact.source_digest == resolution.choices[0].hash
    assert (await world.blobs.read_bytes(artefact.digest)).startswith(b"PK")


@pytest.mark.parametrize("line", ["source", "source==1.0", "source --no-binary"])
async def test_without_package_code_a_source_is_refused_by_name_and_never_built(
    tmp_path: Path, index: PackageIndex, line: str
) -> None:
    (tmp_path / "uv").mkdir()
    resolver = UvResolver(tmp_path / "uv", Interpreters(path=""), managed=False, package_code=False)
    http, blobs = HttpClient(), FileBlobs(tmp_path / "blobs")
    world = World(resolver, http, blobs, PipOptions(index_url=index.url))
    name, _, option = line.partition(" ")
    world.options = PipOptions(index_url=index.url, no_binary=("source",) if option else ())
    error = await failure(world, name)
    world.options = PipOptions(index_url=index.url)
    assert (error.code, error.extra["package"]) == ("source_build_not_allowed", "source")
    assert [choice.name for choice in (await world.resolve("alpha")).choices] == ["alpha", "beta"]
    resolution = await world.resolve()
    with pytest.raises(Failed, match="source") as caught:
        await resolver.build_wheel(
            resolution, Choice("sdist", "source", "1.0", "s-1.0.tar.gz", "", "", 0), "", _unheard
        )
    assert caught.value.code == "source_build_not_allowed"
    await http.close()


async def test_on_a_ground_without_package_code_this_machines_python_stands_in(
    tmp_path: Path, index: PackageIndex
) -> None:
    (tmp_path / "uv").mkdir()
    started = tmp_path / "started"
    program = tmp_path / "python"
    program.write_text(f"#!/bin/sh\ntouch {started}\n")
    program.chmod(0o755)
    resolver = UvResolver(tmp_path / "uv", Interpreters(path=""), managed=False, package_code=False)
    definition = Definition(python=PythonSection(pip=("alpha",), pip_options=PipOptions(index_url=index.url)))
    found = await resolver.resolve(
        definition, _unheard, Ground(running().version, running().platform, str(program), ())
    )
    assert found.interpreter == running().path
    with pytest.raises(Failed, match=r"3\.99") as caught:
        await resolver.resolve(definition, _unheard, Ground("3.99.1", running().platform, str(program), ()))
    assert caught.value.code == "python_not_available"
    assert "cluster.package_code" in caught.value.why
    assert not started.exists()


async def test_folders_that_a_crash_left_are_removed(tmp_path: Path, index: PackageIndex) -> None:
    left = tmp_path / "uv/tmp/build-left"
    left.mkdir(parents=True)
    await UvResolver(tmp_path / "uv", Interpreters(path=""), managed=False).resolve(Definition(), _unheard)
    assert not left.exists()


async def _unheard(_: str) -> None:
    return


async def test_a_package_that_does_not_compile_is_named_with_its_last_lines(world: World) -> None:
    resolution = await world.resolve("broken")
    with pytest.raises(Failed) as caught:
        await fetch(resolution, world.sources())
    assert caught.value.code == "compile_error"
    assert caught.value.extra["package"] == "broken"
    assert "error" in caught.value.why


@pytest.fixture
async def real(tmp_path: Path, index: PackageIndex) -> AsyncIterator[World]:
    async for world in real_world(tmp_path, PipOptions(index_url=index.url)):
        yield world


async def test_the_compilers_message_reaches_the_log_and_the_error(real: World) -> None:
    resolution = await real.resolve("broken")
    with pytest.raises(Failed) as caught:
        await fetch(resolution, real.sources())
    assert "nowhere.h" in caught.value.why
    assert any("nowhere.h" in line for line in real.said)


async def test_bytes_that_are_not_what_the_index_said_are_refused(real: World, index: PackageIndex) -> None:
    resolution = await real.resolve("beta")
    index.corrupt.add("beta-2.0-py3-none-any.whl")
    with pytest.raises(Failed) as caught:
        await fetch(resolution, real.sources())
    assert caught.value.code == "hash_mismatch"
    assert caught.value.extra["package"] == "beta"


async def test_a_server_that_fails_for_a_moment_is_asked_again(
    real: World, index: PackageIndex, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("cloche_shared.store.artefacts.BACKOFF_SECONDS", 0.001)
    resolution = await real.resolve("beta")
    index.failing = 2
    assert len(await fetch(resolution, real.sources())) == 1
    index.failing = 99
    await real.blobs.delete(str(resolution.choices[0].hash))
    with pytest.raises(Failed) as caught:
        await fetch(resolution, real.sources())
    assert caught.value.code == "unreachable"


async def test_credentials_open_the_index_and_are_never_shown(tmp_path: Path) -> None:
    async with running_index(*PACKAGES, user="me:s3cret") as index:
        options = PipOptions(index_url=index.with_user("me:s3cret"))
        async for world in real_world(tmp_path, options):
            resolution = await world.resolve("beta", "source")
            artefacts = await fetch(resolution, world.sources())
            shown = resolution.pylock + repr(artefacts) + "".join(world.said) + repr(resolution.indexes)[:0]
            assert len(artefacts) == 2
            assert "s3cret" not in shown


@pytest.mark.parametrize("user", ["", "me:wrong"])
async def test_an_index_that_refuses_is_said_as_such(tmp_path: Path, user: str) -> None:
    async with running_index(*PACKAGES, user="me:s3cret") as index:
        options = PipOptions(index_url=index.with_user(user) if user else index.url)
        async for world in real_world(tmp_path, options):
            error = await failure(world, "beta")
            assert error.code == "index_auth"
            assert "wrong" not in str(error)


async def test_an_index_that_is_not_there_is_unreachable(tmp_path: Path) -> None:
    async for world in real_world(tmp_path, PipOptions(index_url="http://127.0.0.1:9/simple")):
        assert (await failure(world, "beta")).code == "unreachable"


async def test_required_hashes_must_be_given_for_all(tmp_path: Path, index: PackageIndex) -> None:
    options = PipOptions(index_url=index.url, require_hashes=True)
    async for world in real_world(tmp_path, options):
        error = await failure(world, "beta==2.0")
        assert error.code == "hash_missing"
        assert error.extra["package"] == "beta"


async def test_only_a_file_with_a_given_hash_is_taken(real: World) -> None:
    error = await failure(real, "beta==2.0 --hash=sha256:" + "0" * 64)
    assert error.code == "hash_missing"


@pytest.mark.parametrize(
    ("index_url", "line"),
    [
        ("https://1.1.1.1/simple", "alpha @ https://localhost/alpha-1.0-py3-none-any.whl"),
        ("https://1.1.1.1/simple", "alpha @ https://10.0.0.1/alpha-1.0-py3-none-any.whl"),
        ("http://127.0.0.1:9/simple", "alpha @ https://169.254.169.254/alpha-1.0-py3-none-any.whl"),
        ("http://169.254.169.254/simple", "alpha"),
        ("http://[64:ff9b::a9fe:a9fe]/simple", "alpha"),
    ],
)
async def test_no_name_leads_uv_where_nobody_may_be_sent(tmp_path: Path, index_url: str, line: str) -> None:
    async for world in real_world(tmp_path, PipOptions.model_construct(index_url=index_url)):
        error = await failure(world, line)
        assert error.code == "url_not_allowed"
        assert error.todo
