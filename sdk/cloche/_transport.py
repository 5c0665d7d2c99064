"""Sends calls over HTTP: tokens, idempotency keys, positions, and retries of what may be sent again."""

import random
import time
import uuid
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Iterator, Mapping
from pathlib import Path

import httpx2

from cloche._calls import Answer, Call
from cloche._config import Endpoint, Positions
from cloche._errors import ClocheError, from_problem, unreachable

TRIES = 5
RETRIED = frozenset({429, 502, 503, 504})
SAFE = frozenset({"GET", "HEAD", "PUT", "DELETE"})
PIECE = 1024 * 1024
PARALLEL = 8
TRANSPORT_ERRORS = (httpx2.TransportError,)


class Exchange:
    """What both transports share: how a call becomes a request, and what an answer means for the next."""

    def __init__(self, endpoint: Endpoint, positions: Positions) -> None:
        self.endpoint = endpoint
        self.positions = positions
        self.told: Callable[[str], None] | None = None

    def headers(self, call: Call) -> dict[str, str]:
        """Return the headers of a call; the same ones are used when it is sent again."""
        found = {"authorization": f"Bearer {self.endpoint.token}", **call.headers}
        if self.endpoint.project:
            found["cloche-project"] = self.endpoint.project
        position = self.positions.header()
        if position:
            found["cloche-position"] = position
        if call.once:
            found["idempotency-key"] = uuid.uuid4().hex
        if call.body() is not None:
            found["content-type"] = call.media_type()
        return found

    def heard(self, call: Call, answer: Answer) -> Answer:
        """Note the position and return the answer, or raise what it tells of."""
        position = answer.headers.get("cloche-position")
        if position and (call.method != "GET" or call.path.count("/") > 3):  # noqa: PLR2004 - lists tell of nothing new
            self.positions.note(position)
        return answer.checked(call)

    def may_repeat(self, call: Call) -> bool:
        """Whether sending the call again cannot do its work twice."""
        return call.once or call.method in SAFE

    def settled(self, call: Call, answer: Answer, tries: int) -> bool:
        """Whether an answer is the last word: expected, not worth another try, or the last one."""
        again = answer.status in RETRIED and answer.status not in call.accept
        return not again or tries >= TRIES or not self.may_repeat(call)

    def again(self, tries: int, answer: Answer | None) -> float:
        """Tell, once for each call, that it is sent again; return the seconds before that."""
        if self.told is not None and tries == 1:
            why = f"answers {code_of(answer)}" if answer is not None else "broke the connection off"
            self.told(f"Cloche at {self.endpoint.url} {why}; asking again, {TRIES} times in all …")
        return self.pause(tries, answer.headers if answer is not None else {})

    def pause(self, tries: int, headers: Mapping[str, str]) -> float:
        """Return the seconds before the next try: what the server says, or a growing, jittered time."""
        said = headers.get("retry-after", "")
        if said.isdigit():
            return min(30.0, float(said))
        growing: float = min(5.0, 0.1 * 2.0**tries)
        return growing * random.uniform(0.5, 1.0)  # noqa: S311 - jitter


def code_of(answer: Answer) -> str:
    """Return the code of the problem that an answer tells of, with its status."""
    code = problem_from(answer.status, answer.body).code
    return f"{answer.status} ({code})"


def query_of(call: Call) -> dict[str, str]:
    """Return the query without what was not given."""
    return {name: str(value) for name, value in call.query.items() if value is not None}


class SyncTransport:
    """Blocking transport; calls of one `Many` are sent by a few threads."""

    def __init__(self, exchange: Exchange) -> None:
        self.exchange = exchange
        self._client = httpx2.Client(base_url=exchange.endpoint.url, limits=httpx2.Limits(max_connections=PARALLEL))

    def close(self) -> None:
        """Close the connections."""
        self._client.close()

    def send(self, call: Call) -> Answer:
        """Send a call, again where that is harmless."""
        headers = self.exchange.headers(call)
        tries = 0
        while True:
            tries += 1
            answer = self._try(call, headers, last=tries >= TRIES or not self.exchange.may_repeat(call))
            if answer is not None and self.exchange.settled(call, answer, tries):
                return self.exchange.heard(call, answer)
            time.sleep(self.exchange.again(tries, answer))

    def _try(self, call: Call, headers: Mapping[str, str], *, last: bool) -> Answer | None:
        body = call.body()
        content = _pieces(body) if isinstance(body, Path) else body
        if isinstance(body, Path):
            headers = {**headers, "content-length": str(body.stat().st_size)}
        try:
            response = self._client.request(
                call.method, call.path, params=query_of(call), content=content, headers=headers, timeout=call.timeout
            )
        except httpx2.TransportError as error:
            if last or isinstance(error, httpx2.ConnectError):
                raise unreachable(self.exchange.endpoint.url, error) from error
            return None
        return Answer(response.status_code, response.headers, response.content)

    def stream(self, call: Call) -> Iterator[bytes]:
        """Yield the body as it comes."""
        headers = self.exchange.headers(call)
        timeout = httpx2.Timeout(call.timeout, read=60.0)
        try:
            with self._client.stream(
                call.method, call.path, params=query_of(call), headers=headers, timeout=timeout
            ) as response:
                if response.status_code not in call.accept:
                    raise problem_from(response.status_code, response.read())
                yield from response.iter_bytes()
        except httpx2.ConnectError as error:
            raise unreachable(self.exchange.endpoint.url, error) from error


class AsyncTransport:
    """The same for asyncio."""

    def __init__(self, exchange: Exchange) -> None:
        self.exchange = exchange
        limits = httpx2.Limits(max_connections=4 * PARALLEL)
        self._client = httpx2.AsyncClient(base_url=exchange.endpoint.url, limits=limits)

    async def close(self) -> None:
        """Close the connections."""
        await self._client.aclose()

    async def send(self, call: Call) -> Answer:
        """Send a call, again where that is harmless."""
        headers = self.exchange.headers(call)
        tries = 0
        while True:
            tries += 1
            answer = await self._try(call, headers, last=tries >= TRIES or not self.exchange.may_repeat(call))
            if answer is not None and self.exchange.settled(call, answer, tries):
                return self.exchange.heard(call, answer)
            import asyncio  # noqa: PLC0415 - the synchronous client does without it

            await asyncio.sleep(self.exchange.again(tries, answer))

    async def _try(self, call: Call, headers: Mapping[str, str], *, last: bool) -> Answer | None:
        body = call.body()
        content = _async_pieces(body) if isinstance(body, Path) else body
        if isinstance(body, Path):
            headers = {**headers, "content-length": str(body.stat().st_size)}
        try:
            response = await self._client.request(
                call.method, call.path, params=query_of(call), content=content, headers=headers, timeout=call.timeout
            )
        except httpx2.TransportError as error:
            if last or isinstance(error, httpx2.ConnectError):
                raise unreachable(self.exchange.endpoint.url, error) from error
            return None
        return Answer(response.status_code, response.headers, response.content)

    async def stream(self, call: Call) -> AsyncGenerator[bytes, None]:
        """Yield the body as it comes."""
        headers = self.exchange.headers(call)
        timeout = httpx2.Timeout(call.timeout, read=60.0)
        try:
            async with self._client.stream(
                call.method, call.path, params=query_of(call), headers=headers, timeout=timeout
            ) as response:
                if response.status_code not in call.accept:
                    raise problem_from(response.status_code, await response.aread())
                async for piece in response.aiter_bytes():
                    yield piece
        except httpx2.ConnectError as error:
            raise unreachable(self.exchange.endpoint.url, error) from error


def problem_from(status: int, body: bytes) -> ClocheError:
    """Return the error that a refused stream tells of."""
    import orjson  # noqa: PLC0415 - only when something failed

    try:
        problem: object = orjson.loads(body)
    except orjson.JSONDecodeError:
        problem = None
    return from_problem(status, problem, body.decode(errors="replace"))


def _pieces(path: Path) -> Iterator[bytes]:
    with path.open("rb") as file:
        while piece := file.read(PIECE):
            yield piece


async def _async_pieces(path: Path) -> AsyncIterator[bytes]:
    for piece in _pieces(path):
        yield piece
