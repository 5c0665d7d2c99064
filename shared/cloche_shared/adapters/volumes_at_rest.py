"""Says whether servers still write to volumes that are to be saved.

    python -m cloche_shared.adapters.volumes_at_rest DIR  # exit status 0 if none does

Kafka and MongoDB hold a POSIX lock on a file of their folder for as long as they run. The kernel knows it by the
file, so it is seen from any container of the same machine, and is gone with its holder however that ends. A lock is
tried for reading, which needs no more than the right to read; it is given back at once.
"""

import fcntl
import sys
from collections.abc import Iterator
from pathlib import Path

LOCKS = frozenset({".lock", "mongod.lock", "WiredTiger.lock"})
DEPTHS = ("", "*/")
"""How deep in a volume a lock may lie: no further, as a volume of S3 may hold millions of files."""


def held(file: Path) -> bool:
    """Whether another process has locked a file for itself."""
    with file.open("rb") as opened:
        try:
            fcntl.lockf(opened, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except (BlockingIOError, PermissionError):
            return True
        return False


def running(root: Path) -> Iterator[str]:
    """Yield the volumes below a folder whose servers run, by name."""
    for volume in sorted(root.iterdir()):
        found = (file for name in LOCKS for depth in DEPTHS for file in volume.glob(depth + name))
        if any(held(file) for file in found if file.is_file()):
            yield volume.name


def main(arguments: list[str]) -> int:
    """Return the exit status: 0 if nothing runs."""
    busy = ", ".join(running(Path(arguments[0])))
    if not busy:
        return 0
    sys.stderr.write(f"Nothing was saved: still running: {busy}. Run `docker compose stop` first.\n")
    return 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
