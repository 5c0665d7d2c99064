"""The front: one raw ASGI layer before everything that listens.

It checks Host and Origin, names the request, finds the caller, bounds the body as it arrives, adds
the security headers, turns whatever escapes into a problem, and notes one access line. It stands
before FastAPI, so no route can be reached around it (security rule 1).
"""

import asyncio
import re
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from typing import Final, Protocol

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from cloche_shared.access import AccessTable, FailureGate, KeyRates, Principal
from cloche_shared.errors import ClocheError, Invalid, Throttled, TooLarge, Unauthenticated
from cloche_shared.http.exchange import KEY, Exchange
from cloche_shared.http.patience import Patience
from cloche_shared.http.policy import BodyRule, FrontPolicy, HostCheck, media_type_error
from cloche_shared.http.problems import rendered
from cloche_shared.http.remainder import Remainder, remainder
from cloche_shared.ports.platform import Clock, Random

_SAFE: Final = frozenset({"GET", "HEAD", "OPTIONS"})
_REQUEST_ID: Final = re.compile(rb"[A-Za-z0-9._:/+=-]{1,128}").fullmatch
_TRACEPARENT: Final = re.compile(rb"00-(?!0{32})([0-9a-f]{32})-(?!0{16})[0-9a-f]{16}-([0-9a-f]{2})").fullmatch
_FIXED: Final[tuple[tuple[bytes, bytes], ...]] = (
    (b"x-content-type-options", b"nosniff"),
    (b"referrer-policy", b"no-referrer"),
)
_DEFAULTS: Final[tuple[tuple[bytes, bytes], ...]] = (
    (b"cache-control", b"no-store"),
    (b"content-security-policy", b"default-src 'none'; frame-ancestors 'none'"),
)
_REFUSED: Final = 400
MAX_POSITION_BYTES: Final = 4096


class Ahead(Protocol):
    """A raw ASGI app that is asked before the REST app, after the checks of Host and Origin.

    It answers for its own credentials, limits, headers and figures (the scoring front); the front notes
    what it refuses, and turns what escapes it into a problem.
    """

    def takes(self, method: str, path: str) -> bool:
        """Whether this request is for it."""

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve the request."""


AccessNote = Callable[[Exchange, float], None]
"""Takes one finished exchange and its duration in seconds; must be quick."""


@dataclass(frozen=True, slots=True)
class FrontParts:
    """What a front works with.

    `ahead` are asked before the app; `note` gets each finished exchange, `crashed` what escaped the
    app; `gate` counts failed attempts; `drain` is set when the server begins to end.
    """

    access: AccessTable
    clock: Clock
    random: Random
    policy: FrontPolicy = field(default_factory=FrontPolicy)
    ahead: Sequence[Ahead] = ()
    note: AccessNote | None = None
    crashed: Callable[[Exchange, Exception], None] | None = None
    gate: FailureGate | None = None
    drain: asyncio.Event = field(default_factory=asyncio.Event)


class Front:
    """The front before one app; `installation` is the id that positions begin with."""

    def __init__(self, app: ASGIApp, installation: str, parts: FrontParts) -> None:
        self._app = app
        self._installation = installation
        self._policy = parts.policy
        self._access = parts.access
        self._monotonic = parts.clock.monotonic
        self._random = parts.random
        self._ahead = tuple(parts.ahead)
        self._note = parts.note
        self._crashed = parts.crashed
        self._gate = parts.gate or FailureGate(parts.clock.monotonic)
        rate = parts.policy.requests_per_s
        self._rates = KeyRates(parts.clock.monotonic, rate) if rate else None
        self._hosts = HostCheck(parts.policy)
        self._proxies = parts.policy.proxies
        self._drain = parts.drain
        self._patience = Patience()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one connection of ASGI."""
        if scope["type"] == "lifespan":
            await self._app(scope, receive, send)
        elif scope["type"] == "websocket":
            await receive()
            await send({"type": "websocket.close", "code": 1008, "reason": ""})
        else:
            await self._http(scope, receive, send)

    async def _http(self, scope: Scope, receive: Receive, send: Send) -> None:
        headers: dict[bytes, bytes] = dict(scope["headers"])
        method, path = scope["method"], scope["path"]
        if self._proxies:
            self._proxies.see_through(scope)
        refused = self._origin_refused(method, headers)
        if refused is None:
            for app in self._ahead:
                if app.takes(method, path):
                    await self._ahead_of(app, scope, receive, send)
                    return
        started = self._monotonic()
        exchange = self._exchange(scope, headers)
        scope[KEY] = exchange
        if method == "HEAD":  # answered by whatever answers a GET; the server's own scope stays as it is
            scope = {**scope, "method": "GET"}
        rest = remainder(headers, receive, self._patience)
        receive = rest or receive
        answer = _Answer(exchange, send, self._installation, rest)
        if refused is None:
            await self._caller_heard_of(exchange, headers)
        refused = refused or self._caller_refused(exchange, headers)
        if refused is None:
            refused, receive = self._body(exchange, headers, receive)
        if refused is not None:
            await answer.problem(refused)
        else:
            await self._run(scope, receive, answer)
        exchange.route = getattr(scope.get("route"), "path_format", "")
        self._noted(exchange, started)

    async def _ahead_of(self, app: Ahead, scope: Scope, receive: Receive, send: Send) -> None:
        """Run an app that answers for itself; what escapes it becomes a problem, and only refusals are noted.

        A line for each answer would cost a hot path more than the check does; its successes are in
        the figures that the app counts itself.
        """
        started = self._monotonic()
        start: Message | None = None

        def watched(message: Message) -> Awaitable[None]:
            nonlocal start
            if message["type"] == "http.response.start":
                start = message
            return send(message)

        try:
            await app(scope, receive, watched)
        except Exception as error:
            exchange = self._exchange(scope, dict(scope["headers"]))
            if self._crashed is not None:
                self._crashed(exchange, error)
            if start is not None:
                raise
            await _Answer(exchange, send, self._installation).problem(error)
            self._noted(exchange, started)
            return
        if start is not None and start["status"] >= _REFUSED:
            exchange = self._exchange(scope, dict(scope["headers"]))
            exchange.status = start["status"]
            given = dict(start.get("headers", ())).get(b"x-request-id", b"")
            exchange.request_id = given.decode("latin-1") or exchange.request_id
            self._noted(exchange, started)

    def _noted(self, exchange: Exchange, started: float) -> None:
        if self._note is not None:
            self._note(exchange, self._monotonic() - started)

    async def _run(self, scope: Scope, receive: Receive, answer: "_Answer") -> None:
        exchange = answer.exchange
        try:
            await self._app(scope, receive, answer.send)
        except Exception as error:
            if answer.finished and isinstance(error, _HeadSentError):
                return
            if exchange.refused is None and self._crashed is not None and not isinstance(error, ClocheError):
                self._crashed(exchange, error)
            if answer.finished:
                return
            if answer.started:
                raise
            await answer.problem(exchange.refused or error)
        if not answer.started and exchange.refused is not None:
            await answer.problem(exchange.refused)

    def _origin_refused(self, method: str, headers: dict[bytes, bytes]) -> ClocheError | None:
        host = headers.get(b"host")
        refused = self._hosts.host(host)
        origin = headers.get(b"origin")
        if refused is None and origin is not None and method not in _SAFE:
            refused = self._hosts.origin(origin, host or b"")
        return refused

    def _exchange(self, scope: Scope, headers: dict[bytes, bytes]) -> Exchange:
        fresh = self._random.uuid7()
        own = fresh.replace("-", "")
        given = headers.get(b"x-request-id")
        trace = _TRACEPARENT(headers[b"traceparent"]) if b"traceparent" in headers else None
        trace_id, flags = (trace[1].decode(), trace[2].decode()) if trace else (own, "00")
        client = scope.get("client")
        position = headers.get(b"cloche-position", b"")
        accept = headers.get(b"accept", b"")
        return Exchange(
            request_id=given.decode() if given is not None and _REQUEST_ID(given) else fresh,
            traceparent=f"00-{trace_id}-{own[16:]}-{flags}",
            address=client[0] if client else "",
            method=scope["method"],
            path=scope["path"],
            position=position.decode("latin-1") if len(position) <= MAX_POSITION_BYTES else "",
            accept=b"" if b"*/*" in accept else accept,
            drain=self._drain,
        )

    async def _caller_heard_of(self, exchange: Exchange, headers: dict[bytes, bytes]) -> None:
        """Wait for facts on their way: a token or project that another replica just made is refused by none."""
        if exchange.path in self._policy.open_paths:
            return
        token = _token_of(headers)
        project = headers.get(b"cloche-project", b"").decode("latin-1")
        if self._access.lacks(token, project) and not self._gate.is_suspect(exchange.address):
            await self._access.catch_up(token, project)

    def _caller_refused(self, exchange: Exchange, headers: dict[bytes, bytes]) -> ClocheError | None:
        if exchange.path in self._policy.open_paths:
            return None
        token = _token_of(headers)
        if not token:  # nobody guesses who sends none, and it is refused at no cost
            return _unauthenticated(given=False)
        if not self._access.remembers(token) and (wait := self._gate.wait(exchange.address)) > 0:
            return Throttled(
                "too_many_failures",
                "Too many attempts without a valid token came from this address.",
                todo="Wait, then send a valid token.",
                extra={"retry_after": int(wait) + 1},
            )
        principal = self._access.authenticate(token)
        if (unknown := self._access.stale()) is not None:
            return unknown
        if principal is None:
            self._gate.failed(exchange.address)
            return _unauthenticated(given=True)
        exchange.principal, exchange.projects = principal, self._access.projects
        return self._too_fast(principal)

    def _too_fast(self, principal: Principal) -> Throttled | None:
        wait = self._rates.wait(principal.subject) if self._rates is not None else 0
        if wait <= 0:
            return None
        return Throttled(
            "rate_limited",
            "This key asks for more than it may.",
            todo="Wait, and send less at a time.",
            extra={"retry_after": int(wait) + 1},
        )

    def _body(
        self, exchange: Exchange, headers: dict[bytes, bytes], receive: Receive
    ) -> tuple[ClocheError | None, Receive]:
        length = headers.get(b"content-length")
        chunked = b"transfer-encoding" in headers
        if not chunked and length in {None, b"0"}:
            return None, receive
        rule = self._policy.body_rule(exchange.path)
        refused = media_type_error(headers.get(b"content-type"), rule)
        if refused is None and length is not None and (not length.isdigit() or int(length) > rule.limit):
            refused = _too_large(rule.limit)
        return refused, _Bounded(exchange, rule, receive, self._patience)


def _token_of(headers: dict[bytes, bytes]) -> str:
    header = headers.get(b"authorization", b"")
    return header[7:].decode("latin-1").strip() if header[:7].lower() == b"bearer " else ""


def _unauthenticated(*, given: bool) -> Unauthenticated:
    return Unauthenticated(
        "unauthenticated",
        "The token is not known, has expired or was revoked." if given else "The request carries no token.",
        todo="Send `Authorization: Bearer <token>`; `cloche status` says where the token lies.",
    )


def _too_large(limit: int) -> TooLarge:
    return TooLarge("too_large", f"The body is larger than {limit} bytes.", extra={"limit": limit})


class _Bounded:
    """Counts a body's bytes as they arrive and cuts it off when it is too long or too slow.

    Slow is what keeps us waiting: time in which nobody asks for the body is not the client's.
    """

    __slots__ = ("_exchange", "_more", "_patience", "_receive", "_rule", "_seen", "_waited", "_window")

    def __init__(self, exchange: Exchange, rule: BodyRule, receive: Receive, patience: Patience) -> None:
        self._patience = patience
        self._exchange = exchange
        self._rule = rule
        self._receive = receive
        self._seen = 0
        self._waited = 0.0
        self._window = 0
        self._more = True

    async def __call__(self) -> Message:
        """Return the next message; a body that is cut off looks like a client that left."""
        if not self._more:
            return await self._receive()
        rule = self._rule
        loop = asyncio.get_running_loop()
        began = loop.time()
        try:
            message = await self._patience.next(self._receive, rule.idle_s)
        except TimeoutError:
            return self._cut(Invalid("slow_body", f"No byte of the body came for {rule.idle_s:g} s."))
        count = len(message.get("body", b""))
        self._seen += count
        self._window += count
        self._more = message.get("more_body", False)
        if self._seen > rule.limit:
            return self._cut(_too_large(rule.limit))
        if self._more and self._drips(loop.time() - began):
            return self._cut(Invalid("slow_body", f"The body came with less than {rule.rate:g} bytes per second."))
        return message

    def _drips(self, waited: float) -> bool:
        """Whether too little came in the time that was spent waiting; looks once that is a whole window."""
        self._waited += waited
        if self._waited < self._rule.idle_s:
            return False
        slow = self._window < self._waited * self._rule.rate
        self._waited, self._window = 0.0, 0
        return slow

    def _cut(self, error: ClocheError) -> Message:
        self._more = False
        self._exchange.refused = error
        return {"type": "http.disconnect"}


class _HeadSentError(OSError):
    """The head was all that was asked for; an `OSError`, by which Starlette knows that nobody reads on."""


class _Answer:
    """Sends an answer with the headers that every answer has."""

    __slots__ = ("_installation", "_rest", "_send", "exchange", "finished", "started")

    def __init__(self, exchange: Exchange, send: Send, installation: str, rest: Remainder | None = None) -> None:
        self._rest = rest
        self.exchange = exchange
        self.started = False
        self.finished = False
        self._send = send
        self._installation = installation

    async def send(self, message: Message) -> None:
        """Pass a message of the app on; nothing of it once the front has refused the request."""
        if message["type"] == "http.response.start":
            if self.exchange.refused is not None:
                return
            self.started = True
            self.exchange.status = message["status"]
            message["headers"] = self._headers(message.get("headers", ()))
            if self._rest is not None:
                await self._rest.finish()
        elif not self.started:
            return
        elif self.exchange.method == "HEAD":
            await self._end_head(message)
            return
        else:
            self.finished = not message.get("more_body", False)
        await self._send(message)

    async def _end_head(self, message: Message) -> None:
        """End the answer where its body would begin, and a body that goes on with it (`_HeadSentError`)."""
        if not self.finished:
            self.finished = True
            await self._send({"type": "http.response.body", "body": b""})
        if message.get("more_body", False):
            raise _HeadSentError

    def _headers(self, given: Sequence[tuple[bytes, bytes]]) -> list[tuple[bytes, bytes]]:
        exchange = self.exchange
        names = {name for name, _ in given}
        whole = [*given, *_FIXED]
        whole.extend(pair for pair in _DEFAULTS if pair[0] not in names)
        whole.append((b"x-request-id", exchange.request_id.encode()))
        whole.append((b"traceparent", exchange.traceparent.encode()))
        if exchange.wrote:
            places = ",".join(exchange.wrote[-16:])
            whole.append((b"cloche-position", f"{self._installation}:{places}".encode()))
        return whole

    async def problem(self, error: Exception) -> None:
        """Answer with a problem."""
        exchange = self.exchange
        status, headers, body = rendered(error, request_id=exchange.request_id, instance=exchange.path)
        if exchange.refused is not None:
            headers.append((b"connection", b"close"))
        self.started = self.finished = True
        exchange.status = status
        exchange.code = getattr(error, "code", "internal")
        if self._rest is not None and exchange.refused is None:
            await self._rest.finish()
        await self._send({"type": "http.response.start", "status": status, "headers": self._headers(headers)})
        await self._send({"type": "http.response.body", "body": b"" if exchange.method == "HEAD" else body})
