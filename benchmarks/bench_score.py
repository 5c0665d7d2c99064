"""`score`: requests per second and p99 from `wrk`, same `score.py`, one worker, 8 connections."""

import asyncio
import json
import re
import subprocess
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median

from benchmarks import peers
from benchmarks.cloche_server import cloche
from benchmarks.core import Row, SkippedError, port_open, process, scratch, skipped
from benchmarks.generator import refuse_elsewhere
from benchmarks.scripts import SCORE, written

ROUNDS = 5
SECONDS = 3
CONNECTIONS = 8
AZURE, GRANIAN = "azureml-inference-server-http", "bare Granian RSGI"
BODY = json.dumps({"data": [[1.0, 2.0, 3.0], [4.0, 5.0, 6.0]]})
ANSWER = {"result": [11.0, 24.5]}
GOAL_AZURE, GOAL_GRANIAN = 7.0, 0.45
_UNITS = {"us": 0.001, "ms": 1.0, "s": 1000.0}


@dataclass(slots=True)
class Target:
    """Where to score, and what was seen: requests/s and p99 in ms."""

    url: str
    key: str = ""
    rates: list[float] = field(default_factory=list)
    tails: list[float] = field(default_factory=list)


def rows() -> list[Row]:
    """Load the three servers in turn."""
    wrk = peers.wrk()
    missing: list[Row] = []
    with ExitStack() as stack:
        folder = stack.enter_context(scratch("score"))
        script = written(folder, "score.py", SCORE)
        targets = {"ours": _ours(stack, folder, script)}
        for name, begin in ((AZURE, _azure), (GRANIAN, _granian)):
            try:
                targets[name] = begin(stack, folder, script)
            except SkippedError as error:
                missing.append(skipped("score", f"{name}: {error}"))
        for target in targets.values():
            _check(target)
            _load(wrk, folder, target, 1)
            target.rates.clear()
            target.tails.clear()
        for _ in range(ROUNDS):
            for target in targets.values():
                _load(wrk, folder, target, SECONDS)
    return _rows(targets) + missing


def _ours(stack: ExitStack, folder: Path, script: Path) -> Target:
    server = stack.enter_context(cloche(folder / "home"))
    client = stack.enter_context(server.client())
    client.environments.register("bench", definition={})
    service = client.services.deploy("bench", script, environment="bench", workers=1).wait(60)
    return Target(f"{server.url}/api/v1/services/bench/score", service.keys().primary)


def _azure(stack: ExitStack, folder: Path, script: Path) -> Target:
    binaries = peers.installed("azureml", "azureml-inference-server-http", "setuptools<81")
    port = peers.free_port()
    argv = [str(binaries / "azmlinfsrv"), "--entry_script", str(script), "--port", str(port), "--worker_count", "1"]
    stack.enter_context(process(argv, folder / "azure.log"))
    asyncio.run(port_open(port))
    return Target(f"http://127.0.0.1:{port}/score")


def _granian(stack: ExitStack, folder: Path, script: Path) -> Target:
    binaries = peers.installed("granian", "granian", "uvloop")
    port = peers.free_port()
    argv = [str(binaries / "granian"), "--interface", "rsgi", "--host", "127.0.0.1", "--port", str(port)]
    argv += ["--workers", "1", "--loop", "uvloop", "--no-access-log", "--working-dir", str(script.parent), "bare:app"]
    (script.parent / "bare.py").write_text(_BARE)
    stack.enter_context(process(argv, folder / "granian.log"))
    asyncio.run(port_open(port))
    return Target(f"http://127.0.0.1:{port}/score")


_BARE = """\
import json
import score
score.init()
async def app(scope, protocol):
    body = await protocol()
    protocol.response_str(200, [("content-type", "application/json")], json.dumps(score.run(body)))
"""


def _check(target: Target) -> None:
    """See that the right answer comes before it is counted how often."""
    import httpx2  # noqa: PLC0415 - one request

    headers = {"Authorization": f"Bearer {target.key}"} if target.key else {}
    headers["Content-Type"] = "application/json"
    found = httpx2.post(target.url, content=BODY, headers=headers, timeout=30)
    assert found.status_code == 200, f"{target.url}: {found.status_code} {found.text[:200]}"
    assert found.json() == ANSWER, f"{target.url}: {found.text[:200]}"


def _load(wrk: str, folder: Path, target: Target, seconds: int) -> None:
    refuse_elsewhere(target.url.split("/")[2].rpartition(":")[0])
    lua = folder / "post.lua"
    lines = ['wrk.method = "POST"', f"wrk.body = [[{BODY}]]".replace("[[{", "[==[{").replace("}]]", "}]==]")]
    lines.append('wrk.headers["Content-Type"] = "application/json"')
    if target.key:
        lines.append(f'wrk.headers["Authorization"] = "Bearer {target.key}"')
    lua.write_text("\n".join(lines))
    argv = [wrk, "-t1", f"-c{CONNECTIONS}", f"-d{seconds}s", "--latency", "-s", str(lua), target.url]
    text = subprocess.run(argv, check=True, capture_output=True, text=True, timeout=seconds + 30).stdout
    assert "Non-2xx" not in text, text
    rate, tail = re.search(r"Requests/sec:\s+([\d.]+)", text), re.search(r"99%\s+([\d.]+)(us|ms|s)", text)
    assert rate is not None, text
    assert tail is not None, text
    target.rates.append(float(rate[1]))
    target.tails.append(float(tail[1]) * _UNITS[tail[2]])


def _rows(targets: dict[str, Target]) -> list[Row]:
    ours = targets["ours"]
    rate, tail = median(ours.rates), median(ours.tails)
    found: list[Row] = []
    for name, goal in ((AZURE, GOAL_AZURE), (GRANIAN, GOAL_GRANIAN)):
        if name in targets:
            peer = median(targets[name].rates)
            what = "scoring requests/s, one worker, 8 connections of wrk, with key and metrics"
            found.append(Row("score", what, rate, "/s", f"≥ {goal} x", ROUNDS, name, peer, rate >= goal * peer))
    if AZURE in targets:
        peer = median(targets[AZURE].tails)
        found.append(Row("score", "p99 of a scoring request", tail, "ms", "< 1 x", ROUNDS, AZURE, peer, tail < peer))
    return found or [Row("score", "scoring requests/s, no peer", rate, "/s", "", ROUNDS)]
