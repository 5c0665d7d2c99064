"""Secrets of a new installation: made once, each for its reader, and what follows from them."""

import os
import stat
from pathlib import Path

import pytest

from cloche_shared.access import split_token
from cloche_shared.bus.rights import SERVICES
from cloche_shared.cluster.provision.broker import client_files, settings
from cloche_shared.cluster.provision.secrets import make_secrets, new_secret

AUTHORITY = "-----BEGIN CERTIFICATE-----\nMIIB\n-----END CERTIFICATE-----"


@pytest.fixture
def root(tmp_path: Path) -> Path:
    make_secrets(tmp_path, kafka_port=9094, authority=AUTHORITY)
    return tmp_path


def read(root: Path, name: str) -> str:
    return (root / name).read_text().strip()


def everything(root: Path) -> dict[str, str]:
    return {str(path.relative_to(root)): path.read_text() for path in root.rglob("*") if path.is_file()}


def test_a_second_start_changes_nothing(root: Path) -> None:
    before = everything(root)
    make_secrets(root, kafka_port=9094, authority=AUTHORITY)
    assert everything(root) == before


def test_a_changed_port_changes_what_follows_from_it_and_no_secret(root: Path) -> None:
    before = everything(root)
    make_secrets(root, kafka_port=19094, authority=AUTHORITY)
    changed = {name for name, text in everything(root).items() if before[name] != text}
    assert changed == {"kafka/server.properties", "client/client.properties", "client/librdkafka.properties"}


def test_every_service_has_passwords_of_its_own_and_the_common_pepper(root: Path) -> None:
    own = [read(root, f"{service}/{name}") for service in SERVICES for name in ("kafka-password", "mongo-password")]
    assert len(set(own)) == len(own)
    assert len({read(root, f"{service}/pepper") for service in SERVICES}) == 1
    assert all(len(text) >= 40 for text in own)


def test_only_the_registry_and_the_client_have_the_token(root: Path) -> None:
    token = read(root, "client/token")
    assert split_token(token)
    assert sorted(name for name, text in everything(root).items() if token in text) == [
        "client/token",
        "registry/token",
    ]


def test_the_administrators_passwords_are_with_their_servers_alone(root: Path) -> None:
    for name, readers in (
        ("kafka-password", {"admin/kafka-password", "kafka/server.properties"}),
        ("mongo-password", {"admin/mongo-password", "mongo/root-password"}),
    ):
        secret = read(root, f"admin/{name}")
        assert {where for where, text in everything(root).items() if secret in text} == readers


def test_files_are_closed_to_others_unless_their_reader_is_not_known(root: Path) -> None:
    modes = {path.relative_to(root): stat.S_IMODE(path.stat().st_mode) for path in root.rglob("*") if path.is_file()}
    open_to_all = {str(path) for path, mode in modes.items() if mode & 0o077}
    assert open_to_all == {"mongo/root-password", "s3/secret-key", "s3/users.json"}
    closed = [path for path in root.iterdir() if stat.S_IMODE(path.stat().st_mode) & 0o077]
    assert sorted(path.name for path in closed) == ["mongo", "s3"]


def test_half_a_file_is_never_seen(root: Path) -> None:
    (root / "admin" / ".pepper.new").write_text("half")
    (root / "admin" / "pepper").unlink()
    make_secrets(root, kafka_port=9094, authority=AUTHORITY)
    assert len(read(root, "admin/pepper")) >= 40
    assert not (root / "admin" / ".pepper.new").exists()


def test_a_secret_needs_no_escape_anywhere() -> None:
    assert all(new_secret().isalnum() for _ in range(50))


def test_nobody_comes_to_the_broker_without_signing_in() -> None:
    said = dict(line.split("=", 1) for line in settings("hidden", 9094).splitlines())
    protocols = said["listener.security.protocol.map"].split(",")
    assert {one.partition(":")[2] for one in protocols} == {"SASL_SSL"}
    assert said["allow.everyone.if.no.acl.found"] == "false"
    assert said["auto.create.topics.enable"] == "false"
    assert said["super.users"] == "User:admin"
    assert "CONTROLLER://localhost:9093" in said["listeners"]


def test_the_files_for_clients_name_the_port_on_loopback() -> None:
    files = client_files("producer", "hidden", 19094, AUTHORITY)
    assert all("bootstrap.servers=127.0.0.1:19094" in text for text in files.values())
    assert all("security.protocol=SASL_SSL" in text for text in files.values())


def test_javas_file_holds_whom_to_trust_on_one_line() -> None:
    said = client_files("producer", "hidden", 9094, AUTHORITY)["client.properties"].splitlines()
    assert "ssl.truststore.certificates=" + AUTHORITY.replace("\n", "\\n") in said


@pytest.mark.skipif(os.geteuid() != 0, reason="only root hands files over")
def test_files_belong_to_their_readers(root: Path) -> None:
    assert (root / "registry" / "token").stat().st_uid == 10001
    assert (root / "kafka" / "server.properties").stat().st_uid == 1000
