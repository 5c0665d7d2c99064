"""`python -m cloche_shared.cluster.provision secrets|servers --root FOLDER …`: what compose.yaml runs first."""

import argparse
import asyncio
import os
import subprocess
import sys
from pathlib import Path
from typing import Final

from pydantic import SecretStr

from cloche_shared.backends import KafkaSettings, MongoSettings, S3Settings
from cloche_shared.bus.rights import PRODUCER, SERVICES
from cloche_shared.cluster.process_log import process_log
from cloche_shared.cluster.provision import servers
from cloche_shared.cluster.provision.broker import ADMIN
from cloche_shared.cluster.provision.certificates import make_certificates
from cloche_shared.cluster.provision.secrets import Place, make_secrets, places
from cloche_shared.errors import ClocheError
from cloche_shared.logs import Log, Scrubber

PATIENCE_S: Final = 120.0
DEADLINE_S: Final = 60.0
"""A broker that has just begun takes its time for some hundred partitions."""
S3_USER: Final = "cloche"


def _arguments(argv: list[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m cloche_shared.cluster.provision")
    commands = parser.add_subparsers(dest="command", required=True)
    made = commands.add_parser("secrets", help="make the secrets that are missing")
    made.add_argument("--kafka-port", type=int, default=9094, help="where producers on this machine reach the broker")
    prepared = commands.add_parser("servers", help="make users, topics, rights and the bucket")
    prepared.add_argument("--kafka", required=True, metavar="HOST:PORT", help="the administrator's listener")
    prepared.add_argument("--mongo", required=True, metavar="HOST:PORT")
    prepared.add_argument("--s3", required=True, metavar="URL")
    prepared.add_argument(
        "--s3-rights", action="store_true", help="let each service write its own blobs only; its access key is its name"
    )
    prepared.add_argument(
        "--ca-file", default="", metavar="FILE", help="speak TLS with Kafka and MongoDB, and trust this authority"
    )
    prepared.add_argument("--partitions", type=int, default=12, help="of each topic of facts")
    for one in (made, prepared):
        one.add_argument("--root", type=Path, required=True, help="holds a folder for each reader")
    return parser.parse_args(argv)


class _Servers:
    """The servers, with the administrator's secrets."""

    def __init__(self, asked: argparse.Namespace, log: Log, scrubber: Scrubber) -> None:
        self._asked = asked
        self._log = log
        self._scrubber = scrubber
        self._places = places(asked.root)

    def _secret(self, place: Place, name: str) -> SecretStr:
        text = (place.folder / name).read_text().strip()
        self._scrubber.learn([text])
        return SecretStr(text)

    async def prepare(self) -> None:
        """Prepare all servers, and tell each service how it signs in."""
        await servers.patiently("kafka", self._kafka, self._log, PATIENCE_S)
        await servers.patiently("mongo", self._mongo, self._log, PATIENCE_S)
        await servers.patiently("s3", self._s3, self._log, PATIENCE_S)

    async def _kafka(self) -> str:
        settings = KafkaSettings(
            bootstrap_servers=self._asked.kafka,
            security_protocol="SASL_SSL" if self._asked.ca_file else "SASL_PLAINTEXT",
            ca_file=self._asked.ca_file,
            sasl_mechanism="PLAIN",
            username=ADMIN,
            password=self._secret(self._places["admin"], "kafka-password"),
            partitions=self._asked.partitions,
            deadline_s=DEADLINE_S,
        )
        readers = {**{name: self._places[name] for name in SERVICES}, PRODUCER: self._places["client"]}
        passwords = {user: self._secret(place, "kafka-password") for user, place in readers.items()}
        plain = {user: password.get_secret_value() for user, password in passwords.items()}
        return self._said("kafka", await servers.prepare_broker(settings, plain))

    async def _mongo(self) -> str:
        admin = self._places["admin"]
        settings = await servers.sign_in(
            MongoSettings(
                hosts=self._asked.mongo,
                username="cloche",
                password=self._secret(admin, "mongo-password"),
                tls=bool(self._asked.ca_file),
                ca_file=self._asked.ca_file,
            )
        )
        own = {name: self._secret(self._places[name], "mongo-password") for name in SERVICES}
        said, logins = await servers.prepare_store(settings, own, self._log)
        installation = (admin.folder / "installation").read_text().strip()
        for service, login in logins.items():
            place = self._places[service]
            place.put("mongo-login", login.password.get_secret_value())
            place.put("config.toml", _config(installation, login))
        return self._said("mongo", said)

    async def _s3(self) -> str:
        key = self._secret(self._places["admin"], "s3-password")
        settings = S3Settings(endpoint=self._asked.s3, access_key=S3_USER, secret_key=key, ca_file=self._asked.ca_file)
        return self._said("s3", await servers.prepare_blobs(settings, rights=self._asked.s3_rights))

    def _said(self, name: str, said: str) -> str:
        self._log.say("info", "server_prepared", f"{name}: {said}")
        return said


def _config(installation: str, login: servers.MongoLogin) -> str:
    """Return a service's settings that are known only now; their characters need no escape in TOML."""
    return "\n".join(
        (
            "[cluster]",
            f'installation = "{installation}"',
            "[mongo]",
            f'username = "{login.username}"',
            f'auth_mechanism = "{login.mechanism}"',
        )
    )


def main(argv: list[str]) -> int:
    """Return the exit status."""
    asked = _arguments(argv)
    os.umask(0o077)
    scrubber = Scrubber()
    log = process_log("provision", scrubber)
    try:
        if asked.command == "secrets":
            authority = make_certificates(places(asked.root))
            make_secrets(asked.root, kafka_port=asked.kafka_port, authority=authority)
            log.say("info", "secrets_ready", "Every secret is in place.")
        else:
            asyncio.run(_Servers(asked, log, scrubber).prepare())
    except ClocheError as error:
        log.say("error", "stopped", f"{error.what} {error.why} {error.todo}".strip(), code=error.code)
        return 1
    except (OSError, TimeoutError, subprocess.TimeoutExpired) as error:
        log.say("error", "stopped", f"{type(error).__name__}: {getattr(error, 'strerror', None) or 'no answer'}")
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
