"""One build's work: what is restored from a lock, and what has to be solved again."""

from collections.abc import Sequence

import pytest

from cloche_builder.workshop import Job, Tools, Workshop
from cloche_shared.adapters.memory_blobs import MemoryBlobStore
from cloche_shared.adapters.memory_resolver import MemoryIndexHttp, MemoryResolver, Package, wheel_bytes
from cloche_shared.contracts.definition import Definition, Lock, PipOptions, PythonSection, WheelRef
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


# --- private wheels

OWN = wheel_bytes(Package("own", "1.0"))


async def with_own(world: World, scope: str = "red") -> Definition:
    """Return a definition with a wheel that was uploaded to a project."""
    stored = await world.store.space("registry", scope).put_bytes(OWN)
    ref = WheelRef(digest=stored.digest, filename="own-1.0-py3-none-any.whl")
    return Definition(python=PythonSection(pip=("alpha",), wheels=(ref,)))


async def test_a_private_wheel_goes_into_the_lock_by_content_and_into_the_builds_blobs() -> None:
    world = World()
    wanted = await with_own(world)
    made = await world.workshop.make(Job("red", "e1:0", wanted), world.say)
    lock = Lock.model_validate_json(await world.blobs.read_bytes(made.lock_digest))
    (own,) = [artefact for artefact in lock.artefacts if artefact.name == "own"]
    assert (own.kind, own.version, own.url) == ("wheel", "1.0", "./own-1.0-py3-none-any.whl")
    assert await world.blobs.read_bytes(own.digest) == OWN


async def test_a_private_wheel_that_the_builder_lost_comes_from_what_was_uploaded() -> None:
    world = World()
    wanted = await with_own(world)
    made = await world.workshop.make(Job("red", "e1:0", wanted), world.say)
    digest = wanted.python.wheels[0].digest
    await world.blobs.delete(digest)
    again = await world.workshop.make(Job("red", "e1:0", wanted, made.lock_digest), world.say)
    assert again == made
    assert await world.blobs.read_bytes(digest) == OWN


async def test_a_wheel_of_another_project_is_not_found() -> None:
    world = World()
    wanted = await with_own(world, "blue")
    with pytest.raises(Failed) as refused:
        await world.workshop.make(Job("red", "e1:0", wanted), world.say)
    assert (refused.value.code, "own-1.0" in refused.value.what) == ("wheel_not_found", True)


async def test_an_outlook_names_private_wheels_too() -> None:
    world = World()
    made = await world.workshop.make(Job("red", "e1:0", await with_own(world), outlook=True), world.say)
    assert b'"own"' in await world.blobs.read_bytes(made.lock_digest)
    assert not [artefact for artefact in world.said if artefact.startswith("Downloaded")]
