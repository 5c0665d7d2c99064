"""The secrets of an installation: made once, at random, and never shown.

Each consumer has a folder of its own (a volume), so that nobody holds what he does not need. What exists
stays; what is derived (the broker's settings, the files for clients, whom to trust) is written at each start.
"""

import json
import os
import secrets
import string
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from cloche_shared.access import issue_key
from cloche_shared.adapters.system_random import SystemRandom
from cloche_shared.bus.rights import PRODUCER, SERVICES
from cloche_shared.cluster.provision import broker

SERVICE_UID: Final = 10001
SERVICE_GID: Final = 10000
BROKER_UID: Final = 1000
LENGTH: Final = 40
"""Letters and digits: 238 bits, and nothing that any file format would have to escape."""
_LETTERS: Final = string.ascii_letters + string.digits
_OURS: Final = 0o600
_THEIRS: Final = 0o444
"""Of programs whose user is not known here; nobody else's container has the folder."""

PEPPER: Final = "pepper"
"""What all services have in common."""
OWN: Final = ("kafka-password", "mongo-password", "s3-password")


@dataclass(frozen=True, slots=True)
class Place:
    """A folder below the root, and who reads what is in it."""

    folder: Path
    uid: int
    mode: int = _OURS

    def prepare(self) -> None:
        """Make the folder, closed to all but its reader (and open where he is not known)."""
        self.folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        _give(self.folder, self.uid, 0o755 if self.mode == _THEIRS else 0o700)

    def kept(self, name: str, value: str = "") -> str:
        """Return what a file holds; one that is not there gets `value`, or something new at random."""
        path = self.folder / name
        if not path.exists():
            self.put(name, value or new_secret())
        return path.read_text().strip()

    def put(self, name: str, text: str) -> None:
        """Write a file anew; nobody sees half of it."""
        fresh = self.folder / f".{name}.new"
        fresh.unlink(missing_ok=True)
        handle = os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, 0o600)
        with os.fdopen(handle, "w") as file:
            file.write(text + "\n")
            file.flush()
            os.fsync(file.fileno())
        _give(fresh, self.uid, self.mode)
        fresh.replace(self.folder / name)


def _give(path: Path, uid: int, mode: int) -> None:
    """Hand a path to its reader; without the right to (outside a container) it stays ours."""
    path.chmod(mode)
    if os.geteuid() == 0:
        os.chown(path, uid, SERVICE_GID if uid == SERVICE_UID else uid)


def new_secret() -> str:
    """Return a new secret."""
    return "".join(secrets.choice(_LETTERS) for _ in range(LENGTH))


def places(root: Path) -> Mapping[str, Place]:
    """Return the folders by their readers' names."""
    ours = {name: Place(root / name, SERVICE_UID) for name in ("admin", "client", *SERVICES)}
    return {
        **ours,
        "kafka": Place(root / "kafka", BROKER_UID),
        "mongo": Place(root / "mongo", 0, _THEIRS),
        "s3": Place(root / "s3", 0, _THEIRS),
    }


def make_secrets(root: Path, *, kafka_port: int, authority: str) -> None:
    """Make what is missing, and write what follows from it. Raises `OSError`.

    `kafka_port` is where producers outside reach the broker, on loopback; `authority` whom they trust (PEM).
    """
    place = places(root)
    for one in place.values():
        one.prepare()
    admin, client = place["admin"], place["client"]
    admin.kept("installation", secrets.token_hex(8))
    pepper = admin.kept(PEPPER)
    for service in SERVICES:
        place[service].kept(PEPPER, pepper)
        for name in OWN:
            place[service].kept(name)
    token = issue_key(SystemRandom(), pepper.encode()).token
    client.kept("token", place["registry"].kept("token", token))
    place["mongo"].kept("root-password", admin.kept("mongo-password"))
    place["s3"].kept("secret-key", admin.kept("s3-password"))
    place["s3"].put("users.json", _s3_users({name: place[name].kept("s3-password") for name in SERVICES}))
    place["kafka"].put("server.properties", broker.settings(admin.kept("kafka-password"), kafka_port))
    for name, text in broker.client_files(PRODUCER, client.kept("kafka-password"), kafka_port, authority).items():
        client.put(name, text)


def _s3_users(passwords: Mapping[str, str]) -> str:
    """Return the file in which Versity's gateway looks up who signs in; the bucket's policy says what they may."""
    return json.dumps(
        {
            "accessAccounts": {
                user: {"access": user, "secret": secret, "role": "user", "userID": 0, "groupID": 0, "projectID": 0}
                for user, secret in passwords.items()
            }
        }
    )
