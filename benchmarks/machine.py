"""What machine this is: cores, load, and how long its disk takes to sync."""

import os
import platform
import sys
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import median

from benchmarks.core import scratch

QUIET = 0.7
SYNCS = 100


@dataclass(frozen=True, slots=True)
class Machine:
    """Facts that figures depend on. `fsync_ms` is the median of writing and syncing 4 KiB."""

    cores: int
    memory_gib: float
    load: float
    fsync_ms: float
    python: str
    system: str

    def shown(self) -> dict[str, object]:
        """Return it as JSON."""
        return asdict(self)

    def header(self) -> str:
        """Return the lines above the table."""
        text = (
            f"{self.cores} cores, {self.memory_gib:.0f} GiB, load {self.load:.2f}, fsync p50 {self.fsync_ms:.2f} ms, "
            f"Python {self.python}, {self.system}"
        )
        if self.load > QUIET:
            text += f"\nwarning: the load average is above {QUIET}; other work blurs what follows"
        return text


def look() -> Machine:
    """Return the facts of this machine."""
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30
    return Machine(
        cores=len(os.sched_getaffinity(0)),
        memory_gib=round(memory, 1),
        load=os.getloadavg()[0],
        fsync_ms=_fsync_ms(),
        python=sys.version.split()[0],
        system=f"{platform.system()} {platform.release()} {platform.machine()}",
    )


def _fsync_ms() -> float:
    with scratch("fsync") as folder:
        descriptor = os.open(folder / "file", os.O_WRONLY | os.O_CREAT, 0o600)
        try:
            return round(median(_sync_once(descriptor) for _ in range(SYNCS)), 4)
        finally:
            os.close(descriptor)


def _sync_once(descriptor: int) -> float:
    began = time.perf_counter()
    os.write(descriptor, bytes(4096))
    os.fsync(descriptor)
    return (time.perf_counter() - began) * 1000


def pss_mb(pids: set[int]) -> float:
    """Return the proportional set size of processes together, in MB (10^6 bytes)."""
    return sum(_pss(pid) for pid in pids) / 1e6


def _pss(pid: int) -> int:
    try:
        lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
    except OSError:
        return 0
    return sum(int(line.split()[1]) * 1024 for line in lines if line.startswith("Pss:"))


def family(pid: int, mark: str) -> set[int]:
    """Return a process, its descendants, and every process whose command line names `mark`."""
    parents: dict[int, int] = {}
    marked: set[int] = {pid}
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            number = int(entry.name)
            try:
                parents[number] = int((entry / "stat").read_text().rpartition(")")[2].split()[1])
                if mark.encode() in (entry / "cmdline").read_bytes():
                    marked.add(number)
            except OSError:
                continue
    grown = True
    while grown:
        more = {child for child, parent in parents.items() if parent in marked} - marked
        marked |= more
        grown = bool(more)
    return marked - {os.getpid()}
