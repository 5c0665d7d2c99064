"""What pip's options in a definition do, seen in what the real resolver chooses from indexes on loopback."""

from pathlib import Path

from cloche_shared.adapters.interpreters import Interpreters
from cloche_shared.adapters.memory_resolver import Package
from cloche_shared.adapters.uv_resolver import UvResolver
from cloche_shared.contracts.definition import Definition, PipOptions, PythonSection
from tests.environments.package_index import PackageIndex, running_index

OLD = Package("alpha", "1.0", files={"alpha.py": ""})
OLD_SOURCE = Package("alpha", "1.0", only_source=True)
NEW_SOURCE = Package("alpha", "2.0", only_source=True)
EARLY = Package("alpha", "2.0rc1", files={"alpha.py": ""})
BETA = Package("beta", "1.0", files={"beta.py": ""})


async def chosen(folder: Path, index: PackageIndex, *lines: str, **options: object) -> list[str]:
    """Return what is chosen for some lines, as `name==version kind`."""
    (folder / "uv").mkdir(exist_ok=True)
    resolver = UvResolver(folder / "uv", Interpreters(path=""), managed=False)
    section = PythonSection(pip=lines, pip_options=PipOptions(index_url=index.url).model_copy(update=options))

    async def say(_line: str) -> None:
        return

    found = await resolver.resolve(Definition(python=section), say)
    return [f"{choice.name}=={choice.version} {choice.kind}" for choice in found.choices]


async def test_what_the_first_index_lacks_comes_from_the_next(tmp_path: Path) -> None:
    newer = Package("alpha", "3.0", files={"alpha.py": ""})
    async with running_index(OLD) as first, running_index(newer, BETA) as second:
        found = await chosen(tmp_path, first, "alpha", "beta", extra_index_urls=(second.url,))
    assert found == ["alpha==1.0 wheel", "beta==1.0 wheel"]


async def test_pre_releases_are_taken_where_they_are_wanted(tmp_path: Path) -> None:
    async with running_index(OLD, EARLY) as index:
        assert await chosen(tmp_path, index, "alpha") == ["alpha==1.0 wheel"]
        assert await chosen(tmp_path, index, "alpha", pre=True) == ["alpha==2.0rc1 wheel"]


async def test_a_package_is_built_where_no_wheel_is_wanted(tmp_path: Path) -> None:
    async with running_index(OLD, OLD_SOURCE) as index:
        assert await chosen(tmp_path, index, "alpha") == ["alpha==1.0 wheel"]
        assert await chosen(tmp_path, index, "alpha", no_binary=("alpha",)) == ["alpha==1.0 sdist"]


async def test_nothing_is_built_where_wheels_are_wanted(tmp_path: Path) -> None:
    async with running_index(OLD, NEW_SOURCE) as index:
        assert await chosen(tmp_path, index, "alpha") == ["alpha==2.0 sdist"]
        assert await chosen(tmp_path, index, "alpha", only_binary=(":all:",)) == ["alpha==1.0 wheel"]
