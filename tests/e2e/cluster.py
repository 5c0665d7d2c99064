"""Four services as processes of their own, on Kafka, a document store and S3, behind one gateway.

The behaviour suite runs on it with `CLOCHE_TEST_TOPOLOGY=cluster`; `CLOCHE_TEST_REPLICAS` says how many
replicas each service has (1), each runner and deployer with a node of its own.
"""

import fcntl
import json
import os
import re
import secrets
import signal
import socket
import subprocess
import sys
import urllib.error
import urllib.request
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from hashlib import sha256
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, cast

from cloche_shared.access import issue_key
from cloche_shared.adapters.node_folder import SOCKET_FOLDER
from cloche_shared.adapters.system_random import SystemRandom
from tests.e2e.topology import DELAY, NICENESS, Topology, _environment, eventually
from tests.environments import build, engine, sharing
from tests.environments.box import LABEL, OWNER
from tests.environments.catalogue import ROLES
from tests.environments.owners import this_owner
from tests.environments.places import NotPossible

if TYPE_CHECKING:
    from tests.environments.servers import KafkaServer, MongoServer, S3Server

SERVICES: Final = ("registry", "builder", "runner", "deployer")
WITH_NODE: Final = frozenset(("runner", "deployer"))
REPLICAS: Final = int(os.environ.get("CLOCHE_TEST_REPLICAS") or 1)
PUBLIC: Final = "public"
"""The folder, in the home of the cluster of a session, that its default package index and channels are served from."""
HOME: Final = SOCKET_FOLDER - len("/n1/sockets")
GATEWAY: Final = Path(__file__).parent.parent.parent / "compose" / "gateway.conf"


@dataclass
class Cluster(Topology):
    """The processes of one installation, by service and number (`runner-1`)."""

    home: Path = Path()
    settings: Mapping[str, str] = field(default_factory=dict)
    replicas: int = REPLICAS
    niceness: int = NICENESS
    ports: dict[str, int] = field(default_factory=dict)
    pids: dict[str, int] = field(default_factory=dict)
    gateway: str = ""

    def start(self) -> None:
        """Start everything and return when every replica is ready."""
        self.home.mkdir(parents=True, exist_ok=True, mode=0o700)
        self._make_identity()
        names = [f"{service}-{number}" for service in SERVICES for number in range(1, self.replicas + 1)]
        *ports, gateway = free_ports(len(names) + 1)
        self.ports = dict(zip(names, ports, strict=True))
        self.url = f"http://127.0.0.1:{gateway}"
        for name in names:
            self.begin(name)
        self._open_gateway(gateway)
        for name in names:
            self.until_ready(name)

    def begin(self, name: str) -> None:
        """Start one replica."""
        service, _, number = name.partition("-")
        port = self.ports[name]
        environ = {
            **_environment(),
            **self._stores(),
            "CLOCHE_CLUSTER__INSTALLATION": self._identity("installation"),
            "CLOCHE_CLUSTER__PEPPER_FILE": str(self.home / "pepper"),
            "CLOCHE_CLUSTER__TOKEN_FILE": str(self.home / "token"),
            "CLOCHE_CLUSTER__REPLICA": name,
            "CLOCHE_CLUSTER__ADDRESS": f"http://127.0.0.1:{port}",
            "CLOCHE_CLUSTER__PUBLIC_URL": self.url,
            "CLOCHE_CLUSTER__DATA": str(self._near() / (f"n{number}" if service in WITH_NODE else name)),
            "CLOCHE_CLUSTER__DELAY": str(DELAY),
            "CLOCHE_CLUSTER__PACKAGE_CODE": "true",
            "CLOCHE_HTTP__PORT": str(port),
            "CLOCHE_HTTP__PROXIES": '["127.0.0.1"]',
            **({"CLOCHE_CLUSTER__NODE": f"n{number}"} if service in WITH_NODE else {}),
            **({"CLOCHE_RUNNER__SHARED": "true"} if service == "runner" else {}),
            **{setting: value for setting, value in self.settings.items() if _concerns(setting, service)},
        }
        argv = [sys.executable, "-P", "-m", f"cloche_{service}"]
        with (self.home / f"{name}.log").open("ab") as log:
            process = subprocess.Popen(
                argv, env=environ, cwd=self.home, stdin=subprocess.DEVNULL, stdout=log, stderr=log,
                start_new_session=True,
            )  # fmt: skip
        process.returncode = 0  # the keeper ends it: nobody waits for it here
        with suppress(ProcessLookupError):
            os.setpriority(os.PRIO_PROCESS, process.pid, self.niceness)
        self.pids[name] = process.pid

    def until_ready(self, name: str) -> None:
        eventually(lambda: self.failing(name) == {}, f"{name} is ready; see {self.home / name}.log")

    def failing(self, name: str) -> dict[str, str]:
        """Return what a replica says fails; `server` when it does not answer."""
        address = f"http://127.0.0.1:{self.ports[name]}/readyz"
        try:
            with urllib.request.urlopen(address, timeout=5) as answer:
                return dict(json.load(answer)["failing"])
        except urllib.error.HTTPError as error:
            with error:
                return dict(json.load(error).get("failing", {"server": str(error.code)}))
        except (OSError, ValueError):
            return {"server": "no answer"}

    def end(self, name: str, number: int = signal.SIGKILL) -> None:
        """End one replica, as a crash would unless another signal is given."""
        with suppress(ProcessLookupError):
            os.kill(self.pids[name], number)
        eventually(lambda: _is_gone(self.pids[name]), f"{name} ended")

    def stop(self) -> None:
        """End every process and the gateway."""
        for pid in self.pids.values():
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGTERM)
        eventually(lambda: all(_is_gone(pid) for pid in self.pids.values()), "all replicas ended")
        if self.gateway:
            engine.client().containers.get(self.gateway).remove(force=True)
        if self._near() != self.home:
            self._near().unlink()

    # --- what it is made of

    def _near(self) -> Path:
        """Return the home by a path that is short enough for sockets in it."""
        if len(str(self.home)) <= HOME:
            return self.home
        link = Path("/tmp") / f"cloche-{sha256(str(self.home).encode()).hexdigest()[:12]}"  # noqa: S108 - a link of ours
        if not link.is_symlink():
            link.symlink_to(self.home)
        return link

    def _make_identity(self) -> None:
        if (self.home / "pepper").exists():
            self.token = (self.home / "token").read_text()
            return
        pepper = secrets.token_hex(32)
        self.token = issue_key(SystemRandom(), pepper.encode()).token
        for name, text in (("pepper", pepper), ("token", self.token), ("installation", f"t{secrets.token_hex(5)}")):
            (self.home / name).touch(mode=0o600)
            (self.home / name).write_text(text)

    def _identity(self, name: str) -> str:
        return (self.home / name).read_text()

    def _servers(self) -> "tuple[KafkaServer, MongoServer, S3Server]":
        """Return the servers that all tests share."""
        return (
            cast("KafkaServer", sharing.acquire("kafka", this_owner())),
            cast("MongoServer", sharing.acquire("mongo", this_owner())),
            cast("S3Server", sharing.acquire("s3", this_owner())),
        )

    def _stores(self) -> dict[str, str]:
        mine = self._identity("installation")
        kafka, mongo, s3 = self._servers()
        mechanism = re.search(r"authMechanism=([A-Z0-9-]+)", mongo.options)
        return {
            "CLOCHE_KAFKA__BOOTSTRAP_SERVERS": kafka.tls_bootstrap,
            "CLOCHE_KAFKA__CA_FILE": kafka.authority,
            "CLOCHE_KAFKA__USERNAME": kafka.admin,
            "CLOCHE_KAFKA__PASSWORD": kafka.password,
            "CLOCHE_KAFKA__TOPIC_PREFIX": f"{mine}.",
            "CLOCHE_KAFKA__PARTITIONS": "3",
            "CLOCHE_MONGO__HOSTS": mongo.host,
            "CLOCHE_MONGO__DATABASE": mine,
            "CLOCHE_MONGO__USERNAME": mongo.user,
            "CLOCHE_MONGO__PASSWORD": mongo.password,
            "CLOCHE_MONGO__AUTH_MECHANISM": mechanism[1] if mechanism else "",
            "CLOCHE_S3__ENDPOINT": f"http://{s3.endpoint}",
            "CLOCHE_S3__ACCESS_KEY": s3.access_key,
            "CLOCHE_S3__SECRET_KEY": s3.secret_key,
            "CLOCHE_S3__BUCKET": mine,
        }

    def _open_gateway(self, port: int) -> None:
        """Run the gateway of compose.yaml with this cluster's addresses."""
        text = GATEWAY.read_text().replace("listen 8571;", f"listen 127.0.0.1:{port};")
        for service in SERVICES:
            found = [number for name, number in self.ports.items() if name.startswith(f"{service}-")]
            servers = " ".join(f"server 127.0.0.1:{number};" for number in found)
            text = text.replace(f"{service}:8571;", f"{service};")
            text = f"upstream {service} {{ {servers} keepalive 32; }}\n" + text
        config = self.home / "gateway.conf"
        config.write_text(text)
        config.chmod(0o644)
        client = engine.client()
        container = client.containers.run(
            build.found(client, ROLES["gateway"]) or ROLES["gateway"].public,
            detach=True,
            network_mode="host",
            labels={LABEL: "gateway", OWNER: this_owner()},
            mounts=[],
            volumes={str(config): {"bind": "/etc/nginx/conf.d/default.conf", "mode": "ro"}},
        )
        self.gateway = str(container.id)


def _concerns(setting: str, service: str) -> bool:
    """Whether a service knows a setting: sections of other services are refused."""
    section = setting.removeprefix("CLOCHE_").partition("__")[0].lower()
    return section == service or section not in SERVICES


def _is_gone(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] in {"Z", "X"}
    except OSError:
        return True


def free_ports(count: int) -> list[int]:
    """Return ports of loopback that nobody listens on now."""
    sockets = [socket.socket() for _ in range(count)]
    try:
        for one in sockets:
            one.bind(("127.0.0.1", 0))
        return [int(one.getsockname()[1]) for one in sockets]
    finally:
        for one in sockets:
            one.close()


@contextmanager
def shared_cluster(root: Path) -> Iterator[Cluster]:
    """Yield a cluster of the whole test session; who comes first starts it, the keeper ends it after the last."""
    said, scratch = root / "servers" / "cluster.json", root / f"scratch-cluster-{os.getpid()}"
    cluster = Cluster("", "", scratch, home=root / "homes" / "cluster")
    scratch.mkdir(exist_ok=True)
    said.parent.mkdir(exist_ok=True)
    with _only(root / "cluster.lock"):
        if not said.exists():
            published = _published(cluster.home / PUBLIC)
            cluster.settings = {
                "CLOCHE_BUILDER__CHANNEL_ALIAS": f"{published}/channels",
                "CLOCHE_BUILDER__DEFAULT_INDEX": f"{published}/simple",
            }
            try:
                cluster.start()
            except BaseException:
                cluster.stop()
                raise
            said.write_text(json.dumps(_told(cluster)))
    found: dict[str, Any] = json.loads(said.read_text())
    cluster.url, cluster.token = found["url"], found["token"]
    cluster.ports, cluster.pids, cluster.gateway = found["ports"], found["pids"], found["gateway"]
    yield cluster


def _published(folder: Path) -> str:
    """Serve a folder as the package index and the conda channels that definitions name none of; return its address.

    It is empty: who needs packages there puts them there. The keeper ends the process.
    """
    folder.mkdir(parents=True)
    said = folder.with_name(f"{folder.name}.log")
    argv = [sys.executable, "-u", "-m", "http.server", "--bind", "127.0.0.1", "--directory", str(folder), "0"]
    with said.open("wb") as log:
        process = subprocess.Popen(argv, stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True)
    process.returncode = 0  # the keeper ends it: nobody waits for it here
    pattern = re.compile(r" port (\d+) ")
    found: re.Match[str] = eventually(lambda: pattern.search(said.read_text()), "the published folder is served")
    return f"http://127.0.0.1:{found[1]}"


def _told(cluster: Cluster) -> dict[str, Any]:
    return {name: getattr(cluster, name) for name in ("url", "token", "ports", "pids", "gateway")}


@contextmanager
def _only(path: Path) -> Iterator[None]:
    with path.open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


__all__ = ["Cluster", "NotPossible", "shared_cluster"]
