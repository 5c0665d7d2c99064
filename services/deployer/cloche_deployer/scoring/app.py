"""The scoring front: a raw ASGI app for `/api/v1/services/{name}/score`, or for one service alone."""

import json
import re
from collections.abc import Callable, Collection
from typing import Protocol
from urllib.parse import parse_qsl

from cloche_deployer.scoring import swagger
from cloche_deployer.scoring.calls import Call, ClientLeft, Outcome, ScoringTimeout, WaitedTooLong, WorkerLost
from cloche_deployer.scoring.exchange import (
    FAILED,
    NOT_FAILED,
    Exchange,
    Reads,
    Receive,
    Scope,
    Send,
)
from cloche_deployer.scoring.http import (
    JSON,
    KEY_PREFIX,
    TEXT,
    IdTooLong,
    bearer,
    message_body,
    request_ids,
    script_headers,
)
from cloche_deployer.scoring.pool import WorkerPool
from cloche_deployer.scoring.ports import Access, FailureGuard, Lookout, Onward, Routes
from cloche_deployer.scoring.target import ServiceTarget, digest
from cloche_runtime.scoring_frames import OWN_HEADERS, RUN_FAILED, TIMED
from cloche_shared.access import EVERY_PROJECT, is_name
from cloche_shared.errors import ClocheError, Invalid, NotFound, Throttled, Unauthenticated, Unavailable
from cloche_shared.http.front import MAX_POSITION_BYTES

PREFIX = "/api/v1/services/"
_DEPTH = PREFIX.count("/") + 1
_METHODS = frozenset({"GET", "POST", "OPTIONS"})
_ALLOW = (b"allow", b"GET, POST, OPTIONS")
_ALLOW_GET = (b"allow", b"GET")
_ACTIONS = frozenset({"score", "health", "swagger.json"})
_ALONE = {"/": "health", "/score": "score", "/swagger.json": "swagger.json"}
_SERVER_ERROR = 500


class Asgi(Protocol):
    """An ASGI application."""

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None: ...


class ScoringApp:
    """Answers scoring requests and hands everything else to `inner`.

    With `alone`, the paths `/`, `/score` and `/swagger.json` belong to the service of that name too,
    as they do in Azure's scoring containers.
    """

    def __init__(  # noqa: PLR0913 - the wiring names each of them
        self,
        routes: Routes,
        new_id: Callable[[], str],
        *,
        inner: Asgi | None = None,
        access: Access | None = None,
        guard: FailureGuard | None = None,
        onward: Onward | None = None,
        lookout: Lookout | None = None,
        alone: str = "",
    ) -> None:
        self._lookout = lookout
        self._onward = onward
        self._routes = routes
        self._new_id = new_id
        self._inner = inner
        self._access = access
        self._guard = guard
        self._alone = alone
        self._reads = Reads()

    def takes(self, method: str, path: str) -> bool:  # noqa: ARG002  the signature of the front's hook
        """Whether a request is for a scoring service, and not for the REST app."""
        return path.startswith(PREFIX) and path.rpartition("/")[2] in _ACTIONS and path.count("/") == _DEPTH

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one ASGI connection."""
        if scope["type"] == "http":
            path: str = scope["path"]
            if path.startswith(PREFIX):
                name, _, action = path[len(PREFIX) :].partition("/")
                if action in _ACTIONS:
                    await self._serve(Exchange(scope, receive, send), name, action)
                    return
            elif self._alone and path in _ALONE:
                await self._serve(Exchange(scope, receive, send), self._alone, _ALONE[path])
                return
        if self._inner is not None:
            await self._inner(scope, receive, send)
        elif scope["type"] == "http":
            body = message_body("The requested URL was not found on the server.")
            await Exchange(scope, receive, send).answer(404, body, (JSON,))

    async def _serve(self, exchange: Exchange, name: str, action: str) -> None:
        fields = exchange.fields
        try:
            exchange.ids = request_ids(fields, b"" if b"x-request-id" in fields else self._new_id().encode())
            if b"content-length" in fields and b"transfer-encoding" in fields:
                raise Invalid("bad_request", "Content-Length and Transfer-Encoding exclude each other.")
            if self._is_preflight(exchange) and await self._preflight(exchange, name):
                return
            if action == "health" and self._alone == name and exchange.scope["path"] == "/":
                await self._health(exchange, self._routes.lookup(None, name)[0])
                return
            target = await self._authorized(exchange, name)
            exchange.origins = target.settings.origins
            if self._lookout is not None and _is_behind(target, exchange):
                await self._lookout.look_at((target.project,), target.name)
            if not (target.is_elsewhere and await self._passed_on(exchange, target)):
                await self._act(exchange, target, action)
        except IdTooLong as error:
            await exchange.message(431, str(error))
        except ClocheError as error:
            await exchange.problem(error)
        except ConnectionError:
            return

    async def _passed_on(self, exchange: Exchange, target: ServiceTarget) -> bool:
        """Have another node answer; false when this replica is to answer after all."""
        if self._onward is None:
            return False
        body = await exchange.read(target.settings.max_body, self._reads)
        return await self._onward.pass_on(exchange, target, body)

    async def _act(self, exchange: Exchange, target: ServiceTarget, action: str) -> None:
        if action == "score":
            await self._score(exchange, target)
        elif exchange.scope["method"] not in {"GET", "HEAD"}:
            await exchange.message(405, "Method not allowed", _ALLOW_GET)
        elif action == "health":
            await self._health(exchange, target)
        else:
            await self._swagger(exchange, target)

    async def _authorized(self, exchange: Exchange, name: str) -> ServiceTarget:
        token = bearer(exchange.fields)
        if token:
            project = exchange.fields.get(b"cloche-project")
            named = project.decode("latin-1") if project else None
            patient = self._guard is None or not self._guard.is_suspect(_address(exchange))
            found = await self._found(token, named, name, anew=not self._slowed(exchange), patient=patient)
            if found is not None:
                return found
            self._guess_failed(exchange)
        raise Unauthenticated(
            "unauthenticated",
            "A key of this service, or a token of its project, is needed.",
            todo=f"Send `Authorization: Bearer <key>`; `cloche service keys {name}` shows the keys.",
        )

    async def _found(
        self, token: str, project: str | None, name: str, *, anew: bool, patient: bool
    ) -> ServiceTarget | None:
        """Return what a token opens; with `anew` nothing is refused before a look at what others know.

        With `patient` a platform token that may be on its way is waited for. Raises `NotFound` where it opens
        other services.
        """
        if (found := self._opened(token, project, name)) is not None:
            return found
        projects = await self._access.projects(token, patient=patient) if self._access is not None else frozenset()
        if self._lookout is not None and anew and is_name(name):
            if projects and not self._in(projects, project, name):
                await _look_as(self._lookout, projects, project, name)
            elif not projects and token.startswith(KEY_PREFIX):
                await self._lookout.look(project, name)
                return self._opened(token, project, name)
        return _only(name, self._in(projects, project, name)) if projects else None

    def _opened(self, token: str, project: str | None, name: str) -> ServiceTarget | None:
        """Return the service that a token is a key of, as far as is known here."""
        presented = digest(token)
        return next((one for one in self._routes.lookup(project, name) if one.opens(presented)), None)

    def _in(self, projects: Collection[str], project: str | None, name: str) -> list[ServiceTarget]:
        """Return the services of a name that are open to a token of these projects, as far as is known here."""
        targets = self._routes.lookup(project, name)
        return [one for one in targets if one.project in projects or EVERY_PROJECT in projects]

    def _slowed(self, exchange: Exchange) -> bool:
        """Whether too many wrong keys came from the address."""
        return self._guard is not None and self._guard.retry_after(_address(exchange)) > 0

    def _guess_failed(self, exchange: Exchange) -> None:
        """Count a wrong key. Raises `Throttled` when too many came from the address; right keys always pass."""
        if self._guard is None:
            return
        address = _address(exchange)
        if wait := self._guard.retry_after(address):
            raise Throttled(
                "too_many_requests", "Too many wrong keys came from this address.", extra={"retry_after": wait}
            )
        self._guard.failed(address)

    async def _score(self, exchange: Exchange, target: ServiceTarget) -> None:
        method = exchange.scope["method"]
        if method not in _METHODS:
            await exchange.message(405, "Method not allowed", _ALLOW)
            return
        _check_room(_serving(target))
        body = await exchange.read(target.settings.max_body, self._reads)
        if target.is_elsewhere and await self._passed_on(exchange, target):
            return  # it moved while the body came
        pool = _serving(target)
        if method == "OPTIONS" and not pool.any_method:
            await exchange.answer(200, b"", (JSON, NOT_FAILED))
            return
        ids = exchange.ids
        call = Call(ids.request if ids else b"", _meta(exchange, pool), body, exchange.gone)
        try:
            pool.submit(call)
            outcome = await call.future
        except (Throttled, Unavailable):
            pool.metrics.refused += 1
            raise
        except ClientLeft:
            return
        except (ScoringTimeout, WaitedTooLong, WorkerLost) as error:
            pool.metrics.observe(pool.age(call), error=True)
            await _unanswered(exchange, pool, error)
            return
        pool.metrics.observe(pool.age(call), error=outcome[0] >= _SERVER_ERROR)
        await exchange.answer(outcome[0], outcome[4], _pairs(outcome))

    async def _health(self, exchange: Exchange, target: ServiceTarget) -> None:
        pool = _serving(target)
        if pool.state != "ready":
            raise Unavailable(
                "service_unavailable",
                f"The service is {pool.state}.",
                why=str(pool.failure.what if pool.failure else ""),
            )
        await exchange.answer(200, b"Healthy", (TEXT,))

    async def _swagger(self, exchange: Exchange, target: ServiceTarget) -> None:
        query = dict(parse_qsl(exchange.scope.get("query_string", b"").decode("latin-1")))
        version = swagger.VERSIONS.get(query.get("version", "2"))
        described = _serving(target).hello.get("swagger")
        known = described if isinstance(described, dict) else {}
        found = swagger.document(version, target.name, target.settings.version, known) if version else None
        if found is None:
            await exchange.message(404, "Unsupported swagger version; supported are 2, 2.0, 3, 3.0 and 3.1.")
            return
        await exchange.answer(200, json.dumps(found).encode(), (JSON,))

    def _is_preflight(self, exchange: Exchange) -> bool:
        return exchange.scope["method"] == "OPTIONS" and b"access-control-request-method" in exchange.fields

    async def _preflight(self, exchange: Exchange, name: str) -> bool:
        """Answer a browser's question, which carries no key; false when no service allows origins."""
        targets = [t for t in self._routes.lookup(None, name) if t.settings.origins]
        if not targets:
            return False
        exchange.origins = targets[0].settings.origins
        allowed = (
            (b"access-control-allow-methods", b"GET, POST"),
            (b"access-control-allow-headers", b"authorization, content-type, cloche-project, x-ms-client-request-id"),
            (b"access-control-max-age", b"600"),
        )
        await exchange.answer(200, b"", allowed)
        return True


async def _look_as(lookout: Lookout, projects: Collection[str], project: str | None, name: str) -> None:
    """Look for a service where a token of these projects may find it."""
    if EVERY_PROJECT not in projects:
        await lookout.look_at([one for one in projects if project in {None, one}], name)
    elif project is None:
        await lookout.look(None, name)
    elif is_name(project):
        await lookout.look_at((project,), name)


def _address(exchange: Exchange) -> str:
    client = exchange.scope.get("client")
    return client[0] if client else ""


def _is_behind(target: ServiceTarget, exchange: Exchange) -> bool:
    """Whether others may know more of a service: where it is answered, or what its caller has seen of it."""
    if target.pool is None and not target.node:
        return True
    stream = re.escape(f"service/{target.project}/{target.name}@".encode())
    seen = re.search(stream + rb"(\d{1,15})(?:,|$)", exchange.fields.get(b"cloche-position", b"")[:MAX_POSITION_BYTES])
    return seen is not None and int(seen[1]) > target.seq


def _serving(target: ServiceTarget) -> WorkerPool:
    if target.pool is None:
        what = "The service cannot answer." if target.reason else "The service has no revision that can answer yet."
        known = "See `cloche service show` and the service's log, correct it, and deploy it again."
        todo = known if target.reason else "Wait until `cloche service show` says that it is healthy."
        raise Unavailable("service_unavailable", what, why=target.reason, todo=todo)
    return target.pool


def _check_room(pool: WorkerPool) -> None:
    try:
        pool.check_room()
    except ClocheError:
        pool.metrics.refused += 1
        raise


def _only(name: str, targets: list[ServiceTarget]) -> ServiceTarget:
    if not targets:
        raise NotFound(
            "service_not_found",
            f"There is no service {name!r} in your projects.",
            todo="`cloche service list` shows those there are; `cloche deploy` makes one.",
        )
    if len(targets) > 1:
        raise Invalid(
            "ambiguous_project",
            f"Several of your projects have a service {name!r}.",
            todo="Name the project in the header Cloche-Project.",
        )
    return targets[0]


def _meta(exchange: Exchange, pool: WorkerPool) -> bytes:
    """Describe the request for the worker; empty for the usual one, a JSON POST to a plain script."""
    scope = exchange.scope
    media = exchange.fields.get(b"content-type", b"")
    if scope["method"] == "POST" and not pool.headers_wanted and media == b"application/json":
        return b""
    meta: dict[str, object] = {
        "method": scope["method"],
        "query": scope.get("query_string", b"").decode("latin-1"),
        "type": media.decode("latin-1"),
    }
    if pool.headers_wanted:
        meta["path"] = scope["path"]
        meta["headers"] = [
            (name.decode("latin-1"), value.decode("latin-1"))
            for name, value in scope["headers"]
            if name != b"authorization"
        ]
    return json.dumps(meta).encode()


def _pairs(outcome: Outcome) -> list[tuple[bytes, bytes]]:
    _, flags, milliseconds, headers, _ = outcome
    pairs = script_headers(headers) if flags & OWN_HEADERS else [JSON]
    pairs.append(FAILED if flags & RUN_FAILED else NOT_FAILED)
    if flags & TIMED:
        pairs.append((b"x-ms-run-fn-exec-ms", b"%.3f" % milliseconds))
    return pairs


async def _unanswered(exchange: Exchange, pool: WorkerPool, error: Exception) -> None:
    if isinstance(error, ScoringTimeout):
        text = message_body(f"Scoring timeout after {pool.timeout * 1000:.0f} ms")
        await exchange.answer(500, text, (JSON, FAILED))
    elif isinstance(error, WaitedTooLong):
        late = Unavailable("deadline_exceeded", "No worker was free before the request's deadline; it did not begin.")
        await exchange.problem(late)
    else:
        lost = Unavailable(
            "worker_ended",
            f"The worker ended while it executed this request{f': {error}' if str(error) else ''}.",
            todo="See the service's log; correct the script or a library of it, or give the service more memory.",
        )
        await exchange.problem(lost, FAILED, status=500)
