"""Keeps a process's table of keys from the facts of `cloche.access`.

The table lives in memory, so each process reads all facts from the start, without a group.
"""

import asyncio
from typing import Final

from cloche_shared.access import AccessTable
from cloche_shared.contracts.fact import Fact, read_fact
from cloche_shared.contracts.facts import TOPICS
from cloche_shared.errors import Invalid, Unavailable
from cloche_shared.notes import notes_of
from cloche_shared.ports.bus import Bus, Delivery
from cloche_shared.ports.journal import OutcomeUnknownError

RETRY_S: Final = 1.0

_log = notes_of(__name__)


def apply_delivery(table: AccessTable, delivery: Delivery) -> None:
    """Take one message into account; what cannot be read opens nothing, and is logged."""
    if delivery.event is None:
        return
    try:
        fact: Fact | None = read_fact(delivery.event.type, delivery.event.data)
    except Invalid as error:
        _log.error("access_fact_unreadable", event_id=delivery.event.id, error=error.what)
        return
    if fact is not None:
        table.apply(fact)


async def feed_access(bus: Bus, table: AccessTable) -> None:
    """Apply every fact about keys, old and new, for ever."""
    while True:
        try:
            async with bus.tail([TOPICS["access"]], from_start=True) as subscription:
                while True:
                    for delivery in await subscription.fetch():
                        apply_delivery(table, delivery)
        except (Unavailable, OutcomeUnknownError, TimeoutError, ConnectionError) as error:
            _log.warning("access_feed_interrupted", error=str(error))
            await asyncio.sleep(RETRY_S)
