"""The load generator: HTTP over kept connections, closed loop, in a process of its own.

Reads a plan as JSON from standard input and prints what it saw as JSON. It sends to loopback only.
"""

import asyncio
import ipaddress
import json
import os
import resource
import subprocess
import sys
import time
from dataclasses import asdict, dataclass, field
from typing import cast

import uvloop

from benchmarks.core import ROOT, environment, python


@dataclass(frozen=True, slots=True)
class Plan:
    """What to send: `body` with `%d` replaced by a number that is never used twice, counted from `first`.

    With `keep`, each number that was answered 2xx is reported. Ends after `seconds`, or when the
    server is gone.
    """

    host: str
    port: int
    path: str
    body: str = ""
    method: str = "POST"
    headers: dict[str, str] = field(default_factory=dict)
    connections: int = 32
    seconds: float = 2.0
    first: int = 0
    keep: bool = False


@dataclass(slots=True)
class Seen:
    """What came back: latencies of the 2xx in ms, how many others, the seconds it took, our own CPU share."""

    latencies: list[float] = field(default_factory=list)
    failed: int = 0
    seconds: float = 0.0
    cpu: float = 0.0
    kept: list[int] = field(default_factory=list)
    next: int = 0

    @property
    def rate(self) -> float:
        """Requests per second that were answered 2xx."""
        return len(self.latencies) / self.seconds


def refuse_elsewhere(host: str) -> None:
    """Raise `ValueError` unless the host is a loopback address: a load generator must not hit a stranger."""
    if not ipaddress.ip_address(host).is_loopback:
        raise ValueError(f"{host} is not a loopback address; benchmarks load this machine only")


class _Shared:
    def __init__(self, plan: Plan) -> None:
        self.plan = plan
        self.seen = Seen(next=plan.first)
        self.end = time.perf_counter() + plan.seconds
        lines = [f"{plan.method} {plan.path} HTTP/1.1", f"Host: {plan.host}:{plan.port}"]
        lines += [f"{name}: {value}" for name, value in plan.headers.items()]
        self.head = "\r\n".join(lines)

    def request(self) -> tuple[int, bytes]:
        number = self.seen.next
        self.seen.next += 1
        body = self.plan.body.replace("%d", str(number)).encode()
        return number, f"{self.head}\r\nContent-Length: {len(body)}\r\n\r\n".encode() + body


class _Connection(asyncio.Protocol):
    def __init__(self, shared: _Shared, gone: asyncio.Future[None]) -> None:
        self._shared = shared
        self._gone = gone
        self._buffer = b""
        self._number = 0
        self._sent = 0.0
        self._transport: asyncio.Transport | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)
        self._next()

    def _next(self) -> None:
        assert self._transport is not None
        self._sent = time.perf_counter()
        if self._sent >= self._shared.end:
            self._transport.close()
            return
        self._number, data = self._shared.request()
        self._transport.write(data)

    def data_received(self, data: bytes) -> None:
        self._buffer += data
        head, found, rest = self._buffer.partition(b"\r\n\r\n")
        if not found or len(rest) < _length(head):
            return
        self._buffer = b""
        seen = self._shared.seen
        if head[9:10] == b"2":
            seen.latencies.append((time.perf_counter() - self._sent) * 1000)
            if self._shared.plan.keep:
                seen.kept.append(self._number)
        else:
            seen.failed += 1
        self._next()

    def connection_lost(self, exc: Exception | None) -> None:  # noqa: ARG002 - the protocol's signature
        if not self._gone.done():
            self._gone.set_result(None)


def _length(head: bytes) -> int:
    at = head.lower().find(b"content-length:")
    return int(head[at + 15 :].split(b"\r\n", 1)[0]) if at >= 0 else 0


async def _load(plan: Plan) -> Seen:
    refuse_elsewhere(plan.host)
    loop = asyncio.get_running_loop()
    shared = _Shared(plan)
    gone = [loop.create_future() for _ in range(plan.connections)]
    began, cpu = time.perf_counter(), resource.getrusage(resource.RUSAGE_SELF)
    for future in gone:
        await loop.create_connection(lambda future=future: _Connection(shared, future), plan.host, plan.port)  # type: ignore[misc]
    await asyncio.wait(gone, timeout=plan.seconds + 10)
    seen = shared.seen
    seen.seconds = time.perf_counter() - began
    used = resource.getrusage(resource.RUSAGE_SELF)
    seen.cpu = (used.ru_utime + used.ru_stime - cpu.ru_utime - cpu.ru_stime) / seen.seconds
    return seen


def begin(plan: Plan) -> "subprocess.Popen[bytes]":
    """Start a generator and hand it the plan."""
    refuse_elsewhere(plan.host)
    process = subprocess.Popen(
        python("-m", "benchmarks.generator"),
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        cwd=ROOT,
        env=environment(),
    )
    assert process.stdin is not None
    process.stdin.write(json.dumps(asdict(plan)).encode())
    process.stdin.close()
    process.stdin = None
    return process


def finish(process: "subprocess.Popen[bytes]", seconds: float = 60.0) -> Seen:
    """Wait for a generator and return what it saw."""
    try:
        output, _ = process.communicate(timeout=seconds)
    finally:
        process.kill()
    if process.returncode:
        raise RuntimeError("the load generator failed")
    return Seen(**json.loads(output))


def load(plan: Plan) -> Seen:
    """Run a plan in a process of its own."""
    return finish(begin(plan))


if __name__ == "__main__":
    found = uvloop.run(_load(Plan(**json.loads(sys.stdin.buffer.read()))))
    left = json.dumps(asdict(found)).encode()
    while left:  # after uvloop, a full pipe takes a part, and `sys.stdout` drops the rest
        left = left[os.write(sys.stdout.fileno(), left) :]
