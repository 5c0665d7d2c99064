"""The certificates of an installation's stores, as clients see them."""

import ssl
import subprocess
from collections.abc import Mapping
from pathlib import Path

import pytest

from cloche_shared.bus.rights import SERVICES
from cloche_shared.cluster.provision import certificates
from cloche_shared.cluster.provision.certificates import NAMES, make_certificates
from cloche_shared.cluster.provision.secrets import Place, places


@pytest.fixture
def place(tmp_path: Path) -> Mapping[str, Place]:
    found = places(tmp_path)
    make_certificates(found)
    return found


def server_file(place: Mapping[str, Place], name: str) -> Path:
    return place[name].folder / "server.pem"


def handshake(server: Path, trusted: str, name: str) -> str:
    """Return what a client that calls the server by a name says of its certificate, nothing when it is content."""
    theirs, ours = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH), ssl.create_default_context(cadata=trusted)
    theirs.load_cert_chain(server)
    to_server, to_client = ssl.MemoryBIO(), ssl.MemoryBIO()
    client = ours.wrap_bio(to_client, to_server, server_hostname=name)
    other = theirs.wrap_bio(to_server, to_client, server_side=True)
    for _ in range(4):
        for side in (client, other):
            try:
                side.do_handshake()
            except ssl.SSLWantReadError:
                continue
            except ssl.SSLCertVerificationError as error:
                return error.verify_message
    return "" if client.version() == "TLSv1.3" else "no handshake"


@pytest.mark.parametrize(
    ("server", "name"), [("kafka", "kafka"), ("kafka", "127.0.0.1"), ("mongo", "mongo"), ("s3", "s3")]
)
def test_a_client_is_content_with_each_server_by_its_name(place: Mapping[str, Place], server: str, name: str) -> None:
    assert handshake(server_file(place, server), (place["client"].folder / "ca.pem").read_text(), name) == ""


def test_no_server_passes_as_another(place: Mapping[str, Place]) -> None:
    trusted = (place["runner"].folder / "ca.pem").read_text()
    assert "mismatch" in handshake(server_file(place, "s3"), trusted, "kafka")


def test_everybody_trusts_the_same_and_only_the_administrator_can_sign(place: Mapping[str, Place]) -> None:
    trusted = {(place[name].folder / "ca.pem").read_text() for name in ("admin", "client", *SERVICES, *NAMES)}
    assert len(trusted) == 1
    assert [name for name, one in place.items() if (one.folder / "ca-key.pem").exists()] == ["admin"]
    assert not any("PRIVATE" in (place[name].folder / "ca.pem").read_text() for name in place)


def test_a_second_start_changes_nothing(place: Mapping[str, Place]) -> None:
    before = [server_file(place, name).read_text() for name in NAMES]
    assert make_certificates(place).strip() == (place["admin"].folder / "ca.pem").read_text().strip()
    assert [server_file(place, name).read_text() for name in NAMES] == before
    assert not (place["admin"].folder / ".openssl").exists()


def test_what_ends_soon_is_made_anew(place: Mapping[str, Place], monkeypatch: pytest.MonkeyPatch) -> None:
    before = server_file(place, "s3").read_text()
    monkeypatch.setattr(certificates, "RENEW_S", (certificates.SERVER_DAYS + 1) * 86400)
    make_certificates(place)
    assert server_file(place, "s3").read_text() != before


def test_a_new_authority_signs_all_anew(place: Mapping[str, Place]) -> None:
    (place["admin"].folder / "ca-key.pem").unlink()
    trusted = make_certificates(place)
    for name in NAMES:
        assert handshake(server_file(place, name), trusted, name) == ""


def test_a_key_is_in_the_form_that_kafka_reads(place: Mapping[str, Place]) -> None:
    text = server_file(place, "kafka").read_text()
    assert text.startswith("-----BEGIN PRIVATE KEY-----")
    shown = subprocess.run(
        ["openssl", "x509", "-noout", "-purpose"], input=text, capture_output=True, text=True, check=True
    )
    assert "SSL server : Yes" in shown.stdout
    assert "SSL server CA : No" in shown.stdout
