"""A builder whose stores of blobs do not answer for a while."""

import pytest

from cloche_shared.adapters.memory_blobs import MemoryBlobs, MemoryBlobStore
from cloche_shared.errors import Unavailable
from cloche_shared.ports.blobs import Blob
from tests.unit.test_builder_service import World

pytestmark = pytest.mark.looptime


class AwayBlobs(MemoryBlobs):
    """Refuses so many writes."""

    refusals = 8

    async def put_bytes(self, data: bytes) -> Blob:
        if self.refusals:
            self.refusals -= 1
            raise Unavailable("store_unavailable", "The store of blobs does not answer.")
        return await super().put_bytes(data)


class AwayStore(MemoryBlobStore):
    def __init__(self) -> None:
        super().__init__()
        self.blobs = AwayBlobs()

    def space(self, owner: str, scope: str) -> MemoryBlobs:
        return self.blobs


async def test_a_build_waits_for_a_store_that_is_away_and_does_not_fail_for_it() -> None:
    world = World(blobs=AwayStore())
    async with world.running():
        await world.prepare("first")
        [(_, kind, data)] = await world.answered(1)
    assert (kind, data["reused"]) == ("ImageProvided", False)
    assert world.facts() == ["ImageRequested", "ImageBuildStarted", "ImageBuilt"]
