"""What pip's options in a definition do, seen in what the real resolver chooses from indexes on loopback."""

import io
import zipfile
from pathlib import Path

import pytest

from cloche_shared.adapters.file_blobs import FileBlobs
from cloche_shared.adapters.http_client import HttpClient
from cloche_shared.adapters.interpreters import Interpreters
from cloche_shared.adapters.memory_resolver import Package
from cloche_shared.adapters.uv_resolver import UvResolver
from cloche_shared.contracts.definition import Definition, PipOptions, PythonSection
from cloche_shared.errors import Failed
from cloche_shared.store.artefacts import Sources, fetch
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


async def test_a_package_comes_from_its_own_index_alone(tmp_path: Path) -> None:
    newer = (Package("alpha", "3.0", requires=("beta",)), Package("beta", "9.0"))
    async with running_index(OLD, BETA) as first, running_index(*newer) as own:
        found = await chosen(tmp_path, first, "alpha>=1", package_indexes={"alpha": own.url})
        assert found == ["alpha==3.0 wheel", "beta==1.0 wheel"]
        assert not [path for path in first.asked if "alpha" in path]
        assert not [path for path in own.asked if "beta" in path]


async def test_hashes_hold_for_a_package_with_an_index_of_its_own(tmp_path: Path) -> None:
    wrong = "alpha --hash=sha256:" + "0" * 64
    async with running_index(BETA) as first, running_index(OLD) as own:
        with pytest.raises(Failed) as refused:
            await chosen(tmp_path, first, wrong, "beta", package_indexes={"alpha": own.url})
    assert refused.value.code == "hash_missing"


async def test_variables_of_the_build_reach_the_packages_build(tmp_path: Path) -> None:
    async with running_index(NEW_SOURCE) as index:
        (tmp_path / "uv").mkdir()
        resolver, http = UvResolver(tmp_path / "uv", Interpreters(path=""), managed=False), HttpClient()
        section = PythonSection(pip=("alpha",), pip_options=PipOptions(index_url=index.url))
        wanted = Definition(python=section, build_variables={"FLAVOUR": "mint", "HOME": "/nowhere"})
        blobs = FileBlobs(tmp_path / "blobs")
        resolution = await resolver.resolve(wanted, _unheard)
        (artefact,) = await fetch(resolution, Sources(http, blobs, resolver, _unheard))
        await http.close()
    wheel = zipfile.ZipFile(io.BytesIO(await blobs.read_bytes(artefact.digest)))
    assert b"flavour = 'mint'" in wheel.read("alpha.py")


async def _unheard(_line: str) -> None:
    """Say nothing."""
