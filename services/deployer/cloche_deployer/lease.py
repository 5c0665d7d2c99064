"""The lease of a deployer's node: where other replicas send what only its workers can answer.

Nothing is taken over by it: services move when the runner declares their node lost.
"""

import asyncio

from cloche_shared.bus.dispatch import TRANSIENT
from cloche_shared.notes import notes_of
from cloche_shared.ports.journal import Lease, Leases

TTL_S = 30.0

_log = notes_of(__name__)


async def keep_lease(leases: Leases, node: str, address: str) -> None:
    """Renew for ever, at a third of the time to live."""
    counter = 0
    while True:
        counter += 1
        try:
            await leases.put(Lease(node, counter, TTL_S, address))
        except TRANSIENT as error:
            _log.warning("lease_not_renewed", node=node, error=str(error))
            await asyncio.sleep(1.0)
        else:
            await asyncio.sleep(TTL_S / 3)
