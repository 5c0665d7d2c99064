"""Scoring requests that came to the wrong replica: answered by the one that drives the service's node."""

import asyncio

from cloche_deployer.scoring.exchange import Exchange
from cloche_deployer.scoring.target import ServiceTarget
from cloche_shared.errors import Unavailable
from cloche_shared.http.elsewhere import Elsewhere, may_go_on, whole
from cloche_shared.ports.platform import PeerRequest


class PeerOnward:
    """Fulfils `Onward` over the installation's replicas; the key travels with the request and is checked there."""

    def __init__(self, elsewhere: Elsewhere) -> None:
        self._elsewhere = elsewhere

    async def pass_on(self, exchange: Exchange, target: ServiceTarget, body: bytes) -> None:
        address = await self._elsewhere.address_of(target.node) if may_go_on(exchange.scope) else ""
        if not address:
            raise Unavailable(
                "service_unavailable",
                "The replica that serves this cannot be reached now.",
                why=f"The node {target.node} has the service, and no replica drives it at present.",
                todo="Try again.",
            )
        request = self._elsewhere.asked(exchange.scope, body, timeout=target.settings.timeout)
        passing = asyncio.create_task(self._pass(exchange, address, request), name="scoring-onward")
        leaving = asyncio.create_task(exchange.gone(), name="scoring-client")
        try:
            await asyncio.wait((passing, leaving), return_when=asyncio.FIRST_COMPLETED)
        finally:
            for task in (passing, leaving):
                task.cancel()
            await asyncio.gather(passing, leaving, return_exceptions=True)
        if passing.cancelled():
            raise ConnectionError
        passing.result()

    async def _pass(self, exchange: Exchange, address: str, request: PeerRequest) -> None:
        async with self._elsewhere.ask(address, request) as answer:
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
