"""Views in memory."""

from collections.abc import Collection, Sequence

from cloche_shared.adapters.memory_faults import NO_FAULTS, Faults
from cloche_shared.adapters.waiters import Waiters
from cloche_shared.ports.views import Row


class MemoryViews:
    """One service's lists, sorted when they are read."""

    def __init__(self, *, faults: Faults = NO_FAULTS) -> None:
        self._rows: dict[tuple[str, str, str], Row] = {}
        self._waiters = Waiters()
        self._faults = faults

    async def upsert(self, rows: Sequence[Row]) -> None:
        await self._faults.before("upsert")
        for row in rows:
            place = (row.view, row.project, row.key)
            known = self._rows.get(place)
            if known is None or known.seq <= row.seq:
                self._rows[place] = row
        self._waiters.reached(rows)
        await self._faults.after("upsert")

    async def get(self, view: str, project: str, key: str) -> Row | None:
        return self._rows.get((view, project, key))

    async def some(self, view: str, project: str, keys: Collection[str]) -> dict[str, Row]:
        found = ((key, self._rows.get((view, project, key))) for key in keys)
        return {key: row for key, row in found if row is not None}

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
        def behind(row: Row) -> bool:
            place = (row.sort, row.key)
            return after is None or (place < after if descending else place > after)

        mine = (row for row in self._rows.values() if (row.view, row.project) == (view, project))
        found = [row for row in mine if facet in (None, row.facet) and behind(row)]
        return sorted(found, key=lambda row: (row.sort, row.key), reverse=descending)[:limit]

    async def delete(self, view: str, project: str, key: str) -> None:
        self._rows.pop((view, project, key), None)
        self._waiters.gone(view, project, key)

    async def changed(self, view: str, project: str, key: str, seq: int) -> None:
        waiting = self._waiters.wait(view, project, key, seq)
        try:
            row = self._rows.get((view, project, key))
            if row is None or row.seq < seq:
                await waiting
        finally:
            self._waiters.leave(view, project, key, waiting)
