"""`idle`: the memory of each service when nobody asks for anything."""

import time
from pathlib import Path

from benchmarks.cluster.servers import cluster
from benchmarks.core import Row, scratch

MIB = 1024 * 1024
MOST_MB = 120.0
SETTLE_SECONDS = 5.0


def rows() -> list[Row]:
    """Start every service and look at it a while later."""
    with scratch("idle") as folder, cluster(folder) as running:
        time.sleep(SETTLE_SECONDS)
        found = {name: resident(pid) for name, pid in running.pids.items()}
    return [
        Row("idle", f"resident memory of {name}", value, "MB", f"≤ {MOST_MB:.0f} MB", 1, met=value <= MOST_MB)
        for name, value in found.items()
    ]


def resident(pid: int) -> float:
    """Return the resident memory of a process in megabytes, shared pages counted whole."""
    status = Path(f"/proc/{pid}/status").read_text()
    line = next(line for line in status.splitlines() if line.startswith("VmRSS:"))
    return int(line.split()[1]) * 1024 / 1e6
