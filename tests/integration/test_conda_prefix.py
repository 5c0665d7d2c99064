"""Prefixes from conda packages: a real channel, a real Python, real links."""

import os
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path

import pytest
import pytest_asyncio

pytest.importorskip("rattler")

from cloche_shared.adapters.interpreters import Interpreters
from cloche_shared.adapters.local_node_files import LocalNodeFiles
from cloche_shared.adapters.memory_blobs import MemoryBlobs
from cloche_shared.errors import Failed
from cloche_shared.ports.resolver import Distribution
from tests.environments.conda_channel import (
    MINOR,
    PACKAGES,
    PYTHON,
    CondaPackage,
    File,
    Link,
    make_channel,
    python_module,
    python_package,
    running_channel,
)
from tests.integration.conda_world import CondaWorld, output

pytestmark = [pytest.mark.asyncio(loop_scope="module"), pytest.mark.timeout(120)]


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def world(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[CondaWorld]:
    folder = tmp_path_factory.mktemp("conda")
    root = await make_channel(folder / "channel", *PACKAGES, python_package())
    world = CondaWorld(folder, root)
    yield world
    await world.close()


async def test_the_channels_python_runs_with_its_packages(world: CondaWorld) -> None:
    lock = await world.lock("python", "learner", "placed")
    prefix = await world.prefix(lock)

    assert prefix.python == prefix.path / "bin" / "python"
    assert await output(prefix.python, "-c", "import sys; print(sys.prefix)") == str(prefix.path)
    assert await output(prefix.path / "bin" / "learner") == "learner with 1.26.4"
    assert await output(prefix.path / "bin" / "placed") == "placed"
    assert lock.python == PYTHON
    assert not prefix.warnings


async def test_files_are_linked_from_the_store_and_all_source_is_compiled(world: CondaWorld) -> None:
    prefix = await world.prefix(await world.lock("python", "learner"))
    code = "import json, learner, numlike; print(json.__cached__, learner.__cached__, numlike.__file__)"
    cached, learner, module = (await output(prefix.python, "-B", "-c", code)).split()

    assert all(Path(path).is_file() for path in (cached, learner, module))
    assert Path(module).stat().st_nlink > 1
    assert Path(learner).stat().st_mode & 0o222 == 0


async def test_placeholders_become_the_prefix_in_text_and_in_binaries(world: CondaWorld) -> None:
    prefix = await world.prefix(await world.lock("python", "placed"))
    text = (prefix.path / "etc" / "placed.conf").read_text()
    binary = (prefix.path / "lib" / "placed.bin").read_bytes()
    (package,) = [package for package in PACKAGES if package.name == "placed"]
    file = package.files["lib/placed.bin"]

    assert text == f"home={prefix.path}/share\nagain={prefix.path}\n"
    assert binary.startswith(b"\x7fBIN" + bytes(prefix.path) + b"/lib:rest\0\0")
    assert binary.endswith(b"\0tail\0\xff")
    assert isinstance(file, File)
    assert len(binary) == len(file.data)
    assert (prefix.path / "lib" / "libplaced.so").readlink() == Path("placed.bin")


async def test_a_prefix_is_used_again_until_one_of_its_files_is_touched(world: CondaWorld) -> None:
    lock = await world.lock("python", "learner", "alpha")
    first = await world.prefix(lock)
    again = await world.prefix(lock)
    victim = first.path / "share" / "alpha.txt"
    victim.chmod(0o644)
    victim.write_text("touched\n")
    mended = await world.prefix(lock)

    assert (first.reused, again.reused, mended.reused) == (False, True, False)
    assert victim.read_text() == "two\n"
    assert await output(mended.path / "bin" / "learner") == "learner with 1.26.4"


async def test_running_it_leaves_nothing_that_condemns_it(world: CondaWorld) -> None:
    lock = await world.lock("python", "numlike")
    prefix = await world.prefix(lock)
    await output(prefix.python, "-c", "import asyncio, email.message, sqlite3, numlike")

    assert (await world.prefix(lock)).reused


async def test_conda_finds_what_is_installed(world: CondaWorld) -> None:
    import rattler  # noqa: PLC0415 - large: loaded where it is needed

    prefix = await world.prefix(await world.lock("python", "learner"))
    records = [rattler.PrefixRecord.from_path(path) for path in sorted((prefix.path / "conda-meta").glob("*.json"))]

    assert [(record.name.normalized, str(record.version)) for record in records] == [
        ("learner", "1.0"),
        ("numlike", "1.26.4"),
        ("python", PYTHON),
    ]
    assert any(str(path).endswith("learner.py") for path in records[0].files)


async def test_scripts_of_packages_are_told_and_never_run(world: CondaWorld) -> None:
    prefix = await world.prefix(await world.lock("python", "scripted"))

    assert prefix.warnings == (
        "scripted brings .scripted-post-link.sh, which was not run: scripts of packages never are.",
    )
    assert not (prefix.path / "ran").exists()


async def test_a_host_without_that_python_compiles_with_the_channels_own(world: CondaWorld, tmp_path: Path) -> None:
    lock = await world.lock("python", "learner")

    class Nothing(Interpreters):
        async def find(self, version: str | None) -> None:  # type: ignore[override] - this host has none
            return None

    node = LocalNodeFiles(tmp_path / "n", Nothing(path=""))
    prefix = await node.prefix("sha256:" + "1" * 64, lock, world.blobs)
    await node.close()

    assert await output(prefix.path / "bin" / "learner") == "learner with 1.26.4"
    site = prefix.path / "lib" / f"python{MINOR}" / "site-packages"
    assert list((site / "__pycache__").glob("learner.*.pyc"))
    assert not list((tmp_path / "n" / "tmp").iterdir())


async def test_the_channels_python_is_not_started_beside_credentials(world: CondaWorld, tmp_path: Path) -> None:
    lock = await world.lock("python", "learner")

    class Nothing(Interpreters):
        async def find(self, version: str | None) -> None:  # type: ignore[override] - this host has none
            return None

    node = LocalNodeFiles(tmp_path / "n", Nothing(path=""), package_code=False)
    with pytest.raises(Failed) as caught:
        await node.prefix("sha256:" + "1" * 64, lock, world.blobs)
    await node.close()
    assert caught.value.code == "python_not_available"
    assert "cluster.package_code" in caught.value.why


async def test_packages_over_http_come_with_the_channels_credentials_and_leave_none(world: CondaWorld) -> None:
    async with running_channel(world.root, "me:secret") as server:
        lock = await world.lock("alpha", channels=[server.with_user("me:secret")])

    assert [artefact.kind for artefact in lock.artefacts] == ["conda", "conda"]
    assert "secret" not in lock.model_dump_json()


async def test_a_file_that_is_not_what_the_channel_says_is_refused(world: CondaWorld, tmp_path: Path) -> None:
    root = await make_channel(tmp_path / "bad", CondaPackage("lonely", "1.0", {"share/lonely.txt": b"x"}))
    async with running_channel(root) as server:
        server.corrupt.add("lonely-1.0-h0_0.conda")
        with pytest.raises(Failed) as caught:
            await world.lock("lonely", channels=[server.url])

    assert (caught.value.code, caught.value.extra["package"]) == ("hash_mismatch", "lonely")


BAD = (
    (CondaPackage("bad", "1.0", {"share/out": Link("../../etc/passwd")}), "unsafe_archive"),
    (CondaPackage("bad", "1.0", {"share/out": Link("/etc/passwd")}), "unsafe_archive"),
    (CondaPackage("bad", "1.0", {"up": Link(".."), "up/out": b"1"}), "invalid_conda_package"),
    (CondaPackage("bad", "1.0", {"share": Link("lib"), "share/out": b"1"}), "invalid_conda_package"),
    (CondaPackage("bad", "1.0", {"cloche.manifest": b"{}"}), "unsafe_archive"),
    (CondaPackage("bad", "1.0", {"conda-meta/python-9.json": b"{}"}), "unsafe_archive"),
    (
        CondaPackage("bad", "1.0", {"a": b"1"}, info={"info/paths.json": b'{"paths": [{"_path": "../a"}]}'}),
        "unsafe_archive",
    ),
    (
        CondaPackage("bad", "1.0", {"a": b"1"}, info={"info/paths.json": b'{"paths": [{"_path": "b"}]}'}),
        "invalid_conda_package",
    ),
    (
        CondaPackage(
            "bad",
            "1.0",
            {"a": b"1"},
            info={"info/paths.json": b'{"paths": [{"_path": "a", "sha256": "%s"}]}' % (b"0" * 64)},
        ),
        "invalid_conda_package",
    ),
    (CondaPackage("bad", "1.0", {"a": b"1"}, info={"info/paths.json": b"nonsense"}), "invalid_conda_package"),
    (CondaPackage("bad", "1.0", noarch="python", entry_points=("no entry point",)), "invalid_conda_package"),
)


@pytest.mark.parametrize("number", range(len(BAD)))
async def test_a_package_that_breaks_the_rules_is_refused_and_named(
    world: CondaWorld, tmp_path: Path, number: int
) -> None:
    package, code = BAD[number]
    root = await make_channel(world.root.parent / f"bad-{number}", package)
    lock = await world.lock("python", "bad", channels=[f"file://{root}", f"file://{world.root}"])
    with pytest.raises(Failed) as caught:
        await world.prefix(lock)

    assert (caught.value.code, caught.value.extra["package"]) == (code, "bad")


async def test_packages_come_from_blobs_that_lie_elsewhere_too(world: CondaWorld, tmp_path: Path) -> None:
    lock = await world.lock("python", "numlike <2", "beta <2")
    few = lock.model_copy(update={"artefacts": tuple(one for one in lock.artefacts if one.name != "python")})
    elsewhere = MemoryBlobs()
    for artefact in few.artefacts:
        await elsewhere.put_bytes(await world.blobs.read_bytes(artefact.digest))
    node = LocalNodeFiles(tmp_path / "n", world.interpreters)
    prefix = await node.prefix("sha256:" + "3" * 64, few, elsewhere)
    await node.close()
    found = await world.solver.distributions(few.artefacts, elsewhere)

    assert (prefix.path / "share" / "beta.txt").read_text() == "beta\n"
    assert found == (Distribution("numlike", "1.26.4", "numlike"),)
    assert not [path for path in world.workers.scratch.iterdir() if path.name.startswith(("look-", "package-"))]


async def test_two_packages_with_a_file_of_one_path_are_told(world: CondaWorld) -> None:
    other = python_module("other", "1.0", "")
    clashing = replace(other, files={**other.files, "site-packages/numlike.py": b"version = 'other'\n"})
    root = await make_channel(world.root.parent / "clash", clashing)
    lock = await world.lock("python", "numlike <2", "other", channels=[f"file://{root}", f"file://{world.root}"])
    prefix = await world.prefix(lock)

    path = f"lib/python{MINOR}/site-packages/numlike.py"
    assert f"other replaces {path}, which another package installs too." in prefix.warnings
    assert os.access(prefix.path / path, os.R_OK)
