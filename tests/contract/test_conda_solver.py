"""What the solver of conda packages promises, on a real channel that is made on the spot."""

from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest
import pytest_asyncio

pytest.importorskip("rattler")

from cloche_shared.adapters.conda.process import CondaWorkers
from cloche_shared.adapters.conda.solver import RattlerSolver
from cloche_shared.errors import Failed
from cloche_shared.ports.conda import CondaRecord, CondaSolver, CondaWish
from tests.environments.conda_channel import PACKAGES, SUBDIR, CondaPackage, CondaServer, make_channel, running_channel

pytestmark = pytest.mark.asyncio(loop_scope="module")


@dataclass
class World:
    solver: CondaSolver
    channels: tuple[str, ...]
    root: Path
    said: list[str] = field(default_factory=list)

    async def say(self, line: str) -> None:
        self.said.append(line)

    async def solve(self, *specs: str, channels: tuple[str, ...] = (), subdir: str = SUBDIR) -> tuple[CondaRecord, ...]:
        virtual = ("__unix=0=0", "__linux=6.1=0", "__glibc=2.36=0") if subdir.startswith("linux") else ("__win=0=0",)
        return await self.solver.solve(CondaWish(specs, channels or self.channels, subdir, virtual), self.say)

    async def failure(self, *specs: str, channels: tuple[str, ...] = (), subdir: str = SUBDIR) -> Failed:
        with pytest.raises(Failed) as caught:
            await self.solve(*specs, channels=channels, subdir=subdir)
        return caught.value


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("channels")


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def solver(folder: Path) -> AsyncIterator[CondaSolver]:
    await make_channel(folder / "main", *PACKAGES)
    workers = CondaWorkers(folder / "conda", 1)
    yield RattlerSolver(workers, file_roots=[folder.parent])
    await workers.close()


@pytest_asyncio.fixture(loop_scope="module")
async def world(folder: Path, solver: CondaSolver) -> World:
    return World(solver, (f"file://{folder / 'main'}",), folder / "main")


@pytest_asyncio.fixture(loop_scope="module")
async def server(world: World) -> AsyncIterator[CondaServer]:
    async with running_channel(world.root, "me:secret") as server:
        yield server


def chosen(records: tuple[CondaRecord, ...]) -> dict[str, str]:
    return {record.name: record.version for record in records}


async def test_the_newest_versions_that_go_together_are_chosen(world: World) -> None:
    records = await world.solve("alpha")

    assert chosen(records) == {"alpha": "2.0", "beta": "1.5"}
    assert all(record.sha256 is not None and record.size for record in records)
    assert world.said == [f"Chose 2 conda packages for {SUBDIR}"]


async def test_a_conflict_names_the_packages_that_clash(world: World) -> None:
    failed = await world.failure("alpha >=2", "gamma", "scripted")

    assert failed.code == "solver_conflict"
    assert failed.extra["requirements"] == ["alpha >=2", "gamma"]
    assert "beta <2" in failed.why


async def test_a_clash_below_what_was_asked_is_named_too(world: World) -> None:
    world.channels += (await _python_alone(world),)

    failed = await world.failure("numlike >=2", "learner")

    assert failed.code == "solver_conflict"
    assert failed.extra["requirements"] == ["numlike >=2", "learner"]


async def _python_alone(world: World) -> str:
    root = world.root.parent / "python"
    if not root.exists():
        await make_channel(root, CondaPackage("python", "3.11.7", noarch=""))
    return f"file://{root}"


@pytest.mark.parametrize(
    ("spec", "named"), [("nowhere", "nowhere"), ("alpha 7.*", "alpha"), ("Alpha=1.0=py36_1", "alpha")]
)
async def test_what_no_channel_has_is_named(world: World, spec: str, named: str) -> None:
    failed = await world.failure("beta", spec)

    assert (failed.code, failed.extra["package"]) == ("package_not_found", named)


async def test_a_pin_from_another_system_is_told_as_such(world: World) -> None:
    failed = await world.failure("vs2015_runtime")

    assert (failed.code, failed.extra["package"]) == ("wrong_platform", "vs2015_runtime")


async def test_a_channel_without_python_says_so(world: World) -> None:
    assert (await world.failure("python 3.11.*")).code == "python_not_available"


@pytest.mark.parametrize(
    "spec",
    ["alpha[url=http://127.0.0.1/x.conda]", "http://127.0.0.1/x-1-0.conda", "../x.conda", "-e ."],
)
async def test_a_spec_that_is_none_is_told(world: World, spec: str) -> None:
    failed = await world.failure(spec)

    assert failed.code == "invalid_conda_spec"
    assert spec in failed.why


async def test_a_package_comes_from_the_first_channel_that_has_it(world: World, tmp_path: Path) -> None:
    first = await make_channel(tmp_path / "first", CondaPackage("alpha", "0.5", {"share/alpha.txt": b"old"}))
    channels = (f"file://{first}", *world.channels)

    assert chosen(await world.solve("alpha", "beta", channels=channels)) == {"alpha": "0.5", "beta": "2.0"}
    failed = await world.failure("alpha >=1", channels=channels)
    assert (failed.code, failed.extra["requirements"]) == ("solver_conflict", ["alpha >=1"])


async def test_what_others_need_comes_from_the_first_channel_or_not_at_all(world: World, tmp_path: Path) -> None:
    first = await make_channel(tmp_path / "first", CondaPackage("beta", "9.0", {"share/beta.txt": b"nine"}))
    records = await world.solve("alpha", channels=(f"file://{first}", *world.channels))

    assert chosen(records) == {"alpha": "1.0"}


async def test_credentials_open_a_channel_and_stay_in_addresses_of_files(world: World, server: CondaServer) -> None:
    records = await world.solve("alpha", channels=(server.with_user("me:secret"),))

    assert all(record.channel == server.url for record in records)
    assert all("me:secret@" in record.url for record in records)


@pytest.mark.parametrize("user", ["", "me:wrong"])
async def test_a_channel_that_refuses_is_told_without_the_secret(world: World, server: CondaServer, user: str) -> None:
    failed = await world.failure("alpha", channels=(server.with_user(user) if user else server.url,))

    assert failed.code == "index_auth"
    assert "wrong" not in f"{failed.what}{failed.why}{failed.todo}"


async def test_a_channel_that_is_not_there_is_told(world: World, server: CondaServer) -> None:
    address = server.with_user("me:secret").replace("/channel", "/other")
    failed = await world.failure("alpha", channels=(address,))

    assert failed.code == "channel_not_found"
    assert "secret" not in f"{failed.what}{failed.why}"


async def test_a_channel_that_nobody_serves_is_unreachable(world: World) -> None:
    assert (await world.failure("alpha", channels=("http://127.0.0.1:9/channel",))).code == "unreachable"


async def test_folders_are_channels_only_where_that_is_allowed(world: World, tmp_path: Path) -> None:
    closed = RattlerSolver(CondaWorkers(tmp_path / "closed", 1))

    with pytest.raises(Failed) as caught:
        await closed.solve(CondaWish(("alpha",), world.channels, SUBDIR), world.say)
    assert caught.value.code == "url_not_allowed"


async def test_a_solution_that_takes_too_long_is_given_up(world: World, tmp_path: Path) -> None:
    workers = CondaWorkers(tmp_path / "slow", 1)
    slow = RattlerSolver(workers, file_roots=[world.root], solve_seconds=0.001)

    with pytest.raises(Failed) as caught:
        await slow.solve(CondaWish(("alpha",), world.channels, SUBDIR), world.say)
    assert caught.value.code == "build_timeout"
    await workers.close()
