"""Prefixes on a real disk: what they hold, how they run, what happens when somebody touches them."""

import asyncio
import os
import subprocess
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from cloche_shared.adapters.file_blobs import FileBlobs
from cloche_shared.adapters.interpreters import Interpreters, running
from cloche_shared.adapters.local_node_files import LocalNodeFiles, collecting
from cloche_shared.adapters.memory_blobs import MemoryBlobs
from cloche_shared.adapters.memory_resolver import Package, wheel_bytes
from cloche_shared.contracts.definition import Artefact, Lock
from cloche_shared.contracts.files import Manifest
from cloche_shared.errors import Failed
from cloche_shared.ports.node_files import Budget, PartlyCollectedError, Prefix
from cloche_shared.store.hashing import lock_digest
from tests.environments.bad_wheels import BAD_WHEELS

SITE = f"lib/python{'.'.join(running().version.split('.')[:2])}/site-packages"
ALPHA = Package(
    "alpha",
    "1.0",
    files={
        "alpha/__init__.py": "def main():\n    print('alpha says', __file__)\n\ndef fail():\n    raise ValueError\n",
        "alpha/template.py": "this is {{ no }} python",
        "alpha-1.0.dist-info/entry_points.txt": "[console_scripts]\nalpha = alpha:main\n",
        "alpha-1.0.data/scripts/alpha-script": "#!python\nimport sys\nprint(sys.executable)\n",
        "alpha-1.0.data/data/share/alpha/note.txt": "a note\n",
        "alpha-1.0.data/headers/alpha.h": "int alpha;\n",
        "alpha-1.0.data/purelib/extra.py": "extra = 1\n",
    },
)
BETA = Package("beta", "1.0", files={"beta.py": "b = 1\n", "shared.txt": "from beta\n", "beta.pth": "import beta\n"})


class World:
    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.blobs = FileBlobs(folder / "blobs")
        self.node = LocalNodeFiles(folder / "node", Interpreters(path=""))

    async def artefact(self, package: Package, data: bytes | None = None) -> Artefact:
        blob = await self.blobs.put_bytes(wheel_bytes(package) if data is None else data)
        return Artefact(
            kind="wheel",
            name=package.name,
            version=package.version,
            filename=package.wheel_name,
            url="https://index.invalid/x",
            digest=blob.digest,
            size=blob.size,
        )

    async def lock(self, *packages: Package) -> Lock:
        artefacts = tuple([await self.artefact(package) for package in packages])
        return Lock(definition_hash="e1:0", python=running().version, platform="x", artefacts=artefacts, pylock="")

    async def prefix(self, *packages: Package) -> Prefix:
        lock = await self.lock(*packages)
        return await self.node.prefix(lock_digest(lock), lock, self.blobs)


@pytest.fixture
async def world(tmp_path: Path) -> AsyncIterator[World]:
    world = World(tmp_path)
    yield world
    await world.node.close()


def run(*arguments: str | Path) -> str:
    done = subprocess.run([str(item) for item in arguments], capture_output=True, text=True, check=False, timeout=20)
    return done.stdout + done.stderr


async def test_the_interpreter_finds_the_packages_and_nothing_else(world: World) -> None:
    prefix = await world.prefix(ALPHA, BETA)
    code = "import sys, alpha, beta, extra; print(sys.prefix, sys.prefix != sys.base_prefix)"
    assert run(prefix.python, "-c", code).split() == [str(prefix.path), "True"]
    assert "No module named" in run(prefix.python, "-c", "import pytest")


async def test_scripts_run_in_the_prefix(world: World) -> None:
    prefix = await world.prefix(ALPHA)
    assert run(prefix.path / "bin" / "alpha") == f"alpha says {prefix.path}/{SITE}/alpha/__init__.py\n"
    assert run(prefix.path / "bin" / "alpha-script") == f"{prefix.python}\n"


async def test_data_and_headers_go_to_their_schemes(world: World) -> None:
    prefix = await world.prefix(ALPHA)
    assert (prefix.path / "share/alpha/note.txt").read_text() == "a note\n"
    assert next((prefix.path / "include").rglob("alpha.h")).parent.name == "alpha"


async def test_bytecode_is_there_and_valid_where_it_is_linked(world: World) -> None:
    prefix = await world.prefix(ALPHA)
    said = run(prefix.python, "-v", "-c", "import alpha; alpha.fail()")
    assert f"code object from '{prefix.path}/{SITE}/alpha/__pycache__/" in said
    assert f'File "{prefix.path}/{SITE}/alpha/__init__.py", line 5, in fail' in said


async def test_bytecode_that_a_wheel_brings_gives_way_to_ours(world: World) -> None:
    brought = f"alpha/__pycache__/__init__.{running().cache_tag}.pyc"
    others = "alpha/__pycache__/__init__.cpython-36.pyc"
    prefix = await world.prefix(replace(ALPHA, files={**ALPHA.files, brought: "not bytecode", others: "of another"}))
    assert "code object from" in run(prefix.python, "-v", "-c", "import alpha; alpha.main()")
    assert (prefix.path / SITE / brought).read_bytes() != b"not bytecode"
    assert (prefix.path / SITE / others).read_bytes() == b"of another"
    known = run(
        prefix.python, "-c", "import importlib.metadata as m; print([str(f) for f in m.distribution('alpha').files])"
    )
    assert others in known
    assert brought not in known


async def test_the_installed_packages_are_known_with_their_files(world: World) -> None:
    prefix = await world.prefix(ALPHA)
    code = (
        "import importlib.metadata as m, hashlib, base64; d = m.distribution('alpha');"
        "assert all(f.locate().exists() for f in d.files), d.files;"
        "h = lambda f: base64.urlsafe_b64encode(hashlib.sha256(f.read_binary()).digest()).decode().rstrip('=');"
        "assert all(f.hash is None or f.hash.value == h(f) for f in d.files);"
        "print(d.version, d.read_text('INSTALLER'))"
    )
    assert run(prefix.python, "-c", code).split() == ["1.0", "cloche"]


async def test_files_are_links_into_the_store_and_read_only(world: World) -> None:
    prefix = await world.prefix(ALPHA)
    status = (prefix.path / SITE / "alpha/__init__.py").stat()
    assert status.st_nlink == 2
    assert status.st_mode & 0o222 == 0


async def test_pth_files_are_reported(world: World) -> None:
    prefix = await world.prefix(BETA)
    assert any("beta.pth" in warning for warning in prefix.warnings)
    assert (await world.prefix(BETA)).warnings == prefix.warnings


async def test_the_last_name_wins_where_files_differ_and_equal_files_meet(world: World) -> None:
    gamma = Package("gamma", "1.0", files={"shared.txt": "from gamma\n", "beta.py": "b = 1\n"})
    prefix = await world.prefix(BETA, gamma)
    assert (prefix.path / SITE / "shared.txt").read_text() == "from gamma\n"
    replaced = [warning for warning in prefix.warnings if "replaces" in warning]
    assert len(replaced) == 1
    assert "shared.txt" in replaced[0]
    assert (await world.prefix(BETA, gamma)).reused


async def test_many_who_ask_at_once_share_one_making(world: World) -> None:
    prefixes = await asyncio.gather(*(world.prefix(ALPHA, BETA) for _ in range(20)))
    assert [prefix.reused for prefix in prefixes].count(False) == 1


async def test_two_nodes_processes_on_one_folder_do_not_collide(world: World) -> None:
    other = LocalNodeFiles(world.folder / "node", Interpreters(path=""))
    lock = await world.lock(ALPHA)
    digest = lock_digest(lock)
    made = await asyncio.gather(*(node.prefix(digest, lock, world.blobs) for node in (world.node, other) * 3))
    await other.close()
    assert [prefix.reused for prefix in made].count(False) == 1


async def touch(world: World, path: str, change: str) -> None:
    prefix = await world.prefix(ALPHA)
    target = prefix.path / SITE / path
    if change == "write":
        target.chmod(0o644)
        target.write_text("def main():\n    print('evil')\n")
    elif change == "delete":
        target.unlink()
    elif change == "replace":
        target.unlink()
        target.write_text("evil")
    elif change == "mode":
        target.chmod(0o777)
    elif change == "link":
        target.unlink()
        target.symlink_to("/etc/hostname")
    else:
        target.parent.mkdir(exist_ok=True)
        target.write_text("import os")


@pytest.mark.parametrize(
    ("path", "change"),
    [
        ("alpha/__init__.py", "write"),
        ("alpha/__init__.py", "delete"),
        ("alpha/__init__.py", "replace"),
        ("alpha/__init__.py", "mode"),
        ("alpha/__init__.py", "link"),
        (f"alpha/__pycache__/__init__.{running().cache_tag}.pyc", "write"),
        (f"alpha/__pycache__/template.{running().cache_tag}.pyc", "add"),
        ("evil.pth", "add"),
        ("new/evil.py", "add"),
        ("alpha-1.0.dist-info/RECORD", "replace"),
    ],
)
async def test_a_touched_prefix_is_noticed_and_replaced(world: World, path: str, change: str) -> None:
    await touch(world, path, change)
    again = await world.prefix(ALPHA)
    assert not again.reused
    assert run(again.path / "bin" / "alpha").startswith("alpha says")
    assert not (again.path / SITE / "evil.pth").exists()
    assert (await world.prefix(ALPHA)).reused


async def test_bytes_touched_through_one_prefix_condemn_all_that_share_them(world: World) -> None:
    both = await world.prefix(ALPHA, BETA)
    await touch(world, "alpha/__init__.py", "write")
    assert run(both.path / "bin" / "alpha") != ""
    assert not (await world.prefix(ALPHA)).reused
    again = await world.prefix(ALPHA, BETA)
    assert not again.reused
    assert (again.path / SITE / "alpha/__init__.py").read_text().startswith("def main():\n    print('alpha")


async def test_a_new_prefix_never_takes_bytes_that_were_touched(world: World) -> None:
    await touch(world, "alpha/__init__.py", "write")
    other = await world.prefix(ALPHA, BETA)
    assert run(other.path / "bin" / "alpha").startswith("alpha says")


async def test_caches_of_other_programs_beside_bytecode_are_no_touch(world: World) -> None:
    prefix = await world.prefix(ALPHA)
    (prefix.path / SITE / "alpha/__pycache__/x.cpython-311.opt-1.pyc").write_bytes(b"")
    (prefix.path / SITE / "alpha/__pycache__/kernel-1.nbi").write_bytes(b"")
    run(prefix.python, "-c", "import alpha, beta")
    assert (await world.prefix(ALPHA)).reused


async def test_a_making_that_was_cut_short_is_begun_anew(world: World) -> None:
    prefix = await world.prefix(ALPHA)
    (prefix.path / "cloche.manifest").unlink()
    for plan in (world.folder / "node" / "store").glob("*/plan.json"):
        plan.write_text("{")
    assert not (await world.prefix(ALPHA)).reused
    assert run(prefix.path / "bin" / "alpha").startswith("alpha says")


async def test_any_number_of_stored_wheels_can_be_of_another_format_or_touched(world: World) -> None:
    packages = [Package(f"p{number}", "1.0", files={f"p{number}.py": "x = 1\n"}) for number in range(6)]
    first = await world.prefix(*packages)
    (first.path / "cloche.manifest").unlink()
    plans = sorted((world.folder / "node" / "store").glob("*/plan.json"))
    for plan in plans[:3]:
        plan.write_text('{"format": 1}')
    for plan in plans[3:]:
        source = next(plan.parent.glob("tree/lib/*/site-packages/p*.py"))
        source.chmod(0o644)
        source.write_text("x = 2\n")
    again = await world.prefix(*packages)
    assert {file.read_text() for file in (again.path / SITE).glob("p*.py")} == {"x = 1\n"}


@pytest.mark.parametrize("name", sorted(BAD_WHEELS))
async def test_a_bad_wheel_is_refused_and_leaves_nothing(world: World, name: str) -> None:
    code, data = BAD_WHEELS[name]
    artefact = await world.artefact(Package("alpha", "1.0"), data)
    lock = (await world.lock()).model_copy(update={"artefacts": (artefact,)})
    with pytest.raises(Failed) as caught:
        await world.node.prefix(lock_digest(lock), lock, world.blobs)
    assert caught.value.code == code
    assert caught.value.why
    assert list((world.folder / "node" / "tmp").iterdir()) == []
    assert not (world.folder / "evil").exists()


async def test_a_wheel_under_another_packages_name_is_refused(world: World) -> None:
    artefact = await world.artefact(replace(BETA, name="beta"))
    lock = (await world.lock()).model_copy(update={"artefacts": (artefact.model_copy(update={"name": "alpha"}),)})
    with pytest.raises(Failed) as caught:
        await world.node.prefix(lock_digest(lock), lock, world.blobs)
    assert caught.value.code == "invalid_wheel"


async def test_links_and_pipes_among_the_outputs_are_not_followed(world: World) -> None:
    path = await world.node.checkout("w1", Manifest(), world.blobs)
    (path / "outputs").mkdir()
    (path / "outputs/real.txt").write_text("real")
    (path / "outputs/secret").symlink_to("/etc/passwd")
    (path / "outputs/folder").symlink_to("/etc")
    (path / "logs").symlink_to("/etc")
    os.mkfifo(path / "outputs/pipe")
    (path / "outputs/best.txt").symlink_to("real.txt")
    (path / "outputs/gone").symlink_to("nowhere")
    (path / "outputs/line\nbreak").write_text("x")
    collected = await world.node.collect("w1", ["outputs", "logs"], world.blobs, budget := Budget(1000))
    assert [entry.path for entry in collected.files] == ["outputs/best.txt", "outputs/real.txt"]
    assert len({entry.digest for entry in collected.files}) == 1
    told = {clause.partition(": ")[0]: clause for clause in budget.told()}
    named = ["logs", "outputs/folder", "outputs/gone", "outputs/line\\nbreak", "outputs/pipe", "outputs/secret"]
    assert sorted(told) == named
    assert "link" in told["outputs/secret"]
    assert "not a regular file" in told["outputs/pipe"]


async def test_many_small_outputs_are_stored_in_batches(world: World) -> None:
    path = await world.node.checkout("w1", Manifest(), world.blobs)
    (path / "outputs").mkdir()
    for number in range(1000):
        (path / f"outputs/{number:04}").write_bytes(b"%d" % (number // 2))
    (path / "outputs/large").write_bytes(b"x" * 300_000)
    asked = 0
    switch = asyncio.get_running_loop().run_in_executor

    def counting(*arguments: Any) -> Any:
        nonlocal asked
        asked += 1
        return switch(*arguments)

    asyncio.get_running_loop().run_in_executor = counting  # type: ignore[method-assign]
    blobs = MemoryBlobs()
    collected = await world.node.collect("w1", ["outputs"], blobs)
    assert len(collected.files) == 1001
    assert asked < 100, "threads are asked for many files at a time"
    for entry in collected.files[:-1]:
        assert await blobs.read_bytes(entry.digest) == b"%d" % (int(entry.path[-4:]) // 2)


async def test_outputs_over_the_limit_are_kept_up_to_it(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(collecting, "MAX_FILES", 3)
    path = await world.node.checkout("w1", Manifest(), world.blobs)
    (path / "outputs").mkdir()
    for number in range(5):
        (path / f"outputs/{number}").write_text("x")
    with pytest.raises(PartlyCollectedError, match="more than 3 files") as caught:
        await world.node.collect("w1", ["outputs"], world.blobs)
    assert len(caught.value.kept) == 3


async def test_a_condemned_prefix_stays_while_a_program_uses_it(world: World) -> None:
    prefix = await world.prefix(ALPHA)
    script = "import os, sys; os.chdir(sys.prefix); print('up', flush=True); sys.stdin.read(); print(os.listdir('bin'))"
    user = await asyncio.create_subprocess_exec(
        prefix.python, "-c", script, stdin=subprocess.PIPE, stdout=subprocess.PIPE
    )
    assert user.stdout is not None
    assert await user.stdout.readline() == b"up\n"
    await touch(world, "alpha/__init__.py", "write")
    assert not (await world.prefix(ALPHA)).reused
    assert len(list((world.folder / "node/tmp").iterdir())) == 1
    assert b"alpha" in (await user.communicate(b""))[0]
    await touch(world, "alpha/__init__.py", "write")
    assert not (await world.prefix(ALPHA)).reused
    assert list((world.folder / "node/tmp").iterdir()) == []


async def test_what_a_crash_left_in_the_making_is_removed_by_the_next_who_is_alone(world: World) -> None:
    left = world.folder / "node/tmp/store-0123"
    left.mkdir(parents=True)
    (left / "part").write_bytes(b"x")
    await world.prefix(ALPHA)
    assert not left.exists()
    left.mkdir()
    other = LocalNodeFiles(world.folder / "node", Interpreters(path=""))
    await other.prefix("sha256:ab", await world.lock(ALPHA), world.blobs)
    await other.close()
    assert left.exists()
