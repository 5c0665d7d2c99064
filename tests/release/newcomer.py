"""A newcomer's machine: an empty home folder, a minimal PATH, nothing of this checkout on any path."""

import os
import socket
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
KEPT = ("CERT", "CA_BUNDLE", "SSL", "PIP_")


def environment(home: Path) -> dict[str, str]:
    """Return the variables of a newcomer; only what says how packages are reached is handed on."""
    kept = {name: value for name, value in os.environ.items() if any(part in name for part in KEPT)}
    tools = home / "bin"
    tools.mkdir(parents=True, exist_ok=True)
    if not (tools / "python3").exists():
        (tools / "python3").symlink_to(Path(sys.executable).resolve())
    return {
        **kept,
        "HOME": str(home),
        "TMPDIR": str(home),
        "PATH": f"{tools}:/usr/local/bin:/usr/bin:/bin",
        "LANG": "C.UTF-8",
        "CLOCHE_HTTP__PORT": str(free_port()),
    }


def free_port() -> int:
    """Return a port that is free now: another Cloche of this machine may hold the usual one."""
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return int(found.getsockname()[1])


def sources(target: Path) -> Path:
    """Copy what git knows of into a folder."""
    listed = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, check=True, capture_output=True).stdout
    for name in listed.decode().split("\0"):
        path = ROOT / name
        if name and path.is_file():
            copy = target / name
            copy.parent.mkdir(parents=True, exist_ok=True)
            copy.write_bytes(path.read_bytes())
    return target


def run(script: str, cwd: Path, variables: dict[str, str]) -> str:
    """Run a script as typed; the test fails with what it printed."""
    done = subprocess.run(
        ["bash", "-e", "-o", "pipefail", "-c", script],
        cwd=cwd,
        env=variables,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=600,
        check=False,
    )
    assert done.returncode == 0, done.stdout
    return done.stdout


def left_running(folder: Path) -> dict[int, str]:
    """Return process ids and command lines of what still lives from or in a folder."""
    mark = str(folder)
    found = {}
    for process in Path("/proc").iterdir():
        try:
            line = (process / "cmdline").read_bytes().replace(b"\0", b" ").decode() if process.name.isdigit() else ""
            places = [line, *(str((process / name).readlink()) for name in ("cwd", "exe"))] if line else []
        except OSError:
            continue
        if any(mark in place for place in places):
            found[int(process.name)] = line
    return found
