"""The installation's own certificate authority, and the certificates of its stores.

The program `openssl` (3.0 or newer) makes them: it is in Python's images, and no library that the services need
can. Only the administrator's folder has the authority's key. A certificate is made anew when it is not the
authority's or has little time left, so each start renews what needs it.
"""

import shutil
import subprocess
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Self

from cloche_shared.bus.rights import SERVICES
from cloche_shared.cluster.provision.secrets import Place
from cloche_shared.errors import Failed

AUTHORITY_DAYS: Final = 7300
SERVER_DAYS: Final = 825
"""The longest that all clients take."""
RENEW_S: Final = 180 * 86400
"""A start makes anew what would end sooner than this, in seconds."""
DEADLINE_S: Final = 60.0

NAMES: Final[Mapping[str, str]] = {
    "kafka": "DNS:kafka,DNS:localhost,IP:127.0.0.1",
    "mongo": "DNS:mongo,DNS:localhost",
    "s3": "DNS:s3,DNS:localhost",
}
"""What clients call each server. Producers outside reach the broker on loopback."""
AUTHORITY: Final = "ca.pem"
SERVER: Final = "server.pem"
_KEY: Final = "ca-key.pem"
_CONFIG: Final = """
[req]
distinguished_name = name
prompt = no
[name]
CN = {name}
[authority]
basicConstraints = critical, CA:TRUE, pathlen:0
keyUsage = critical, keyCertSign, cRLSign
subjectKeyIdentifier = hash
[server]
basicConstraints = critical, CA:FALSE
keyUsage = critical, digitalSignature
extendedKeyUsage = serverAuth, clientAuth
subjectKeyIdentifier = hash
authorityKeyIdentifier = keyid
subjectAltName = {names}
"""


@dataclass(frozen=True, slots=True)
class _Pair:
    """A private key (PKCS#8, the only form that Kafka reads) and its certificate."""

    key: str
    certificate: str


class _Authority:
    """Makes certificates in a folder of its own, which is gone afterwards."""

    def __init__(self, admin: Place) -> None:
        self._admin = admin
        self._work = admin.folder / ".openssl"

    def __enter__(self) -> Self:
        shutil.rmtree(self._work, ignore_errors=True)
        self._work.mkdir(mode=0o700)
        return self

    def __exit__(self, *_: object) -> None:
        shutil.rmtree(self._work)

    def provide(self) -> str:
        """Return the authority's certificate; the first time it is made."""
        key, certificate = (self._admin.folder / name for name in (_KEY, AUTHORITY))
        if not (key.exists() and certificate.exists()):
            made = self._make("Cloche installation", "", "authority", AUTHORITY_DAYS)
            self._admin.put(_KEY, made.key)
            self._admin.put(AUTHORITY, made.certificate)
        return certificate.read_text().strip()

    def provide_server(self, name: str, place: Place) -> None:
        """See that a server has a certificate of this authority with some time left, and whom to trust."""
        place.put(AUTHORITY, self.provide())
        if not self._lasts(place.folder / SERVER):
            signed = ("-CA", str(self._admin.folder / AUTHORITY), "-CAkey", str(self._admin.folder / _KEY))
            made = self._make(name, NAMES[name], "server", SERVER_DAYS, *signed)
            place.put(SERVER, f"{made.key}\n{made.certificate}")

    def _lasts(self, path: Path) -> bool:
        later = str(int(time.time()) + RENEW_S)
        known = ("-CAfile", str(self._admin.folder / AUTHORITY), "-no-CApath", "-no-CAstore")
        return path.exists() and self._openssl("verify", *known, "-attime", later, str(path)).returncode == 0

    def _make(self, name: str, names: str, section: str, days: int, *more: str) -> _Pair:
        config, key, certificate = (self._work / part for part in ("config", "key", "certificate"))
        config.write_text(_CONFIG.format(name=name, names=names or "DNS:authority"))
        kind = ("-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes", "-sha256")
        files = ("-config", str(config), "-keyout", str(key), "-out", str(certificate))
        done = self._openssl("req", "-x509", *kind, "-days", str(days), "-extensions", section, *files, *more)
        if done.returncode:
            raise Failed(
                "certificate_failed",
                "A certificate could not be made.",
                why=f"openssl ended with {done.returncode}: {done.stderr[-300:].strip()}",
                todo="See that openssl is 3.0 or newer.",
            )
        return _Pair(key.read_text().strip(), certificate.read_text().strip())

    def _openssl(self, *words: str) -> "subprocess.CompletedProcess[str]":
        return subprocess.run(  # noqa: S603 - an argument list of ours; every word is ours
            [shutil.which("openssl") or "openssl", *words],
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=DEADLINE_S,
            check=False,
            env={"PATH": "/usr/local/bin:/usr/bin:/bin", "HOME": str(self._work), "OPENSSL_CONF": "/dev/null"},
        )


def make_certificates(place: Mapping[str, Place]) -> str:
    """Make the certificates that are missing or end soon, and tell everybody whom to trust; return that (PEM).

    Raises `OSError` without the program, `Failed` (`certificate_failed`) when it fails.
    """
    place["admin"].prepare()
    with _Authority(place["admin"]) as authority:
        trusted = authority.provide()
        for name in NAMES:
            place[name].prepare()
            authority.provide_server(name, place[name])
    for name in ("client", *SERVICES):
        place[name].prepare()
        place[name].put(AUTHORITY, trusted)
    return trusted
