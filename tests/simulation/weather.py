"""What goes wrong between a service and the world around it, as a seed decides."""

import asyncio
import random
from collections import Counter
from collections.abc import AsyncIterator, Collection, Sequence
from dataclasses import dataclass, field

from cloche_shared.adapters.memory_blobs import MemoryBlobs, MemoryBlobStore
from cloche_shared.adapters.memory_views import MemoryViews
from cloche_shared.errors import Unavailable
from cloche_shared.ports.blobs import Blob, Blobs
from cloche_shared.ports.journal import OutcomeUnknownError
from cloche_shared.ports.views import Row

WRITES = frozenset({"append_many", "put"})
"""Calls whose outcome matters to the caller, so that a lost answer has a name of its own."""


@dataclass
class Climate:
    """How bad the weather is in one history; `clear` ends all of it.

    Probabilities are per call (of a store or the bus) or per event (duplicates, delays).
    """

    draw: random.Random
    unavailable: float
    lost: float
    torn: float
    slow: float
    duplicated: float
    delayed: float
    latency: float
    clear: bool = False
    counts: Counter[str] = field(default_factory=Counter)

    @classmethod
    def drawn(cls, seed: str) -> "Climate":
        """Return a history's climate: some are calm in parts, so that each fault is also seen alone."""
        draw = random.Random(seed)

        def share(most: float) -> float:
            return draw.choice((0.0, most / 4, most))

        return cls(
            draw,
            unavailable=share(0.03),
            lost=share(0.06),
            torn=share(0.06),
            slow=share(0.01),
            duplicated=share(0.3),
            delayed=share(0.3),
            latency=draw.choice((0.005, 0.05, 0.4)),
        )

    def happens(self, probability: float, what: str) -> bool:
        """Tell whether something goes wrong now, and count it."""
        if self.clear or not probability or self.draw.random() >= probability:
            return False
        self.counts[what] += 1
        return True

    async def breathe(self) -> None:
        """Let others go on, often within the same moment, sometimes later, rarely much later."""
        if self.clear:
            return
        if self.happens(self.slow, "slow calls"):
            await asyncio.sleep(self.draw.uniform(0.5, 6.0))
        elif self.draw.random() < 0.25:
            await asyncio.sleep(self.draw.uniform(0.0, self.latency))
        else:
            await asyncio.sleep(0)

    def refuse(self) -> Unavailable:
        """Return the error of a part that does not answer."""
        return Unavailable("store_unavailable", "The store does not answer.")


class Weather:
    """The port `Faults` under a climate."""

    def __init__(self, climate: Climate) -> None:
        self._climate = climate

    async def before(self, call: str) -> None:
        climate = self._climate
        await climate.breathe()
        if climate.happens(climate.unavailable, "refused calls"):
            raise climate.refuse()
        if call in WRITES and climate.happens(climate.lost / 2, "lost answers"):
            raise OutcomeUnknownError("nothing was written")

    async def after(self, call: str) -> None:
        climate = self._climate
        await climate.breathe()
        if climate.happens(climate.lost, "lost answers"):
            if call in WRITES:
                raise OutcomeUnknownError("it was written")
            raise climate.refuse()

    def kept(self, count: int) -> int:
        climate = self._climate
        torn = count > 1 and climate.happens(climate.torn, "torn writes")
        return climate.draw.randrange(count) if torn else count

    def copies(self, event_id: str) -> list[float]:
        climate = self._climate
        first = climate.draw.uniform(0.0, 3.0) if climate.happens(climate.delayed, "delayed events") else 0.0
        if not climate.happens(climate.duplicated, "duplicates"):
            return [first]
        return [first, *(climate.draw.uniform(0.0, 15.0) for _ in range(climate.draw.randint(1, 2)))]


class WeatheredViews(MemoryViews):
    """A process's way to views that outlive it."""

    def __init__(self, views: MemoryViews, climate: Climate) -> None:
        super().__init__(faults=Weather(climate))
        self._rows, self._waiters = views._rows, views._waiters
        self._climate = climate

    async def page(
        self,
        view: str,
        project: str,
        *,
        facet: str | None = None,
        after: tuple[str, str] | None = None,
        limit: int = 50,
        descending: bool = False,
    ) -> list[Row]:
        await self._faults.before("page")
        return await super().page(view, project, facet=facet, after=after, limit=limit, descending=descending)


class WeatheredBlobs(MemoryBlobs):
    """A process's way to a space of blobs that outlives it."""

    def __init__(self, blobs: MemoryBlobs, climate: Climate) -> None:
        super().__init__()
        self.content = blobs.content
        self._faults = Weather(climate)

    async def put_bytes(self, data: bytes) -> Blob:
        await self._faults.before("put_bytes")
        blob = await super().put_bytes(data)
        await self._faults.after("put_bytes")
        return blob

    async def read_bytes(self, digest: str, *, limit: int = 16 * 1024 * 1024) -> bytes:
        await self._faults.before("read_bytes")
        return await super().read_bytes(digest, limit=limit)

    async def missing(self, digests: list[str]) -> list[str]:
        await self._faults.before("missing")
        return await super().missing(digests)

    async def sizes(self, digests: Collection[str]) -> dict[str, int]:
        await self._faults.before("sizes")
        return await super().sizes(digests)

    async def read(self, digest: str, *, start: int = 0, end: int | None = None) -> AsyncIterator[bytes]:
        await self._faults.before("read")
        async for chunk in super().read(digest, start=start, end=end):
            yield chunk


class WeatheredBlobStore:
    """All spaces, under a climate."""

    def __init__(self, store: MemoryBlobStore, climate: Climate) -> None:
        self._store = store
        self._climate = climate

    def space(self, owner: str, scope: str) -> Blobs:
        return WeatheredBlobs(self._store.space(owner, scope), self._climate)


def spread(draw: random.Random, most: float, count: int) -> Sequence[float]:
    """Return moments within a time, in order."""
    return sorted(draw.uniform(0.0, most) for _ in range(count))
