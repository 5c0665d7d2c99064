"""Leases in memory."""

from cloche_shared.adapters.memory_faults import NO_FAULTS, Faults
from cloche_shared.ports.journal import Lease


class MemoryLeases:
    """One service's leases."""

    def __init__(self, *, faults: Faults = NO_FAULTS) -> None:
        self._leases: dict[str, Lease] = {}
        self._faults = faults

    async def put(self, lease: Lease) -> None:
        await self._faults.before("put")
        self._leases[lease.holder] = lease
        await self._faults.after("put")

    async def get(self, holder: str) -> Lease | None:
        return self._leases.get(holder)

    async def all(self) -> list[Lease]:
        return [self._leases[holder] for holder in sorted(self._leases)]
