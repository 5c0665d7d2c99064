"""The clocks of the operating system, and of an event loop whose time may be virtual."""

import asyncio
import time
from datetime import UTC, datetime, timedelta


class SystemClock:
    """Clock of this machine."""

    def now(self) -> datetime:
        return datetime.now(UTC)

    def monotonic(self) -> float:
        return time.monotonic()


class MemoryClock:
    """Clock that goes with the running loop: in a simulation hours cost nothing and a seed replays them."""

    def __init__(self, start: datetime = datetime(2026, 1, 1, tzinfo=UTC)) -> None:
        self._start = start

    def now(self) -> datetime:
        return self._start + timedelta(seconds=self.monotonic())

    def monotonic(self) -> float:
        return asyncio.get_running_loop().time()
