"""The settings of the one broker of `compose.yaml`, and of the clients outside: texts, made from secrets."""

from collections.abc import Mapping
from typing import Final

ADMIN: Final = "admin"
ADMIN_PORT: Final = 9091
INTERNAL_PORT: Final = 9092
FOLDER: Final = "/mnt/shared/config"
"""Where the broker's image finds its settings; certificates lie beside them."""
_PLAIN: Final = "org.apache.kafka.common.security.plain.PlainLoginModule"
_SCRAM: Final = "org.apache.kafka.common.security.scram.ScramLoginModule"


def settings(password: str, host_port: int) -> str:
    """Return `server.properties`.

    The administrator's password is known before there are any users, so he signs in by PLAIN at a
    listener of his own; everybody else by SCRAM. Nobody comes in without signing in, and nothing is in plain text.
    """
    login = f'{_PLAIN} required username="{ADMIN}" password="{password}" user_{ADMIN}="{password}";'
    lines = {
        "process.roles": "broker,controller",
        "node.id": "1",
        "controller.quorum.voters": "1@localhost:9093",
        "controller.listener.names": "CONTROLLER",
        "listeners": (f"ADMIN://:{ADMIN_PORT},INTERNAL://:{INTERNAL_PORT},CONTROLLER://localhost:9093,HOST://:9094"),
        "advertised.listeners": (
            f"ADMIN://kafka:{ADMIN_PORT},INTERNAL://kafka:{INTERNAL_PORT},HOST://127.0.0.1:{host_port}"
        ),
        "listener.security.protocol.map": ",".join(
            f"{name}:SASL_SSL" for name in ("ADMIN", "INTERNAL", "CONTROLLER", "HOST")
        ),
        "inter.broker.listener.name": "ADMIN",
        "sasl.mechanism.inter.broker.protocol": "PLAIN",
        "sasl.mechanism.controller.protocol": "PLAIN",
        **{f"listener.name.{name}.sasl.enabled.mechanisms": "PLAIN" for name in ("admin", "controller")},
        **{f"listener.name.{name}.plain.sasl.jaas.config": login for name in ("admin", "controller")},
        **{f"listener.name.{name}.sasl.enabled.mechanisms": "SCRAM-SHA-512" for name in ("internal", "host")},
        **{
            f"listener.name.{name}.scram-sha-512.sasl.jaas.config": f"{_SCRAM} required;"
            for name in ("internal", "host")
        },
        "ssl.keystore.type": "PEM",
        "ssl.keystore.location": f"{FOLDER}/server.pem",
        "ssl.truststore.type": "PEM",
        "ssl.truststore.location": f"{FOLDER}/ca.pem",
        "authorizer.class.name": "org.apache.kafka.metadata.authorizer.StandardAuthorizer",
        "allow.everyone.if.no.acl.found": "false",
        "super.users": f"User:{ADMIN}",
        "auto.create.topics.enable": "false",
        "log.dirs": "/var/lib/kafka/data",
        "offsets.topic.replication.factor": "1",
        "offsets.topic.num.partitions": "5",
        "transaction.state.log.replication.factor": "1",
        "transaction.state.log.min.isr": "1",
        "transaction.state.log.num.partitions": "5",
        "share.coordinator.state.topic.replication.factor": "1",
        "share.coordinator.state.topic.min.isr": "1",
        "group.initial.rebalance.delay.ms": "0",
    }
    return _properties(lines)


def client_files(user: str, password: str, host_port: int, authority: str) -> Mapping[str, str]:
    """Return ready settings for producers on this machine: for Java's clients and for librdkafka's.

    Java's hold the authority's certificate; librdkafka's name a file `ca.pem` in the folder that the client runs in.
    """
    common = {
        "bootstrap.servers": f"127.0.0.1:{host_port}",
        "security.protocol": "SASL_SSL",
    }
    trusted = "\\n".join(authority.split("\n"))
    java = {
        "sasl.mechanism": "SCRAM-SHA-512",
        "sasl.jaas.config": f'{_SCRAM} required username="{user}" password="{password}";',
        "ssl.truststore.type": "PEM",
        "ssl.truststore.certificates": trusted,
    }
    librdkafka = {
        "sasl.mechanisms": "SCRAM-SHA-512",
        "sasl.username": user,
        "sasl.password": password,
        "ssl.ca.location": "ca.pem",
    }
    return {
        "client.properties": _properties(common | java),
        "librdkafka.properties": _properties(common | librdkafka),
    }


def _properties(lines: Mapping[str, str]) -> str:
    return "\n".join(f"{name}={value}" for name, value in lines.items())
