"""`docker compose up` for tests: images from this checkout, a package index of its own, all gone afterwards."""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import re
import shutil
import socket
import subprocess
import sys
import time
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any, Final

from tests.environments import build, engine, sharing
from tests.environments.box import LABEL, OWNER
from tests.environments.catalogue import ROLES
from tests.environments.owners import lives, this_owner
from tests.environments.places import NotPossible, cache, call, locked

if TYPE_CHECKING:
    from collections.abc import Iterator

ROOT: Final = Path(__file__).resolve().parents[2]
IMAGES: Final = ("kafka", "mongo", "s3", "gateway", "python-base")
SERVICES: Final = ("registry", "builder", "runner", "deployer")
TAG: Final = "test"
WAIT: Final = 120.0
OVERRIDE: Final = """
services:
  index:
    image: {base}
    command: ["python3", "-m", "http.server", "--directory", "/index", "8080"]
    init: true
    networks: [outside]
    volumes: ["{index}:/index:ro"]
"""
LABELS: Final = """  {service}:
    labels: {{{label}: compose, {owner_label}: "{owner}"}}
"""
KILL: Final = """
import os
for pid in filter(str.isdigit, os.listdir("/proc")):
    words = open(f"/proc/{pid}/cmdline", "rb").read().split(b"\\0")
    if int(pid) not in (1, os.getpid()) and b"-m" in words:
        os.kill(int(pid), 9)
"""


@dataclass
class Composed:
    """A project of compose that runs. `folder` is for the client's side."""

    project: str
    port: int
    kafka_port: int
    override: str
    folder: str
    token: str = ""
    more: str = ""
    """Further files of compose, with colons."""

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def variables(self) -> dict[str, str]:
        """What `docker compose` is told."""
        client = engine.client()
        images = {ROLES[role].variable: build.found(client, ROLES[role]) or ROLES[role].public for role in IMAGES}
        return {
            **{name: value for name, value in engine.chosen().items() if value},
            **images,
            "COMPOSE_PROJECT_NAME": self.project,
            "COMPOSE_FILE": ":".join(filter(None, (str(ROOT / "compose.yaml"), self.more, self.override))),
            "CLOCHE_TAG": TAG,
            "CLOCHE_PORT": str(self.port),
            "CLOCHE_KAFKA_PORT": str(self.kafka_port),
            "CLOCHE_INDEX": "http://index:8080/simple",
        }

    def compose(self, *words: str, timeout: float = 600) -> str:
        """Run `docker compose` and return what it wrote; the assertion has the end of it when it fails."""
        with Path(os.devnull).open("rb") as nothing:
            return self.piped(*words, given=nothing, timeout=timeout).decode(errors="replace")

    def piped(
        self, *words: str, given: IO[bytes], taken: IO[bytes] | int = subprocess.PIPE, timeout: float = 600
    ) -> bytes:
        """Run `docker compose` between two files; return what it wrote where none takes it."""
        done = subprocess.run(
            ["docker", "compose", *words],
            cwd=ROOT,
            env=os.environ | self.variables(),
            stdin=given,
            stdout=taken,
            stderr=subprocess.PIPE,
            timeout=timeout,
            check=False,
        )
        said = ((done.stdout or b"")[-2000:] + done.stderr[-3000:]).decode(errors="replace")
        assert done.returncode == 0, f"docker compose {' '.join(words)}: {said}"
        return done.stdout or b""

    def widen(self, file: str, *services: str) -> None:
        """Add a file of compose, and to whom the containers of its services belong."""
        override = Path(self.override)
        labels = {"label": LABEL, "owner_label": OWNER, "owner": this_owner()}
        named = "".join(LABELS.format(service=name, **labels) for name in services)
        wider = override.with_name("wider.yaml")
        wider.write_text(f"services:\n{named}")
        self.more, self.override = file, f"{override}:{wider}"

    def cloche(self, *words: str, ok: bool = True, timeout: float = 300) -> str:
        """Type a command of the README; return what it wrote."""
        variables = {"CLOCHE_URL": self.url, "CLOCHE_TOKEN": self.token, "CLOCHE_HOME": self.folder}
        done = subprocess.run(
            [Path(sys.executable).with_name("cloche"), *words],
            cwd=ROOT,
            env=os.environ | variables,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=timeout,
            check=False,
        )
        assert done.returncode == 0 or not ok, f"cloche {' '.join(words)}: {done.stdout[-3000:]}"
        return done.stdout

    def inside(self, service: str, script: str) -> str:
        """Run Python in a service's container, as its user."""
        return self.compose("exec", "-T", service, "python", "-c", script)

    def crash(self, service: str) -> None:
        """Kill a service's process as the kernel would: its container comes back by itself."""
        before = self.state(service)["StartedAt"]
        self.inside(service, KILL)
        self.wait(lambda: self.state(service)["StartedAt"] != before, f"{service} to start again")
        self.wait(lambda: self.state(service)["Health"]["Status"] == "healthy", f"{service} to be ready again")

    def container(self, service: str, number: int = 1) -> Any:
        return engine.client().containers.get(f"{self.project}-{service}-{number}")

    def state(self, service: str) -> dict[str, Any]:
        found: dict[str, Any] = self.container(service).attrs["State"]
        return found

    @staticmethod
    def wait(done: Any, what: str, most: float = WAIT) -> None:
        until = time.monotonic() + most
        while not done():
            assert time.monotonic() < until, f"waited {most:.0f} s for {what}"
            time.sleep(0.3)


def ready() -> None:
    """Make what the project needs. Raises NotPossible."""
    client = engine.client()
    if not shutil.which("docker"):
        raise NotPossible("The docker command is not installed.")
    if not build.compose():
        call(["docker", "compose", "version"])
    for role in IMAGES:
        if not build.found(client, ROLES[role]):
            raise NotPossible(f"There is no image for {role}: run `make environments`.")
    base = build.found(client, ROLES["python-base"]) or ROLES["python-base"].public
    command = ["nice", "-n", "5", sys.executable, ROOT / "compose" / "images.py", "--tag", TAG]
    call(command, ROOT, CLOCHE_IMAGE_PYTHON_BASE=base)


def index() -> Path:
    """The packages of the quickstart as a folder that any web server can serve as an index."""
    fetched = json.loads((ROOT / "build" / "images" / ".python").read_text())
    wanted = ROOT / "examples" / "quickstart" / "requirements.txt"
    digest = hashlib.sha256(f"{fetched} {wanted.read_text()}".encode()).hexdigest()[:12]
    target = cache() / f"index-{digest}"
    with locked("compose-index"):
        if not target.exists():
            fresh = target.with_suffix(".new")
            shutil.rmtree(fresh, ignore_errors=True)
            files = fresh / "files"
            files.mkdir(parents=True)
            command = [sys.executable, "-m", "pip", "download", "--quiet", "--only-binary", ":all:"]
            call([*command, "--python-version", f"{fetched[0]}.{fetched[1]}", "-d", files, "-r", wanted], ROOT)
            for wheel in files.glob("*.whl"):
                page = fresh / "simple" / re.sub(r"[-_.]+", "-", wheel.name.split("-")[0]).lower() / "index.html"
                page.parent.mkdir(parents=True)
                found = hashlib.sha256(wheel.read_bytes()).hexdigest()
                page.write_text(f'<a href="/files/{wheel.name}#sha256={found}">{wheel.name}</a>')
            call(["chmod", "-R", "a+rX", fresh])
            fresh.rename(target)
    return target


def _override(folder: Path) -> Path:
    """Write what the tests add: the index, and to whom each container belongs."""
    base = build.found(engine.client(), ROLES["python-base"])
    names = ("secrets", "provision", "kafka", "mongo", "s3", *SERVICES, "fence", "executor", "gateway", "client")
    text = OVERRIDE.format(base=base, index=index())
    mine = {"label": LABEL, "owner_label": OWNER, "owner": this_owner()}
    text += f'    labels: {{{LABEL}: compose, {OWNER}: "{this_owner()}"}}\n'
    text += "".join(LABELS.format(service=name, **mine) for name in names)
    path = folder / "override.yaml"
    path.write_text(text)
    return path


def _ports() -> tuple[int, int]:
    with socket.socket() as one, socket.socket() as other:
        for each in (one, other):
            each.bind(("127.0.0.1", 0))
        return int(one.getsockname()[1]), int(other.getsockname()[1])


@contextmanager
def composed(root: Path) -> Iterator[Composed]:
    """Yield a project of this test run, which its processes share: the first one starts it, the last one ends it.

    `root` is its folder; its last part tells the projects of one run apart.
    """
    users, told = root / "users", root / "project.json"
    users.mkdir(parents=True, exist_ok=True)
    me = users / str(os.getpid())
    with _only(root):
        if not told.exists():
            _start(root, told)
        me.touch()
    project = Composed(**json.loads(told.read_text()))
    try:
        yield project
    finally:
        with _only(root):
            me.unlink()
            if not any(users.iterdir()):
                told.unlink()
                project.compose("down", "--volumes", "--remove-orphans", "--timeout", "5")


def _start(root: Path, told: Path) -> None:
    sharing.WATCH.ensure()
    _sweep()
    ready()
    port, kafka_port = _ports()
    name = f"clochetest-{this_owner().replace('-', 'x')}-{root.name}"
    home = root / "home"
    home.mkdir(exist_ok=True)
    project = Composed(name, port, kafka_port, str(_override(root)), str(home))
    try:
        project.compose("up", "--detach", "--wait", "--wait-timeout", "420")
        project.token = project.compose("run", "--rm", "client").strip()
    except BaseException:
        project.compose("down", "--volumes", "--remove-orphans", "--timeout", "5")
        raise
    told.write_text(json.dumps(project.__dict__))


def _sweep() -> None:
    """Remove volumes and networks of projects whose test runs were killed; their containers are gone already."""
    client = engine.client()
    for found in (*client.volumes.list(), *client.networks.list()):
        labels = found.attrs.get("Labels") or {}
        name, _, rest = labels.get("com.docker.compose.project", "").partition("-")
        if name == "clochetest" and not lives(rest.partition("-")[0].replace("x", "-")):
            found.remove()


@contextmanager
def _only(root: Path) -> Iterator[None]:
    with (root / "lock").open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield
