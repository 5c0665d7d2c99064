"""Where the servers of a cluster are, and as whom to talk to them: sections of the settings.

A secret comes from the environment, or from the file that `<name>_file` names (as container secrets are
delivered); never from a command line or a URL. `secrets_read` puts what files hold into the sections.
"""

from collections.abc import Callable
from typing import Literal, Self, TypeVar

from pydantic import Field, SecretStr, field_validator, model_validator

from cloche_shared.errors import Invalid
from cloche_shared.settings import Section

MIB = 1024 * 1024
FILE_SUFFIX = "_file"

S = TypeVar("S", bound=Section)


class KafkaSettings(Section):
    """The broker (`CLOCHE_KAFKA__…`).

    `bootstrap_servers`: `host:port`, several with commas. `security_protocol` and `sasl_mechanism` as
    Kafka names them; `ca_file`: whom to trust (PEM; empty: the system's authorities).
    `topic_prefix`: goes before the name of every topic and group, where installations share a broker.
    `allow_no_acls`: start although the broker lets everybody write to every topic.
    `partitions`, `replication`, `retention_h`: of topics that are created; retention in hours, -1 for ever.
    `deadline_s`: seconds that sending may take before it counts as failed. `session_s`: seconds of silence after
    which the partitions of a process go to others; the broker sets bounds of its own.
    """

    bootstrap_servers: str = "127.0.0.1:9092"
    security_protocol: Literal["PLAINTEXT", "SSL", "SASL_PLAINTEXT", "SASL_SSL"] = "SASL_SSL"
    sasl_mechanism: Literal["SCRAM-SHA-256", "SCRAM-SHA-512", "PLAIN"] = "SCRAM-SHA-512"
    username: str = ""
    password: SecretStr = SecretStr("")
    password_file: str = ""
    ca_file: str = ""
    topic_prefix: str = Field(default="", pattern=r"^([a-z0-9][a-z0-9.-]{0,31}\.)?$")
    allow_no_acls: bool = False
    partitions: int = Field(default=12, ge=1, le=1000)
    replication: int = Field(default=1, ge=1, le=10)
    retention_h: int = Field(default=168, ge=-1)
    deadline_s: float = Field(default=10.0, gt=0, le=300)
    session_s: float = Field(default=10.0, ge=1, le=300)

    @model_validator(mode="after")
    def _known_caller(self) -> Self:
        if self.security_protocol.startswith("SASL") and not self.username:
            raise ValueError("with SASL a username is needed")
        return self


class MongoSettings(Section):
    """The document store (`CLOCHE_MONGO__…`).

    `hosts`: `host:port`, several with commas. `database`: each service keeps its documents in
    `<database>_<service>`. `replica_set`: its name, empty for a single server. `tls` with `ca_file` (PEM;
    empty: the system's authorities). `timeout_s`: seconds that one operation may take.
    """

    hosts: str = "127.0.0.1:27017"
    database: str = Field(default="cloche", pattern=r"^[a-z][a-z0-9_]{0,30}$")
    username: str = ""
    password: SecretStr = SecretStr("")
    password_file: str = ""
    auth_source: str = "admin"
    auth_mechanism: Literal["", "PLAIN", "SCRAM-SHA-1", "SCRAM-SHA-256"] = ""
    replica_set: str = ""
    tls: bool = False
    ca_file: str = ""
    timeout_s: float = Field(default=5.0, gt=0, le=120)

    @field_validator("hosts")
    @classmethod
    def _no_credentials(cls, value: str) -> str:
        if "@" in value or "/" in value:
            raise ValueError("only host:port; user and password are settings of their own")
        return value


class S3Settings(Section):
    """The object store (`CLOCHE_S3__…`).

    `endpoint`: `http://host:port` or `https://…`; `ca_file` (PEM; empty: the system's authorities).
    `bucket` is made when it is not there. `part_bytes`: size of the parts of a streamed upload.
    """

    endpoint: str = Field(default="http://127.0.0.1:9000", pattern=r"^https?://[^/@\s]+$")
    access_key: str = ""
    secret_key: SecretStr = SecretStr("")
    secret_key_file: str = ""
    bucket: str = Field(default="cloche", pattern=r"^[a-z0-9][a-z0-9.-]{1,61}[a-z0-9]$")
    region: str = "us-east-1"
    ca_file: str = ""
    part_bytes: int = Field(default=8 * MIB, ge=5 * MIB, le=512 * MIB)
    timeout_s: float = Field(default=30.0, gt=0, le=600)


def secrets_read(section: S, read: Callable[[str], str], where: str) -> S:
    """Return the section with each empty secret taken from its file.

    `where` is the section's name for messages. Raises `Invalid` (`secret_unreadable`, `secret_twice`)
    without the secret in it.
    """
    changes: dict[str, SecretStr] = {}
    for name in type(section).model_fields:
        value = getattr(section, name)
        path = getattr(section, name + FILE_SUFFIX, "") if isinstance(value, SecretStr) else ""
        if not path:
            continue
        if value.get_secret_value():
            raise Invalid(
                "secret_twice",
                f"The setting {where}.{name} is given twice.",
                why=f"Both {name} and {name}{FILE_SUFFIX} are set.",
                todo="Leave one of them out.",
            )
        changes[name] = SecretStr(_content(path, read, f"{where}.{name}{FILE_SUFFIX}"))
    return section.model_copy(update=changes) if changes else section


def _content(path: str, read: Callable[[str], str], setting: str) -> str:
    try:
        text = read(path).strip()
    except OSError as error:
        raise Invalid(
            "secret_unreadable",
            f"The file that {setting} names cannot be read.",
            why=error.strerror or type(error).__name__,
            todo="See that it exists and that this user may read it.",
        ) from None
    if not text:
        raise Invalid("secret_unreadable", f"The file that {setting} names is empty.", todo="Write the secret into it.")
    return text
