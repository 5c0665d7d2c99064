"""What can go wrong with the stores in memory, decided by whoever constructs them."""

from typing import Protocol


class Faults(Protocol):
    """Asked around every call of a memory adapter; `call` names it (`append_many`, `publish`, …).

    Both methods may wait. Both may raise: before the call nothing is done, after it all is done and
    only the answer is lost (`OutcomeUnknownError`, or `Unavailable` from a bus).
    """

    async def before(self, call: str) -> None:
        """Run before a call takes effect."""

    async def after(self, call: str) -> None:
        """Run after a call took effect, before its caller hears of it."""

    def kept(self, count: int) -> int:
        """Return how many of `count` documents are written before the store dies; `count`: it does not.

        An atomic store writes all or, when fewer are kept, none.
        """

    def copies(self, event_id: str) -> list[float]:
        """Return the extra latency, in seconds, of each delivery of an event: one number, or more for duplicates."""


class NoFaults:
    """Nothing goes wrong."""

    async def before(self, call: str) -> None:
        """Do nothing."""

    async def after(self, call: str) -> None:
        """Do nothing."""

    def kept(self, count: int) -> int:
        return count

    def copies(self, event_id: str) -> list[float]:  # noqa: ARG002 - the port's signature
        return [0.0]


NO_FAULTS = NoFaults()
