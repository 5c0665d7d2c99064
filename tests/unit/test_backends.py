"""Secrets of a cluster's servers: from a file or from the environment, never twice, never shown."""

import pytest

from cloche_shared.backends import KafkaSettings, MongoSettings, S3Settings, secrets_read
from cloche_shared.errors import Invalid
from cloche_shared.settings import Section, load

CANARY = "canary-5f1d0c"


class Root(Section):
    kafka: KafkaSettings = KafkaSettings(security_protocol="PLAINTEXT")
    mongo: MongoSettings = MongoSettings()


def read(path: str) -> str:
    if path == "/absent":
        raise FileNotFoundError(2, "No such file or directory")
    return {"/secret": f"{CANARY}\n", "/empty": "\n"}[path]


def test_a_secret_comes_from_the_file_that_is_named() -> None:
    section = secrets_read(S3Settings(secret_key_file="/secret"), read, "s3")
    assert section.secret_key.get_secret_value() == CANARY


def test_a_section_without_files_stays_as_it_is() -> None:
    section = MongoSettings(password=CANARY)
    assert secrets_read(section, read, "mongo") is section


@pytest.mark.parametrize("path", ["/absent", "/empty"])
def test_a_file_without_a_secret_is_refused_by_the_settings_name(path: str) -> None:
    with pytest.raises(Invalid) as caught:
        secrets_read(KafkaSettings(username="runner", password_file=path), read, "kafka")
    assert caught.value.code == "secret_unreadable"
    assert "kafka.password_file" in str(caught.value)


def test_a_secret_that_is_given_twice_is_refused_and_not_told() -> None:
    with pytest.raises(Invalid) as caught:
        secrets_read(MongoSettings(password=CANARY, password_file="/secret"), read, "mongo")
    assert caught.value.code == "secret_twice"
    assert CANARY not in f"{caught.value.what} {caught.value.why} {caught.value.todo}"


def test_credentials_in_an_address_are_refused_and_not_told() -> None:
    with pytest.raises(Invalid) as caught:
        load(Root, "", {"CLOCHE_MONGO__HOSTS": f"user:{CANARY}@db:27017"})
    assert caught.value.code == "invalid_setting"
    assert CANARY not in f"{caught.value.what} {caught.value.why} {caught.value.todo}"


def test_sasl_without_a_user_is_refused() -> None:
    with pytest.raises(Invalid, match="username"):
        load(Root, "", {"CLOCHE_KAFKA__SECURITY_PROTOCOL": "SASL_SSL"})
