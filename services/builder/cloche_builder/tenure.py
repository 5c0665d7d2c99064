"""Tenure: a builder's own lease, and how long others' leases have not been renewed.

Only this process's monotonic clock is used, on both sides; the store is trusted for nothing but
keeping what was put (reliability R24-R26, R29).
"""

import asyncio
from collections.abc import Callable
from dataclasses import dataclass

from cloche_shared.errors import Unavailable
from cloche_shared.notes import notes_of
from cloche_shared.ports.journal import Lease, Leases, OutcomeUnknownError
from cloche_shared.ports.platform import Clock

OWN_SHARE = 0.7
"""The part of the TTL after which a builder that could not renew stops its own work."""
TAKEOVER_AFTER_S = 1.0
"""Seconds beyond the TTL before others take over."""

_TROUBLE = (Unavailable, OutcomeUnknownError, TimeoutError)
_log = notes_of(__name__)


@dataclass(frozen=True, slots=True)
class _Seen:
    counter: int
    since: float


class Tenure:
    """The lease of `holder`, which other replicas reach at `address`.

    `changed` is told when it was won (true) and when it could not be renewed in time (false).
    """

    def __init__(
        self,
        holder: str,
        leases: Leases,
        clock: Clock,
        ttl: float,
        changed: Callable[[bool], None],
        address: str = "",
    ) -> None:
        self.holder = holder
        self._address = address
        self._leases = leases
        self._monotonic = clock.monotonic
        self._ttl = ttl
        self._changed = changed
        self._counter = 0
        self._renewed = float("-inf")
        self._had = False
        self._seen: dict[str, _Seen] = {}
        self._looked = float("-inf")

    @property
    def held(self) -> bool:
        """Whether own work may go on."""
        return self._left() > 0

    async def until_held(self) -> None:
        """Return when own work may go on. Who slept beyond the lease is not told yet that others took over."""
        while not self.held:  # noqa: ASYNC110 - it is lost by time alone, which tells nobody
            await asyncio.sleep(self._ttl / 30)

    def _left(self) -> float:
        return self._renewed + OWN_SHARE * self._ttl - self._monotonic()

    async def run(self) -> None:
        """Renew for ever."""
        while True:
            await self._renew()
            self._notice()
            wait = self._ttl / 3
            await asyncio.sleep(min(wait, max(self._left(), 0.01)) if self._had else 0.1 * wait)
            # before the next try, which may take long: own work must not go on meanwhile
            self._notice()

    def _notice(self) -> None:
        """Tell once that the lease was won or lost."""
        held = self.held
        if held is self._had:
            return
        self._had = held
        if not held:
            _log.warning("lease_lost", holder=self.holder)
        self._changed(held)

    async def _renew(self) -> None:
        patience = self._ttl / 3
        if self.held:
            patience = min(patience, max(self._left(), 0.01))
        if self._counter == 0:
            await self._resume(patience)
        began = self._monotonic()
        lease = Lease(self.holder, self._counter + 1, self._ttl, self._address)
        try:
            async with asyncio.timeout(patience):
                await self._leases.put(lease)
        except _TROUBLE as error:
            _log.warning("lease_not_renewed", holder=self.holder, error=str(error))
            return
        self._counter += 1
        self._renewed = began

    async def _resume(self, patience: float) -> None:
        """Go on from the counter of a former process, so that observers see it change."""
        try:
            async with asyncio.timeout(patience):
                former = await self._leases.get(self.holder)
        except _TROUBLE:
            return
        self._counter = former.counter if former is not None else 0

    async def observe(self, holders: set[str]) -> None:
        """Look at the leases of other builders.

        After a pause of our own longer than a TTL nobody is held dead for what was not looked at.
        """
        now = self._monotonic()
        if now - self._looked > self._ttl:
            self._seen.clear()
        self._looked = now
        found = {lease.holder: lease.counter for lease in await self._leases.all()} if holders else {}
        for holder in holders:
            counter = found.get(holder, -1)
            known = self._seen.get(holder)
            if known is None or known.counter != counter:
                self._seen[holder] = _Seen(counter, now)
        self._seen = {holder: seen for holder, seen in self._seen.items() if holder in holders}

    def is_dead(self, holder: str) -> bool:
        """Whether its lease ran out, as far as was observed here."""
        seen = self._seen.get(holder)
        return seen is not None and self._looked - seen.since >= self._ttl + TAKEOVER_AFTER_S
