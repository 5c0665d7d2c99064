"""Waiting for a row of a view to reach a position, within one process."""

import asyncio
from collections import defaultdict
from collections.abc import Sequence

from cloche_shared.ports.views import Row

_Place = tuple[str, str, str]


class Waiters:
    """Futures by row and position."""

    def __init__(self) -> None:
        self._waiting: defaultdict[_Place, list[tuple[int, asyncio.Future[None]]]] = defaultdict(list)

    def wait(self, view: str, project: str, key: str, seq: int) -> asyncio.Future[None]:
        """Return a future that resolves when the row has at least this position, or is removed."""
        future: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiting[view, project, key].append((seq, future))
        return future

    def leave(self, view: str, project: str, key: str, future: asyncio.Future[None]) -> None:
        """Forget a future."""
        place = (view, project, key)
        rest = [(seq, other) for seq, other in self._waiting.pop(place, ()) if other is not future]
        if rest:
            self._waiting[place] = rest

    def reached(self, rows: Sequence[Row]) -> None:
        """Wake those who wait for one of these rows."""
        if not self._waiting:
            return
        for row in rows:
            for seq, future in self._waiting.get((row.view, row.project, row.key), ()):
                if row.seq >= seq and not future.done():
                    future.set_result(None)

    def gone(self, view: str, project: str, key: str) -> None:
        """Wake all who wait for a row that was removed."""
        for _, future in self._waiting.get((view, project, key), ()):
            if not future.done():
                future.set_result(None)
