"""Private wheels at the port Resolver: taken as they are, and everything else is chosen to fit them."""

from collections.abc import AsyncIterator, Sequence
from pathlib import Path

import pytest

from cloche_shared.adapters.interpreters import Interpreters
from cloche_shared.adapters.memory_resolver import MemoryResolver, Package, wheel_bytes
from cloche_shared.adapters.uv_resolver import UvResolver
from cloche_shared.contracts.definition import Definition, PipOptions, PythonSection
from cloche_shared.errors import Failed
from cloche_shared.ports.resolver import OwnWheel, Resolution, Resolver
from cloche_shared.store.hashing import sha256_digest
from tests.environments.package_index import PackageIndex, running_index

ON_INDEX = (Package("alpha", "1.0"), Package("alpha", "2.0"), Package("own", "3.0"), Package("asks", "1.0", ("own",)))


@pytest.fixture
async def index() -> AsyncIterator[PackageIndex]:
    async with running_index(*ON_INDEX) as found:
        yield found


@pytest.fixture
def uv(tmp_path: Path) -> Resolver:
    (tmp_path / "uv").mkdir()
    return UvResolver(tmp_path / "uv", Interpreters(path=""), managed=False)


def own(folder: Path, package: Package, filename: str = "") -> OwnWheel:
    """Write a wheel under a name that says nothing, as blobs have it."""
    data = wheel_bytes(package)
    path = folder / sha256_digest(data)[7:]
    path.write_bytes(data)
    return OwnWheel(filename or package.wheel_name, sha256_digest(data), len(data), str(path))


async def resolved(resolver: Resolver, index: PackageIndex, lines: Sequence[str], *wheels: OwnWheel) -> Resolution:
    section = PythonSection(pip=tuple(lines), pip_options=PipOptions(index_url=index.url))
    return await resolver.resolve(Definition(python=section), _unheard, None, wheels)


async def _unheard(_line: str) -> None:
    """Say nothing."""


def chosen(resolution: Resolution) -> list[tuple[str, str]]:
    return [(choice.name, choice.version) for choice in resolution.choices]


async def test_a_memory_resolver_takes_a_private_wheel_as_the_real_one_does(tmp_path: Path) -> None:
    wheel = own(tmp_path, Package("own", "1.0"))
    found = await MemoryResolver(ON_INDEX).resolve(Definition(), _unheard, None, (wheel,))
    assert [(choice.name, choice.hash) for choice in found.choices] == [("own", wheel.digest)]


async def test_what_a_private_wheel_needs_is_chosen_to_fit_it(
    uv: Resolver, index: PackageIndex, tmp_path: Path
) -> None:
    found = await resolved(uv, index, ["alpha"], own(tmp_path, Package("own", "1.0", ("alpha<2",))))
    assert chosen(found) == [("alpha", "1.0"), ("own", "1.0")]
    assert str(tmp_path) not in found.pylock
    assert 'path = "own-1.0-py3-none-any.whl"' in found.pylock


async def test_a_private_wheel_goes_before_the_indexs_package_of_its_name(
    uv: Resolver, index: PackageIndex, tmp_path: Path
) -> None:
    wheel = own(tmp_path, Package("own", "1.0"))
    found = await resolved(uv, index, ["asks", "own"], wheel)
    assert chosen(found) == [("asks", "1.0"), ("own", "1.0")]
    assert found.choices[-1].hash == wheel.digest


async def test_requirements_that_no_private_wheel_meets_are_a_conflict(
    uv: Resolver, index: PackageIndex, tmp_path: Path
) -> None:
    with pytest.raises(Failed) as refused:
        await resolved(uv, index, ["own>=3"], own(tmp_path, Package("own", "1.0")))
    assert refused.value.code in {"solver_conflict", "package_not_found"}
    assert str(tmp_path) not in f"{refused.value} {refused.value.extra}"


async def test_a_wheel_for_another_python_is_refused_before_anything_is_resolved(
    uv: Resolver, index: PackageIndex, tmp_path: Path
) -> None:
    wheel = own(tmp_path, Package("own", "1.0"), "own-1.0-cp38-cp38-win_amd64.whl")
    with pytest.raises(Failed) as refused:
        await resolved(uv, index, [], wheel)
    assert refused.value.code == "wheel_not_compatible"
