"""Scoring without the rest of Cloche: `python -m cloche_deployer.adapters.scoring_alone SCRIPT`.

Starts workers for one script and the front for it, in one process beside its workers. Used in
scoring containers, for heavy load, and by the benchmarks. The key is read from CLOCHE_SCORING_KEY.
"""

import argparse
import asyncio
import contextlib
import os
import secrets
import signal
import sys
import tempfile
import uuid
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import uvicorn
import uvloop

import cloche_runtime
from cloche_deployer.adapters.scoring_links import UnixConnector
from cloche_deployer.scoring.app import ScoringApp
from cloche_deployer.scoring.pool import PoolSettings, WorkerPool
from cloche_deployer.scoring.ports import WorkerEnd
from cloche_deployer.scoring.target import RoutingTable, ServiceTarget, TargetSettings, digest
from cloche_shared.errors import Unavailable

WORKER = Path(cloche_runtime.__file__).parent / "scoring_worker.py"
_LOG_TAIL = 8192
_ID_BATCH = 256


def request_id_source() -> Callable[[], str]:
    """Return a source of random UUIDs that asks the system for many at once."""
    stock: list[str] = []

    def new_id() -> str:
        if not stock:
            raw = os.urandom(16 * _ID_BATCH)
            stock.extend(str(uuid.UUID(bytes=raw[i : i + 16], version=4)) for i in range(0, len(raw), 16))
        return stock.pop()

    return new_id


@dataclass(frozen=True, slots=True)
class Launch:
    """How workers are started: interpreter, script (below or outside `root`), and the environment."""

    python: str
    root: Path
    script: str
    sockets: Path
    env: Mapping[str, str]


class _Child:
    """A worker that is a child of this process; its log goes to a file."""

    def __init__(self, name: str, socket: Path, log: Path, process: asyncio.subprocess.Process) -> None:
        self.id = name
        self.socket = str(socket)
        self.pid = process.pid
        self._log = log
        self._process = process

    async def ended(self) -> WorkerEnd:
        code = await self._process.wait()
        how = f"signal {signal.Signals(-code).name}" if code < 0 else f"exit code {code}"
        return WorkerEnd(how, await asyncio.to_thread(self._tail))

    def _tail(self) -> str:
        return self._log.read_bytes()[-_LOG_TAIL:].decode("utf-8", "replace")

    async def stop(self, *, grace: float) -> None:
        for number in (signal.SIGTERM, signal.SIGKILL):
            if number == signal.SIGTERM and not grace:
                continue
            with contextlib.suppress(ProcessLookupError, TimeoutError):
                os.killpg(self.pid, number)
                async with asyncio.timeout(grace or None):
                    await self._process.wait()
                    break
        # What the script left in the group ends with it.
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.pid, signal.SIGKILL)
        with contextlib.suppress(FileNotFoundError):
            os.unlink(self.socket)  # noqa: PTH108  one quick system call; pathlib's is no quicker


class ChildWorkers:
    """Starts workers as children of this process; implements the port `Workers`."""

    def __init__(self, launch: Launch) -> None:
        self._launch = launch
        self._number = 0

    async def adopt(self) -> Sequence[_Child]:
        """Return nothing: children end with their parent's last connection."""
        return ()

    async def start(self) -> _Child:
        """Start one more worker. Raises `Unavailable`."""
        launch = self._launch
        self._number += 1
        name = f"w{self._number}-{secrets.token_hex(3)}"
        socket, log = launch.sockets / name, launch.sockets / f"{name}.log"
        env = {
            **launch.env,
            "CLOCHE_SCORING_SOCKET": str(socket),
            "AML_APP_ROOT": str(launch.root),
            "AZUREML_ENTRY_SCRIPT": launch.script,
        }
        try:
            with log.open("wb") as output:
                process = await asyncio.create_subprocess_exec(
                    launch.python,
                    str(WORKER),
                    cwd=launch.root,
                    env=env,
                    stdin=asyncio.subprocess.DEVNULL,
                    stdout=output,
                    stderr=output,
                    start_new_session=True,
                )
        except OSError as error:
            raise Unavailable("worker_not_started", "A scoring worker could not be started.", why=str(error)) from error
        return _Child(name, socket, log, process)


class _Server(uvicorn.Server):
    """uvicorn, without its habit of ending the process by the signal that it caught."""

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Stop at a signal, and leave the rest of the way down to us."""
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, self.handle_exit, number, None)
        yield


def _note(sentence: str) -> None:
    sys.stderr.write(f"{sentence}\n")


async def _serve(arguments: argparse.Namespace, script: Path, sockets: Path) -> int:
    launch = Launch(arguments.python, script.parent, script.name, sockets, dict(os.environ))
    settings = PoolSettings(workers=arguments.workers, timeout=arguments.timeout_ms / 1000.0)
    pool = WorkerPool(ChildWorkers(launch), UnixConnector(), settings, note=_note)
    key = os.environ.get("CLOCHE_SCORING_KEY") or secrets.token_urlsafe(24)
    if "CLOCHE_SCORING_KEY" not in os.environ:
        sys.stderr.write(f"key: {key}\n")
    origins = tuple(o.strip() for o in os.environ.get("AML_CORS_ORIGINS", "").split(",") if o.strip())
    table = RoutingTable()
    table.put(ServiceTarget("default", arguments.name, (digest(key),), pool, TargetSettings(origins=origins)))
    app = ScoringApp(table, request_id_source(), alone=arguments.name)
    config = uvicorn.Config(
        app, host=arguments.host, port=arguments.port, http="httptools", access_log=False, lifespan="off",
        log_level="warning",
        proxy_headers=False, server_header=False, date_header=True,
    )  # fmt: skip
    try:
        await pool.start()
        await pool.ready()
        await _Server(config).serve()
        await pool.drain(30.0)
    except Exception as error:  # noqa: BLE001  the last place that can tell the operator
        sys.stderr.write(f"{error}\n")
        return 1
    finally:
        await pool.stop()
    return 0


def main(argv: Sequence[str] | None = None) -> int:
    """Serve one scoring script until a signal; returns the exit code."""
    parser = argparse.ArgumentParser(description="Serve one scoring script over HTTP.")
    parser.add_argument("script")
    parser.add_argument("--python", default=sys.executable)
    parser.add_argument("--host", default="127.0.0.1")
    parser.add_argument("--port", type=int, default=5001)
    parser.add_argument("--workers", type=int, default=1)
    parser.add_argument("--name", default="service")
    parser.add_argument("--timeout-ms", type=int, default=int(os.environ.get("SCORING_TIMEOUT_MS", "3600000")))
    arguments = parser.parse_args(argv)
    os.umask(0o077)
    with tempfile.TemporaryDirectory(prefix="cloche-scoring-") as folder:
        return uvloop.run(_serve(arguments, Path(arguments.script).resolve(), Path(folder)))


if __name__ == "__main__":
    sys.exit(main())
