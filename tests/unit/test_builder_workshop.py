"""One build's work: what is restored from a lock, and what has to be solved again."""

from collections.abc import Sequence

import pytest

from cloche_builder.workshop import Job, Tools, Workshop
from cloche_shared.adapters.memory_blobs import MemoryBlobStore
from cloche_shared.adapters.memory_resolver import MemoryIndexHttp, MemoryResolver, Package
from cloche_shared.contracts.definition import Definition, Lock, PipOptions, PythonSection
from cloche_shared.errors import Failed

WANTED = Definition(
    python=PythonSection(
        pip=("alpha", "source"), pip_options=PipOptions(index_url="https://user:word@index.invalid/simple")
    )
)
OLD = (Package("alpha", "1.0"), Package("source", "1.0", only_source=True))


class World:
    def __init__(self) -> None:
        self.resolver = MemoryResolver(OLD)
        self.store = MemoryBlobStore()
        self.blobs = self.store.space("builder", "red")
        self.workshop = Workshop(Tools(self.resolver, MemoryIndexHttp(self.resolver), self.store))
        self.said: list[str] = []

    async def say(self, line: str) -> None:
        self.said.append(line)

    async def make(self, lock_digest: str = "") -> tuple[str, Lock]:
        made = await self.workshop.make(Job("red", "e1:" + "0" * 64, WANTED, lock_digest), self.say)
        return made.lock_digest, Lock.model_validate_json(await self.blobs.read_bytes(made.lock_digest))


def versions(lock: Lock) -> Sequence[str]:
    return [artefact.version for artefact in lock.artefacts]


async def test_a_whole_lock_is_taken_as_it_is() -> None:
    world = World()
    digest, _ = await world.make()
    world.resolver.packages.append(Package("alpha", "2.0"))
    assert (await world.make(digest))[0] == digest


async def test_a_lock_that_is_gone_is_solved_again() -> None:
    world = World()
    digest, _ = await world.make()
    await world.blobs.delete(digest)
    world.resolver.packages.append(Package("alpha", "2.0"))
    assert versions((await world.make(digest))[1]) == ["2.0", "1.0"]
    assert "The lock is gone; solving again" in world.said


async def test_a_wheel_that_was_built_here_cannot_be_restored() -> None:
    world = World()
    digest, lock = await world.make()
    built = next(artefact for artefact in lock.artefacts if artefact.kind == "built-wheel")
    await world.blobs.delete(built.digest)
    again, _ = await world.make(digest)
    assert not await world.blobs.missing([again, built.digest])
    assert "A wheel that was built here is gone; solving again" in world.said


async def test_a_file_that_the_index_withdrew_is_solved_again() -> None:
    world = World()
    digest, lock = await world.make()
    await world.blobs.delete(lock.artefacts[0].digest)
    world.resolver.packages[0] = Package("alpha", "2.0")
    with pytest.raises(Failed) as refused:
        await World().workshop.make(Job("red", "e1:0", Definition(python=PythonSection(pip=("nope",)))), world.say)
    assert refused.value.code == "package_not_found"
    assert versions((await world.make(digest))[1]) == ["2.0", "1.0"]
    assert any(line.endswith("Solving again") for line in world.said)
