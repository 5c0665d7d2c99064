"""Fills `cloche.access` again when the broker lost what it held of keys and projects.

Every process knows keys from that topic alone, so that with an empty one nobody gets in, not even to
republish. The registry owns these facts: before it is ready it compares the topic with its journal.
"""

import asyncio
from typing import Final

from cloche_registry.handlers import OWNER
from cloche_registry.keys import ACCESS
from cloche_shared.bus.dispatch import TRANSIENT
from cloche_shared.bus.republish import Republisher, Selection
from cloche_shared.contracts.facts import TOPICS
from cloche_shared.journal.commit import events_of
from cloche_shared.notes import notes_of
from cloche_shared.ports.bus import Bus, Subscription
from cloche_shared.ports.journal import Journal

RETRY_S: Final = 1.0
LOOK_S: Final = 0.05
"""Seconds between two looks whether the topic was read to its end."""
PAGE: Final = 1000
_KEYS: Final = f"{ACCESS.name}/"

_log = notes_of(__name__)


async def refill_access(journal: Journal, bus: Bus) -> int:
    """Send all facts about keys and projects again if the topic lacks one that was sent; return how many.

    Stores that do not answer are waited for.
    """
    while True:
        try:
            if not await _lacks(journal, bus):
                return 0
            sent = await _send(Republisher(OWNER, journal, bus, sends=True))
        except TRANSIENT as error:
            _log.warning("access_not_compared", error=str(error))
            await asyncio.sleep(RETRY_S)
        else:
            _log.warning("access_refilled", sent=sent)
            return sent


async def _lacks(journal: Journal, bus: Bus) -> bool:
    """Whether a fact that the journal holds as sent is not in the topic."""
    there: set[str] | None = None
    after = ""
    while documents := await journal.read(_KEYS, after=after, limit=PAGE):
        after = documents[-1].key
        sent = [one for one in documents if one.sent]
        if sent and there is None:
            there = await _ids(bus)
        if any(event.id not in (there or ()) for one in sent for event in events_of(one, f"/cloche/{OWNER}")):
            return True
    return False


async def _send(republisher: Republisher) -> int:
    sent, place = 0, _KEYS
    while place.startswith(_KEYS):
        page = await republisher.page(Selection(), place)
        sent, place = sent + page.sent, page.place
    return sent


async def _ids(bus: Bus) -> set[str]:
    """Return the ids of all events in the topic."""
    found: set[str] = set()

    async def follow(subscription: Subscription) -> None:
        while True:
            found.update(one.event.id for one in await subscription.fetch() if one.event is not None)

    async with bus.tail([TOPICS["access"]], from_start=True) as subscription:
        following = asyncio.ensure_future(follow(subscription))
        try:
            while await subscription.behind():
                await asyncio.wait([following], timeout=LOOK_S)
                if following.done():
                    following.result()
            # what was fetched in the meantime is taken in this turn of the loop
            await asyncio.sleep(0)
        finally:
            following.cancel()
            await asyncio.gather(following, return_exceptions=True)
    return found
