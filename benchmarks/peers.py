"""Peers that Cloche does not need: installed into throw-away environments, started on loopback."""

import os
import shutil
import socket
import subprocess
import sys
from pathlib import Path

import uv

from benchmarks.core import BENCH, SkippedError, environment

INSTALL_SECONDS = 240


def free_port() -> int:
    """Return a loopback port that nobody uses now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def uv_bin() -> str:
    """Return the uv that Cloche brings."""
    return uv.find_uv_bin()


def interpreter() -> str:
    """Return the interpreter that this environment was made from."""
    return os.path.realpath(sys.executable)


def installed(name: str, *packages: str) -> Path:
    """Return the `bin` folder of an environment with these packages, made at first use. Raises `SkippedError`."""
    folder = BENCH / name
    mark = folder / ".complete"
    if not mark.exists():
        try:
            _run(uv_bin(), "venv", "-q", "--clear", "-p", interpreter(), str(folder))
            _run(uv_bin(), "pip", "install", "-q", "--python", str(folder / "bin" / "python"), *packages)
        except (subprocess.SubprocessError, OSError) as error:
            raise SkippedError(f"{' '.join(packages)} cannot be installed ({_why(error)})") from None
        mark.touch()
    return folder / "bin"


def wrk() -> str:
    """Return wrk, installed with apt when we may. Raises `SkippedError`."""
    found = shutil.which("wrk")
    if found:
        return found
    if os.geteuid() != 0 or not shutil.which("apt-get"):
        raise SkippedError("wrk is not installed, and installing it needs root and apt")
    try:
        _run("apt-get", "update", "-q")
        _run("apt-get", "install", "-q", "-y", "--no-install-recommends", "wrk")
    except (subprocess.SubprocessError, OSError) as error:
        raise SkippedError(f"wrk cannot be installed ({_why(error)})") from None
    return shutil.which("wrk") or "wrk"


def _run(*argv: str) -> None:
    subprocess.run(argv, check=True, capture_output=True, timeout=INSTALL_SECONDS, env=environment())


def _why(error: Exception) -> str:
    text = error.stderr.decode(errors="replace") if isinstance(error, subprocess.CalledProcessError) else str(error)
    return " ".join(text.split())[-200:]
