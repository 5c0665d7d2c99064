"""Scoring requests that came to the wrong replica: answered by the one that drives the service's node.

A service may move while a request is under way. Whoever was asked for what he does not serve any more says so
without having begun it (`MOVED`), and the replica that asked looks at the journal and asks where the service is now.
"""

import asyncio
from typing import Final

from cloche_deployer.scoring.exchange import Exchange
from cloche_deployer.scoring.ports import Lookout
from cloche_deployer.scoring.target import ServiceTarget
from cloche_shared.errors import Unavailable
from cloche_shared.http.elsewhere import Elsewhere, may_go_on, whole
from cloche_shared.ports.platform import PeerRequest

MOVED: Final = b"cloche-moved"
"""The field of an answer of one replica to another: the service is not here, and nothing was done."""
PATIENCE_S: Final = 15.0
"""Seconds during which a service that moves is followed."""
_UNAVAILABLE: Final = 503
_PAUSE_S: Final = 0.1


class PeerOnward:
    """Fulfils `Onward` over the installation's replicas; the key travels with the request and is checked there."""

    def __init__(self, elsewhere: Elsewhere, lookout: Lookout) -> None:
        self._elsewhere = elsewhere
        self._lookout = lookout

    async def pass_on(self, exchange: Exchange, target: ServiceTarget, body: bytes) -> bool:
        if not may_go_on(exchange.scope):
            return await self._sent_back(exchange, target)
        passing = asyncio.create_task(self._follow(exchange, target, body), name="scoring-onward")
        leaving = asyncio.create_task(exchange.gone(), name="scoring-client")
        try:
            await asyncio.wait((passing, leaving), return_when=asyncio.FIRST_COMPLETED)
        finally:
            for task in (passing, leaving):
                task.cancel()
            await asyncio.gather(passing, leaving, return_exceptions=True)
        if passing.cancelled():
            raise ConnectionError
        return passing.result()

    async def _sent_back(self, exchange: Exchange, target: ServiceTarget) -> bool:
        """Tell the replica that asked that the service is elsewhere, unless a look shows that it is here."""
        await self._lookout.look_at((target.project,), target.name)
        if not target.is_elsewhere:
            return False
        await exchange.problem(_not_reached(target.node), (MOVED, b"1"))
        return True

    async def _follow(self, exchange: Exchange, target: ServiceTarget, body: bytes) -> bool:
        """Ask the node that has the service, and again where it went meanwhile; false when it came here."""
        request = self._elsewhere.asked(exchange.scope, body, timeout=target.settings.timeout)
        loop = asyncio.get_running_loop()
        end = loop.time() + PATIENCE_S
        while target.is_elsewhere:
            node = target.node
            address = await self._elsewhere.address_of(node)
            if address and await self._passed(exchange, address, request):
                return True
            if loop.time() >= end:
                raise _not_reached(node)
            await self._lookout.look_at((target.project,), target.name)
            if not address and target.node == node:
                raise _not_reached(node)
            await asyncio.sleep(_PAUSE_S)
        return False

    async def _passed(self, exchange: Exchange, address: str, request: PeerRequest) -> bool:
        """Send on what a replica answers; false, with nothing sent, when it says that the service moved."""
        async with self._elsewhere.ask(address, request) as answer:
            if answer.status == _UNAVAILABLE and any(name == MOVED for name, _ in answer.fields):
                return False
            start = {"type": "http.response.start", "status": answer.status, "headers": whole(answer.fields)}
            head = False
            async for chunk in answer.body:
                if not head:
                    await exchange.send(start)
                    head = True
                await exchange.send({"type": "http.response.body", "body": chunk, "more_body": True})
            if not head:
                await exchange.send(start)
            await exchange.send({"type": "http.response.body", "body": b"", "more_body": False})
        return True


def _not_reached(node: str) -> Unavailable:
    return Unavailable(
        "service_unavailable",
        "The replica that serves this cannot be reached now.",
        why=f"The node {node} has the service, and no replica drives it at present.",
        todo="Try again.",
    )
