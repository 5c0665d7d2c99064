"""What every adapter of the port NodeFiles promises."""

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from cloche_shared.adapters.interpreters import Interpreters, running
from cloche_shared.adapters.local_node_files import LocalNodeFiles
from cloche_shared.adapters.memory_blobs import MemoryBlobs
from cloche_shared.adapters.memory_node_files import MemoryNodeFiles
from cloche_shared.adapters.memory_resolver import Package, wheel_bytes
from cloche_shared.contracts.definition import Artefact, Lock
from cloche_shared.contracts.files import FileEntry, Manifest
from cloche_shared.errors import Failed, Invalid
from cloche_shared.ports.node_files import Budget, PartlyCollectedError
from cloche_shared.store.hashing import lock_digest

ALPHA = Package("alpha", "1.0", files={"alpha.py": "value = 1\n"})
Node = LocalNodeFiles | MemoryNodeFiles


@pytest.fixture
def blobs() -> MemoryBlobs:
    return MemoryBlobs()


@pytest.fixture(params=["local", "memory"])
async def node(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Node]:
    made: Node = (
        LocalNodeFiles(tmp_path / "node", Interpreters(path=""))
        if request.param == "local"
        else MemoryNodeFiles(pythons=(running().version,))
    )
    yield made
    await made.close()


async def locked(blobs: MemoryBlobs, *packages: Package, python: str | None = None) -> Lock:
    artefacts = []
    for package in packages:
        blob = await blobs.put_bytes(wheel_bytes(package))
        artefact = Artefact(
            kind="wheel",
            name=package.name,
            version=package.version,
            filename=package.wheel_name,
            url=f"https://index.invalid/{package.wheel_name}",
            digest=blob.digest,
            size=blob.size,
        )
        artefacts.append(artefact)
    version = python or running().version
    return Lock(definition_hash="e1:0", python=version, platform="any", artefacts=tuple(artefacts), pylock="")


async def tree(blobs: MemoryBlobs, **files: bytes) -> Manifest:
    entries = []
    for name, data in sorted(files.items()):
        blob = await blobs.put_bytes(data)
        entries.append(FileEntry(path=name.replace("__", "/"), digest=blob.digest, size=blob.size))
    return Manifest(files=tuple(entries))


async def test_a_prefix_is_made_once_and_reused(node: Node, blobs: MemoryBlobs) -> None:
    lock = await locked(blobs, ALPHA)
    first = await node.prefix(lock_digest(lock), lock, blobs)
    second = await node.prefix(lock_digest(lock), lock, blobs)
    assert (first.reused, second.reused) == (False, True)
    assert first.path == second.path
    assert first.python == first.path / "bin" / "python"


async def test_an_artefact_that_is_not_stored_is_named(node: Node, blobs: MemoryBlobs) -> None:
    lock = await locked(blobs, ALPHA)
    await blobs.delete(lock.artefacts[0].digest)
    with pytest.raises(Failed) as caught:
        await node.prefix(lock_digest(lock), lock, blobs)
    assert caught.value.code == "blob_not_found"
    assert caught.value.extra["package"] == "alpha"


async def test_a_python_that_is_not_here_lists_what_is(node: Node, blobs: MemoryBlobs) -> None:
    lock = await locked(blobs, ALPHA, python="3.99.0")
    with pytest.raises(Failed) as caught:
        await node.prefix(lock_digest(lock), lock, blobs)
    assert caught.value.code == "python_not_available"
    assert running().version in str(caught.value.extra["available"])


async def test_a_wheel_taken_in_ahead_is_enough_for_its_prefix(node: Node, blobs: MemoryBlobs) -> None:
    lock = await locked(blobs, ALPHA)
    await node.warm(lock.python, lock.artefacts[0], blobs)
    await blobs.delete(lock.artefacts[0].digest)
    assert not (await node.prefix(lock_digest(lock), lock, blobs)).reused


async def test_a_snapshot_goes_out_and_outputs_come_in(node: Node, blobs: MemoryBlobs) -> None:
    snapshot = await tree(blobs, train_py=b"print()", outputs__model_bin=b"\0" * 10, logs__a__b=b"x")
    await node.checkout("w1", snapshot, blobs)
    collected = await node.collect("w1", ["outputs", "logs", "absent"], blobs)
    assert [entry.path for entry in collected.files] == ["logs/a/b", "outputs/model_bin"]
    assert {entry.digest for entry in collected.files} < {entry.digest for entry in snapshot.files}


async def test_outputs_are_collected_up_to_a_budget_and_the_rest_is_named(node: Node, blobs: MemoryBlobs) -> None:
    snapshot = await tree(blobs, logs__a=b"x" * 10, outputs__big=b"y" * 100, outputs__small=b"z" * 20)
    await node.checkout("w1", snapshot, blobs)
    assert len((await node.collect("w1", ["outputs", "logs"], blobs, Budget(130))).files) == 3
    with pytest.raises(PartlyCollectedError) as caught:
        await node.collect("w1", ["outputs", "logs"], blobs, Budget(100))
    assert caught.value.code == "outputs_too_large"
    assert [entry.path for entry in caught.value.kept] == ["logs/a", "outputs/small"]
    assert "outputs/big" in caught.value.why


async def test_a_checkout_made_again_is_fresh(node: Node, blobs: MemoryBlobs) -> None:
    await node.checkout("w1", await tree(blobs, outputs__old=b"1"), blobs)
    await node.checkout("w1", await tree(blobs, outputs__new=b"2"), blobs)
    assert [entry.path for entry in (await node.collect("w1", ["outputs"], blobs)).files] == ["outputs/new"]


async def test_a_missing_file_of_a_snapshot_is_said(node: Node, blobs: MemoryBlobs) -> None:
    snapshot = await tree(blobs, train_py=b"print()")
    await blobs.delete(snapshot.files[0].digest)
    with pytest.raises(Failed) as caught:
        await node.checkout("w1", snapshot, blobs)
    assert caught.value.code == "blob_not_found"


@pytest.mark.parametrize("path", ["../out", "/etc/passwd", "a/../../b", "a\\b", "a//b", "c:/x"])
async def test_a_snapshot_cannot_leave_its_folder(node: Node, blobs: MemoryBlobs, path: str) -> None:
    blob = await blobs.put_bytes(b"x")
    snapshot = Manifest(files=(FileEntry(path=path, digest=blob.digest, size=1),))
    with pytest.raises(Invalid) as caught:
        await node.checkout("w1", snapshot, blobs)
    assert caught.value.code == "unsafe_path"


async def test_what_is_discarded_has_no_outputs(node: Node, blobs: MemoryBlobs) -> None:
    await node.checkout("w1", await tree(blobs, outputs__a=b"1"), blobs)
    await node.discard("w1")
    await node.discard("w1")
    assert (await node.collect("w1", ["outputs"], blobs)).files == ()


async def test_a_working_folder_is_found_again_until_it_is_discarded(node: Node, blobs: MemoryBlobs) -> None:
    assert await node.folder("work-1") is None
    path = await node.checkout("work-1", await tree(blobs, a=b"1"), blobs)
    assert await node.folder("work-1") == path
    await node.discard("work-1")
    assert await node.folder("work-1") is None
