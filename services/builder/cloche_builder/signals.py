"""Signals: wakes those who wait for news of an aggregate, within one process."""

import asyncio
import contextlib
from collections import defaultdict

from cloche_shared.bus.dispatch import TRANSIENT
from cloche_shared.notes import notes_of
from cloche_shared.ports.bus import Bus

TOPIC = "cloche.builds"
RETRY_S = 1.0
"""Seconds before a bus that did not answer is asked again."""

_log = notes_of(__name__)


class Signals:
    """Futures by the name of an aggregate (`build/<scope>/<key>`).

    `count` grows with all news: whoever takes it before looking misses nothing that comes in between.
    """

    def __init__(self) -> None:
        self.count = 0
        self._waiting: defaultdict[str, set[asyncio.Future[None]]] = defaultdict(set)

    def notify(self, subject: str) -> None:
        """Wake all who wait for it."""
        self.count += 1
        for future in self._waiting.pop(subject, ()):
            if not future.done():
                future.set_result(None)

    async def wait(self, subject: str, seconds: float, *, since: int) -> None:
        """Return at the next news of the aggregate, at once if any came since `count` was `since`.

        At most so many seconds are waited.
        """
        if self.count != since:
            return
        future: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiting[subject].add(future)
        try:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(seconds):
                    await future
        finally:
            left = self._waiting.get(subject)
            if left is not None:
                left.discard(future)
                if not left:
                    del self._waiting[subject]

    async def follow(self, bus: Bus) -> None:
        """Notify of everything that any builder records, for ever, whatever becomes of the bus.

        After an interruption all who wait are woken: what happened meanwhile was heard by nobody.
        """
        while True:
            try:
                async with bus.tail([TOPIC]) as subscription:
                    self._notify_all()
                    while True:
                        for delivery in await subscription.fetch():
                            if delivery.event is not None:
                                self.notify(delivery.event.subject)
            except TRANSIENT as error:
                _log.warning("signals_missed", error=str(error))
                await asyncio.sleep(RETRY_S)

    def _notify_all(self) -> None:
        for subject in list(self._waiting):
            self.notify(subject)
