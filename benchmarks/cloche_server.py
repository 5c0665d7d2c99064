"""A Cloche of its own for a benchmark: started, found, ended."""

import contextlib
import json
import os
import select
import signal
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from benchmarks.core import ROOT, environment, python
from cloche import Client

READY_SECONDS = 30.0


@dataclass(slots=True)
class Running:
    """A server that is ready. `ready_s` is how long it took since its process was started."""

    home: Path
    url: str
    token: str
    process: "subprocess.Popen[bytes]"
    ready_s: float

    @property
    def port(self) -> int:
        """Return the port that it listens on."""
        return int(self.url.rpartition(":")[2])

    def client(self) -> Client:
        """Return a client of this server."""
        return Client(url=self.url, token=self.token, home=self.home)

    def stop(self) -> None:
        """Ask for the end; by force after 20 s."""
        with contextlib.suppress(ProcessLookupError):
            self.process.send_signal(signal.SIGTERM)
        try:
            self.process.wait(20)
        except subprocess.TimeoutExpired:
            self.kill()

    def kill(self) -> None:
        """End it as a power cut would."""
        self.process.kill()
        self.process.wait()


def start(home: Path) -> Running:
    """Start a Cloche on a free loopback port and return when it is ready."""
    reading, writing = os.pipe()
    home.mkdir(parents=True, exist_ok=True)
    argv = python("-P", "-m", "cloche._embedded", "--home", str(home), "--port", "0", "--ready-fd", str(writing))
    began = time.perf_counter()
    with (home / "bench.log").open("ab") as log:
        process = subprocess.Popen(
            argv,
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            pass_fds=[writing],
            cwd=ROOT,
            env=environment(),
            start_new_session=True,
        )
    os.close(writing)
    try:
        said = json.loads(_line(reading))
    except ValueError:
        process.kill()
        process.wait()
        raise RuntimeError(f"Cloche did not start:\n{(home / 'bench.log').read_text()[-2000:]}") from None
    finally:
        os.close(reading)
    took = time.perf_counter() - began
    if "error" in said:
        process.wait()
        raise RuntimeError(f"Cloche did not start: {said['error']}")
    return Running(home, said["url"], Path(said["token_file"]).read_text().strip(), process, took)


def _line(fd: int) -> bytes:
    ready, _, _ = select.select([fd], [], [], READY_SECONDS)
    return os.read(fd, 65_536) if ready else b""


@contextmanager
def cloche(home: Path) -> Iterator[Running]:
    """Run a Cloche for the time of a benchmark."""
    running = start(home)
    try:
        yield running
    finally:
        running.stop()
