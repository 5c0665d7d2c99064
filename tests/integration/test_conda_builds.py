"""Builds of definitions with conda packages: conda first, pip to fit it, one lock of both."""

from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest
import pytest_asyncio

pytest.importorskip("rattler")

from cloche_builder.conda import CondaTools
from cloche_builder.workshop import Job, Made, Tools, Workshop
from cloche_shared.adapters.file_blobs import FileBlobStore
from cloche_shared.adapters.memory_resolver import Package, wheel_bytes
from cloche_shared.contracts.definition import CondaSection, Definition, Lock, PipOptions, PythonSection, WheelRef
from cloche_shared.errors import Failed
from cloche_shared.ports.blobs import Blobs
from cloche_shared.store.packages import package_changes, packages_of, read_packages
from tests.environments.conda_channel import (
    MINOR,
    PACKAGES,
    PYTHON,
    CondaServer,
    make_channel,
    python_package,
    running_channel,
)
from tests.environments.package_index import PackageIndex, running_index
from tests.integration.conda_world import VIRTUAL, CondaWorld, output

pytestmark = [pytest.mark.asyncio(loop_scope="module"), pytest.mark.timeout(120)]

WHEELS = (
    Package("on-top", "1.0", requires=("numlike>=1", "small"), files={"on_top.py": "import numlike, small\n"}),
    Package("small", "1.0", files={"small.py": ""}),
    Package("modern", "1.0", requires=("numlike>=2",)),
    Package("numlike", "1.26.4", files={"numlike.py": "version = 'of pip'\n"}),
    Package("numlike", "2.0.0", files={"numlike.py": "version = 'of pip'\n"}),
    Package("source", "1.0", only_source=True),
)


@dataclass
class Shop:
    """A builder's workshop on this machine."""

    world: CondaWorld
    server: CondaServer
    index: PackageIndex
    blobs: Blobs
    workshop: Workshop
    said: list[str] = field(default_factory=list)

    async def say(self, line: str) -> None:
        self.said.append(line)

    def definition(self, *conda: str, pip: tuple[str, ...] = (), python: str | None = MINOR) -> Definition:
        section = CondaSection(packages=conda, channels=(self.server.url,))
        options = PipOptions(index_url=self.index.url)
        return Definition(python=PythonSection(version=python, conda=section, pip=pip, pip_options=options))

    async def make(self, definition: Definition, lock_digest: str = "") -> Made:
        return await self.workshop.make(Job("default", "e1:" + "0" * 64, definition, lock_digest), self.say)

    async def build(self, *conda: str, pip: tuple[str, ...] = (), python: str | None = MINOR) -> Lock:
        made = await self.make(self.definition(*conda, pip=pip, python=python))
        return await self.lock(made.lock_digest)

    async def lock(self, digest: str) -> Lock:
        return Lock.model_validate_json(await self.blobs.read_bytes(digest))

    async def failure(self, *conda: str, pip: tuple[str, ...] = (), python: str | None = MINOR) -> Failed:
        with pytest.raises(Failed) as caught:
            await self.build(*conda, pip=pip, python=python)
        return caught.value


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def shop(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Shop]:
    folder = tmp_path_factory.mktemp("conda")
    root = await make_channel(folder / "channel", *PACKAGES, python_package())
    world, store = CondaWorld(folder, root), FileBlobStore(folder / "blobs")
    async with running_channel(root) as server, running_index(*WHEELS) as index:
        conda = CondaTools(world.solver, "linux-x86_64", VIRTUAL)
        workshop = Workshop(Tools(world.uv, world.http, store, prove=world.node.prefix, conda=conda))
        yield Shop(world, server, index, store.space("builder", "default"), workshop)
        await world.close()


def names(lock: Lock) -> list[tuple[str, str, str]]:
    return [(artefact.kind, artefact.name, artefact.version) for artefact in lock.artefacts]


async def test_conda_packages_make_an_environment_without_pip(shop: Shop) -> None:
    lock = await shop.build("learner")

    assert names(lock) == [("conda", "learner", "1.0"), ("conda", "numlike", "1.26.4"), ("conda", "python", PYTHON)]
    assert (lock.python, lock.platform, lock.pylock) == (PYTHON, "linux-x86_64", "")
    assert not await shop.blobs.missing([artefact.digest for artefact in lock.artefacts])


async def test_pip_packages_fit_what_conda_chose_and_leave_it_in_place(shop: Shop) -> None:
    lock = await shop.build("learner", pip=("on-top",))
    prefix = await shop.world.node.prefix("sha256:" + "2" * 64, lock, shop.blobs)

    assert names(lock)[3:] == [("wheel", "on-top", "1.0"), ("wheel", "small", "1.0")]
    assert "numlike" not in lock.pylock
    assert await output(prefix.python, "-c", "import on_top, numlike; print(numlike.version)") == "1.26.4"


@pytest.mark.parametrize("wanted", ["modern", "numlike==2.0.0", "numlike >=2"])
async def test_a_pip_package_never_replaces_what_conda_chose(shop: Shop, wanted: str) -> None:
    failed = await shop.failure("numlike <2", pip=(wanted,))

    assert (failed.code, failed.extra["package"]) == ("solver_conflict", "numlike")
    assert "1.26.4 that conda chose" in failed.what


async def test_what_pip_asks_for_and_conda_has_comes_from_conda_alone(shop: Shop) -> None:
    lock = await shop.build("numlike <2", pip=("numlike",))

    assert [kind for kind, name, _ in names(lock) if name == "numlike"] == ["conda"]


async def test_a_source_package_is_built_by_condas_own_python(shop: Shop) -> None:
    lock = await shop.build("alpha", pip=("source",))

    assert names(lock)[-1] == ("built-wheel", "source", "1.0")


async def test_the_lock_of_both_is_one_that_others_read(shop: Shop, tmp_path: Path) -> None:
    import rattler  # noqa: PLC0415 - large: loaded where it is needed

    lock = await shop.build("learner", pip=("on-top",))
    path = tmp_path / "pixi.lock"
    path.write_text(lock.pixi_lock)
    environment = rattler.LockFile.from_path(path).default_environment()

    assert environment is not None
    ((_, packages),) = environment.packages_by_platform().items()
    assert sorted(package.name for package in packages) == ["learner", "numlike", "on-top", "python", "small"]
    assert [str(channel) for channel in environment.channels()] == [f"{shop.server.url}/"]


async def test_a_range_of_python_among_the_packages_is_asked_as_it_is(shop: Shop) -> None:
    assert (await shop.build("python >=3.8", "alpha", python="3.8")).python == PYTHON


async def test_a_python_that_no_channel_has_is_told(shop: Shop) -> None:
    failed = await shop.failure("alpha", python="3.7")

    assert (failed.code, failed.extra["package"]) == ("python_not_available", "python")


async def test_a_lock_is_restored_with_the_same_bytes(shop: Shop) -> None:
    definition = shop.definition("learner", pip=("on-top",))
    made = await shop.make(definition)
    for artefact in (await shop.lock(made.lock_digest)).artefacts:
        await shop.blobs.delete(artefact.digest)
    again = await shop.make(definition, made.lock_digest)

    assert again == made
    assert not await shop.blobs.missing([artefact.digest for artefact in (await shop.lock(made.lock_digest)).artefacts])


async def test_a_private_wheel_lies_on_top_of_what_conda_chose(shop: Shop) -> None:
    data = wheel_bytes(Package("own", "1.0", ("numlike>=1", "small"), {"own.py": "import numlike, small\n"}))
    uploaded = await FileBlobStore(shop.world.folder / "blobs").space("registry", "default").put_bytes(data)
    plain = shop.definition("numlike <2")
    wheels = (WheelRef(digest=uploaded.digest, filename="own-1.0-py3-none-any.whl"),)
    wanted = plain.model_copy(update={"python": plain.python.model_copy(update={"wheels": wheels})})
    lock = await shop.lock((await shop.make(wanted)).lock_digest)

    assert names(lock)[-2:] == [("wheel", "own", "1.0"), ("wheel", "small", "1.0")]
    assert '- pypi: "./own-1.0-py3-none-any.whl"' in lock.pixi_lock
    prefix = await shop.world.node.prefix("sha256:" + "7" * 64, lock, shop.blobs)
    assert await output(prefix.python, "-c", "import own; print(own.numlike.version)") == "1.26.4"


async def test_an_outlook_names_what_a_lock_would_and_makes_none(shop: Shop) -> None:
    wanted = shop.definition("learner", pip=("on-top",))
    lock = await shop.lock((await shop.make(wanted)).lock_digest)
    job = Job("default", "e1:" + "0" * 64, wanted, outlook=True)
    made = await shop.workshop.make(job, shop.say)

    assert made.outlook
    assert package_changes(packages_of(lock), read_packages(await shop.blobs.read_bytes(made.lock_digest))) == []
