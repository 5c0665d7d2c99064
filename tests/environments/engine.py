"""The Docker engine of the tests: the user's own, or Debian's package started by hand on a socket of its own."""

import functools
import json
import os
import shutil
import signal
import socket
import subprocess
import time
from pathlib import Path

import docker
from docker.errors import DockerException

from tests.environments.places import NotPossible, cache, call, locked, say

# Short, for the paths of Unix sockets have 108 bytes, and the engine makes deeper ones.
RUN = Path("/run/cloche-test-engine")
# Everybody on the machine meets this engine, so it lives in nobody's cache, which may be removed under it.
DATA = Path("/var/lib/cloche-test-engine")
SOCKET = RUN / "docker.sock"
PID = RUN / "docker.pid"
PACKAGES = ("docker.io", "iptables", "mmdebstrap")


@functools.cache
def client() -> docker.DockerClient:
    """This process's client of the engine that answers: the user's, else ours. Raises NotPossible when none does."""
    for address in addresses():
        if not accepts(address):
            continue
        try:
            found = docker.DockerClient(base_url=address, version="auto", timeout=120)
        except DockerException:
            continue
        point_at(address)
        return found
    raise NotPossible("No Docker engine answers. Start Docker, or run `make environments` (Debian, as root).")


def answers() -> bool:
    try:
        client()
    except NotPossible:
        return False
    return True


def accepts(address: str) -> bool:
    """Whether something listens on a Unix socket; docker's client would leave a refused one open."""
    if not address.startswith("unix://"):
        return True
    with socket.socket(socket.AF_UNIX) as probe:
        try:
            probe.connect(address.removeprefix("unix://"))
        except OSError:
            return False
    return True


def close() -> None:
    """Give this process's client back, if there is one."""
    if client.cache_info().currsize:
        client().close()
        client.cache_clear()


def chosen() -> dict[str, str]:
    """The variables by which the docker command and testcontainers find the engine in use."""
    return {name: os.environ.get(name, "") for name in ("DOCKER_HOST", "DOCKER_CONFIG")}


def addresses() -> list[str]:
    asked = os.environ.get("DOCKER_HOST")
    return [asked] if asked else ["unix:///var/run/docker.sock", f"unix://{SOCKET}"]


def point_at(address: str) -> None:
    """Make testcontainers and the docker command use the same engine, and no reaper image: we clean up ourselves."""
    os.environ["DOCKER_HOST"] = address
    os.environ["TESTCONTAINERS_RYUK_DISABLED"] = "true"
    os.environ["TESTCONTAINERS_HOST_OVERRIDE"] = "127.0.0.1"
    if address == f"unix://{SOCKET}":
        os.environ["DOCKER_CONFIG"] = str(plugins().parent)


def plugins() -> Path:
    """Where the docker command finds the compose plugin when the engine is ours."""
    folder = cache() / "docker" / "cli-plugins"
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def ours() -> bool:
    return os.environ.get("DOCKER_HOST") == f"unix://{SOCKET}"


def up() -> docker.DockerClient:
    """A client of an engine that answers; on Debian as root the engine is installed and started where there is none."""
    with locked("engine"):
        try:
            return client()
        except NotPossible:
            if os.environ.get("DOCKER_HOST"):
                raise
        install()
        start()
        return client()


def install() -> None:
    missing = [
        name for name, program in zip(PACKAGES, ("dockerd", "iptables", "mmdebstrap"), strict=True) if not at(program)
    ]
    if not missing:
        return
    if os.geteuid() or not shutil.which("apt-get"):
        raise NotPossible(f"No Docker engine answers and {', '.join(missing)} cannot be installed. Start Docker.")
    say(f"engine: installing {' '.join(missing)}")
    call(["apt-get", "update", "-q"])
    # The package's own service would start a second engine where an init system runs.
    quiet = ["apt-get", "install", "-yq", "--no-install-recommends", *missing]
    call(quiet, RUNLEVEL="1", DEBIAN_FRONTEND="noninteractive")


def at(program: str) -> str | None:
    """Where the program lies, also outside the PATH of a user who is not root."""
    return shutil.which(program, path=os.environ.get("PATH", "") + ":/usr/sbin:/sbin")


def start() -> None:
    say("engine: starting dockerd")
    RUN.mkdir(mode=0o700, parents=True, exist_ok=True)
    forget(PID, "dockerd")
    forget(RUN / "exec" / "containerd" / "containerd.pid", "containerd")
    settings = {
        "hosts": [f"unix://{SOCKET}"],
        "data-root": str(DATA),
        "exec-root": str(RUN / "exec"),
        "pidfile": str(PID),
        "log-level": "warn",
        "log-driver": "json-file",
        "log-opts": {"max-size": "10m", "max-file": "2"},
    }
    (RUN / "daemon.json").write_text(json.dumps(settings))
    log = RUN / "engine.log"
    with log.open("wb") as file:
        daemon = subprocess.Popen(
            [at("dockerd") or "dockerd", "--config-file", RUN / "daemon.json"],
            stdin=subprocess.DEVNULL,
            stdout=file,
            stderr=file,
            start_new_session=True,
        )
    for _ in range(300):
        if daemon.poll() is not None:
            break
        if accepts(f"unix://{SOCKET}"):
            return
        time.sleep(0.1)
    last = "\n".join(log.read_text(errors="replace").splitlines()[-8:])
    raise NotPossible(f"dockerd did not start; its log {log} ends with:\n{last}")


def forget(file: Path, program: str) -> None:
    """Remove what an engine that was killed left, lest a process that has its number now be taken for its part."""
    try:
        number = file.read_text().strip()
    except FileNotFoundError:
        return
    try:
        name = Path(f"/proc/{number}/comm").read_text().strip()
    except OSError:
        name = ""
    if name != program:
        file.unlink(missing_ok=True)


def down() -> None:
    """Stop the engine that `start` started; its images stay."""
    forget(PID, "dockerd")
    if not PID.exists():
        return
    number = int(PID.read_text())
    os.kill(number, signal.SIGTERM)
    for _ in range(200):
        if not PID.exists():
            return
        time.sleep(0.1)
    raise NotPossible(f"dockerd, process {number}, does not end.")
