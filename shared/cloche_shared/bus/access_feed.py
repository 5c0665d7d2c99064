"""Keeps a process's table of keys and projects from the facts of `cloche.access`.

The table lives in memory, so each process reads all facts from the start, without a group. Every few
seconds it asks the broker whether there is more than it has read: that it has heard everything is what
lets its keys hold (`AccessTable.stale`).
"""

import asyncio
from collections.abc import Coroutine
from typing import Final

from cloche_shared.access import AccessTable
from cloche_shared.contracts.fact import Fact, read_fact
from cloche_shared.contracts.facts import TOPICS
from cloche_shared.errors import Invalid, Unavailable
from cloche_shared.notes import notes_of
from cloche_shared.ports.bus import Bus, Delivery, Subscription
from cloche_shared.ports.journal import OutcomeUnknownError

RETRY_S: Final = 1.0
ASK_S: Final = 5.0
"""Seconds between two questions whether everything was read."""
FIRST_ASK_S: Final = 0.05
"""The same until everything was read for the first time: nobody gets in before that."""

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
        table.apply(fact, delivery.event.project)


async def feed_access(bus: Bus, table: AccessTable) -> None:
    """Apply every fact about keys and projects, old and new, for ever."""
    while True:
        try:
            async with bus.tail([TOPICS["access"]], from_start=True) as subscription:
                await _first_to_fail(_follow(subscription, table), _ask(subscription, table))
        except (Unavailable, OutcomeUnknownError, TimeoutError, ConnectionError) as error:
            _log.warning("access_feed_interrupted", error=str(error))
            await asyncio.sleep(RETRY_S)


async def _follow(subscription: Subscription, table: AccessTable) -> None:
    while True:
        for delivery in await subscription.fetch():
            apply_delivery(table, delivery)


async def _ask(subscription: Subscription, table: AccessTable) -> None:
    """Tell the table each time that the broker says there is nothing more."""
    pause = FIRST_ASK_S
    while True:
        if not await subscription.behind():
            # what was fetched in the meantime is applied in this turn of the loop
            await asyncio.sleep(0)
            table.heard()
            pause = ASK_S
        await asyncio.sleep(pause)


async def _first_to_fail(*endless: Coroutine[object, object, None]) -> None:
    tasks = [asyncio.ensure_future(one) for one in endless]
    try:
        done, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        for task in done:
            task.result()
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
