"""Who may score: one who guesses slows only guesses down."""

import json
from typing import Any

from cloche_deployer.scoring.app import ScoringApp
from cloche_deployer.scoring.exchange import Exchange
from cloche_deployer.scoring.ports import Onward
from cloche_deployer.scoring.target import RoutingTable, ServiceTarget, TargetSettings, digest
from cloche_deployer.wiring import KeyGuard
from cloche_shared.access import FailureGate


class Front:
    """A scoring front with one service that has no workers yet: whoever is let in reads 503."""

    def __init__(self, onward: Onward | None = None) -> None:
        table = RoutingTable()
        self.target = ServiceTarget("p", "svc", [digest("right")], None, TargetSettings())
        table.put(self.target)
        self.now = 0.0
        self.patience: list[bool] = []
        gate = FailureGate(lambda: self.now, limit=3)
        self._app = ScoringApp(table, lambda: "id", access=self, guard=KeyGuard(gate), onward=onward)

    async def projects(self, token: str, *, patient: bool) -> frozenset[str]:
        self.patience.append(patient)
        return frozenset({"p"}) if token == "pt" else frozenset()

    async def status(self, key: str) -> tuple[int, str]:
        """Return status and code of a scoring request with a key."""
        sent: list[dict[str, Any]] = []

        async def send(message: Any) -> None:
            sent.append(message)

        async def receive() -> dict[str, Any]:
            return {"type": "http.request", "body": b"", "more_body": False}

        scope = {
            "type": "http",
            "method": "POST",
            "path": "/api/v1/services/svc/score",
            "headers": [(b"authorization", b"Bearer " + key.encode())],
            "client": ("192.0.2.1", 1),
        }
        await self._app(scope, receive, send)
        return sent[0]["status"], json.loads(sent[1]["body"])["code"]


async def test_wrong_keys_of_an_address_do_not_lock_right_ones_out() -> None:
    front = Front()
    for _ in range(3):
        assert await front.status("guess") == (401, "unauthenticated")
    assert await front.status("guess") == (429, "too_many_requests")
    assert await front.status("right") == (503, "service_unavailable")
    assert await front.status("pt") == (503, "service_unavailable")
    front.now += 60.0
    assert await front.status("guess") == (401, "unauthenticated")


async def test_an_address_that_guesses_gets_no_patience_for_tokens_on_their_way() -> None:
    front = Front()
    for _ in range(4):
        await front.status("guess")
    assert front.patience == [True, True, True, False]


class Elsewhere:
    """The node that has the workers."""

    def __init__(self) -> None:
        self.asked: list[tuple[str, bytes]] = []

    async def pass_on(self, exchange: Exchange, target: ServiceTarget, body: bytes) -> bool:
        self.asked.append((target.node, body))
        await exchange.answer(200, b'{"code": "from there"}', ())
        return True


async def test_what_another_node_serves_is_answered_there_once_the_key_is_right() -> None:
    there = Elsewhere()
    front = Front(there)
    front.target.node = "n2"
    assert await front.status("guess") == (401, "unauthenticated")
    assert there.asked == []
    assert await front.status("right") == (200, "from there")
    assert there.asked == [("n2", b"")]
