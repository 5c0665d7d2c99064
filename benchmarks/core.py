"""What every benchmark shares: rows, quantiles, scratch folders, processes that end."""

import asyncio
import contextlib
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from math import ceil
from pathlib import Path
from statistics import median

ROOT = Path(__file__).resolve().parent.parent
BENCH = ROOT / ".bench"
"""Peers' environments and scratch data; `make clean` removes it."""


@dataclass(frozen=True, slots=True)
class Row:
    """One figure. `against` is the peer's or ceiling's value of the same run, `runs` how often each was measured."""

    id: str
    what: str
    value: float | None
    unit: str
    goal: str
    runs: int
    peer: str = ""
    against: float | None = None
    met: bool | None = None

    @property
    def ratio(self) -> float | None:
        """Ours over theirs."""
        if self.value is None or not self.against:
            return None
        return self.value / self.against

    def shown(self) -> dict[str, object]:
        """Return it as the JSON file holds it."""
        against = None if self.against is None else {"what": self.peer, "value": _rounded(self.against)}
        return {
            "id": self.id,
            "what": self.what,
            "value": _rounded(self.value),
            "unit": self.unit,
            "against": against,
            "ratio": _rounded(self.ratio),
            "goal": self.goal,
            "met": self.met,
            "runs": self.runs,
        }


def _rounded(value: float | None) -> float | None:
    return None if value is None else float(f"{value:.4g}")


class SkippedError(Exception):
    """A figure cannot be measured here; the text says why."""


def skipped(name: str, why: str, goal: str = "") -> Row:
    """Return the row of what was not measured."""
    return Row(name, f"not measured: {why}", None, "", goal, 0)


def quantile(values: Sequence[float], share: float) -> float:
    """Return the value that `share` of the values do not exceed (nearest rank)."""
    ordered = sorted(values)
    return ordered[max(0, ceil(share * len(ordered)) - 1)]


def p99(values: Sequence[float]) -> float:
    """Return the 99th percentile (nearest rank)."""
    return quantile(values, 0.99)


@dataclass(slots=True)
class Series:
    """Values by side (`ours`, a peer's name), measured in turn."""

    values: dict[str, list[float]] = field(default_factory=dict)

    def add(self, side: str, value: float) -> None:
        """Keep one value."""
        self.values.setdefault(side, []).append(value)

    def median(self, side: str) -> float:
        """Return the median of a side."""
        return median(self.values[side])

    def p99(self, side: str) -> float:
        """Return the 99th percentile of a side."""
        return p99(self.values[side])


def interleaved(rounds: int, sides: Mapping[str, Callable[[], float]]) -> Series:
    """Measure each side once per round; every other round in reverse, so that none always comes first."""
    series = Series()
    names = list(sides)
    for number in range(rounds):
        for name in names if number % 2 == 0 else reversed(names):
            series.add(name, sides[name]())
    return series


@contextmanager
def scratch(name: str) -> Iterator[Path]:
    """Make an empty folder that is gone afterwards."""
    folder = BENCH / "scratch" / name
    remove(folder)
    folder.mkdir(parents=True)
    try:
        yield folder
    finally:
        remove(folder)


def remove(folder: Path) -> None:
    """Remove a folder, also one with read-only folders in it."""
    if not folder.exists():
        return
    for path, _, _ in os.walk(folder):
        with contextlib.suppress(OSError):
            Path(path).chmod(0o700)
    shutil.rmtree(folder, ignore_errors=True)


def environment(**extra: str) -> dict[str, str]:
    """Return this process's environment without what would lead Cloche elsewhere."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith("CLOCHE_")}
    kept.pop("PYTHONDONTWRITEBYTECODE", None)
    return kept | extra


@contextmanager
def process(argv: Sequence[str], log: Path, **extra: str) -> Iterator["subprocess.Popen[bytes]"]:
    """Run a program in a session of its own; it and what it started are ended afterwards."""
    with log.open("ab") as file:
        started = subprocess.Popen(
            list(argv),
            stdin=subprocess.DEVNULL,
            stdout=file,
            stderr=file,
            cwd=ROOT,
            env=environment(**extra),
            start_new_session=True,
        )
    try:
        yield started
    finally:
        end_group(started)


def end_group(started: "subprocess.Popen[bytes]", seconds: float = 10.0) -> None:
    """End a program that leads its own group: politely, then by force."""
    with contextlib.suppress(ProcessLookupError):
        os.killpg(started.pid, signal.SIGTERM)
    try:
        started.wait(seconds)
    except subprocess.TimeoutExpired:
        pass
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(started.pid, signal.SIGKILL)
        started.wait()


def python(*arguments: str) -> list[str]:
    """Return the command line of this interpreter; `-P` keeps the folder we are in out of its path."""
    return [sys.executable, *arguments]


async def port_open(port: int, seconds: float = 30.0) -> None:
    """Wait until somebody listens on a loopback port. Raises `SkippedError`."""
    try:
        async with asyncio.timeout(seconds):
            while True:
                try:
                    _, writer = await asyncio.open_connection("127.0.0.1", port)
                except OSError:
                    await asyncio.sleep(0.005)
                else:
                    writer.close()
                    return
    except TimeoutError:
        raise SkippedError(f"nothing answers on port {port}") from None
