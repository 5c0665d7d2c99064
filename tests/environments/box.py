"""A container on loopback that testcontainers starts, with an owner who cleans it up."""

import secrets
import socket
import time
from collections.abc import Callable
from pathlib import Path

import trustme
from cryptography.hazmat.primitives import serialization
from docker.types import Mount
from testcontainers.core.config import testcontainers_config
from testcontainers.core.container import DockerContainer

from tests.environments import build, engine
from tests.environments.catalogue import ROLES
from tests.environments.places import NotPossible, cache

READY_SECONDS = 90
LABEL = "cloche.test"
OWNER = "cloche.test.owner"

# The reaper's image cannot be had everywhere, and it knows nothing of servers that several processes share.
testcontainers_config.ryuk_disabled = True


class Box(DockerContainer):
    """A container on loopback ports that are fixed before it starts, labelled with the process that owns it."""

    def __init__(self, role: str, owner: str) -> None:
        client = engine.client()
        image = build.found(client, ROLES[role])
        if not image and not build.REGISTRY.pull(client, ROLES[role].public):
            raise NotPossible(f"There is no image for {role}: run `make environments`.")
        self.role, image = role, image or ROLES[role].public
        self.labels: dict[str, str] = client.images.get(image).labels
        self.local = image == ROLES[role].local
        super().__init__(image, name=f"cloche-test-{role}-{secrets.token_hex(4)}")
        self.with_kwargs(labels={LABEL: role, OWNER: owner}, mounts=[])

    def publish(self, inside: int) -> int:
        """Bind a port of the container to a free one on loopback."""
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            outside = int(probe.getsockname()[1])
        self.ports[f"{inside}/tcp"] = ("127.0.0.1", outside)  # type: ignore[assignment]  # docker's own client takes pairs
        return outside

    def volume(self, path: str) -> None:
        """Keep a folder out of the container's layer; the volume goes with the container."""
        self._kwargs["mounts"].append(Mount(path, None))

    def certificate(self, path: str) -> str:
        """Put a key and certificate for loopback into one PEM file of the container; the authority's file here."""
        authority = trustme.CA()
        issued = authority.issue_cert("localhost", "127.0.0.1")
        file = authority_of(str(self._name))
        authority.cert_pem.write_to_path(file)
        chain = b"".join(blob.bytes() for blob in issued.cert_chain_pems)
        self.with_copy_into_container(private_key(issued.private_key_pem.bytes()) + chain, path, 0o644)
        return str(file)

    def still(self, deadline: float) -> None:
        """Raise with the last lines of its log when the container ended or had time enough."""
        self.reload()
        if self.status == "exited" or time.monotonic() > deadline:
            out, err = self.get_logs()
            last = (out + err).decode(errors="replace")[-2000:]
            raise NotPossible(f"{self.image} did not become ready ({self.status}); it said:\n{last}")

    def begin(self, ready: Callable[[], bool]) -> str:
        """Start, wait until `ready` says so, and return the container's id. Nothing is left when it fails."""
        try:
            self.start()
            deadline = time.monotonic() + READY_SECONDS
            while not ready():
                self.still(deadline)
                time.sleep(0.1)
        except BaseException:
            self.stop()
            raise
        self.get_docker_client().client.close()
        return self.get_container_id()


def authority_of(name: str) -> Path:
    """The file of the authority that signed a container's certificate."""
    folder = cache() / "authorities"
    folder.mkdir(exist_ok=True)
    return folder / f"{name}.pem"


def private_key(pem: bytes) -> bytes:
    """The key in PKCS#8, the only form that Kafka reads."""
    key = serialization.load_pem_private_key(pem, None)
    return key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )


def listens(port: int, said: bytes = b"") -> bool:
    """Whether something accepts on a loopback port, and answers when `said` is sent to it."""
    try:
        with socket.create_connection(("127.0.0.1", port), timeout=1) as probe:
            if not said:
                return True
            probe.settimeout(2)
            probe.sendall(said)
            return bool(probe.recv(1))
    except OSError:
        return False
