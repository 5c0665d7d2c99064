"""Settings that every process of a cluster has, besides those of its service."""

from pydantic import Field, SecretStr

from cloche_shared.backends import KafkaSettings, MongoSettings, S3Settings
from cloche_shared.settings import HttpSettings, Section


class ClusterSettings(Section):
    """What makes processes one installation (`CLOCHE_CLUSTER__…`).

    `installation`: the same id in all of them; positions and labels begin with it.
    `pepper`, `pepper_file`: the installation's secret (at least 20 bytes), the same in all of them.
    `token`, `token_file`: the first administrator's token; the registry makes it valid.
    `replica`: this process's id among the service's replicas; empty: the host's name.
    `address`: where other replicas reach this one (`http://host:port`); empty: they cannot.
    `peer_ca_file`: whom to trust where replicas speak TLS (PEM; empty: the system's authorities).
    `data`: the folder for this replica's files; the node's folder lies in it.
    `node`: the id of the node that this replica drives; empty: none.
    `executor`: the Unix socket of the executor that user code runs in; empty: in this process's container.
    `share_group`: the number of the group that this service and the executor have in common.
    `package_code`: builder, runner and deployer run code of packages in their own container, beside its
    credentials: builds of source packages, and the Python that a conda channel brings. Without it such packages are
    refused (`source_build_not_allowed`, `python_not_available`).
    `access_staleness`: for so many seconds after the broker was last heard from, the keys that were known then
    hold; after that requests get 503 (`access_unknown`).
    `public_url`: where clients reach the installation (the gateway), for the URLs that are shown.
    """

    installation: str = Field(default="", pattern=r"^([a-z0-9]{4,32})?$")
    pepper: SecretStr = SecretStr("")
    pepper_file: str = ""
    token: SecretStr = SecretStr("")
    token_file: str = ""
    replica: str = Field(default="", pattern=r"^([a-z0-9][a-z0-9-]{0,62})?$")
    address: str = Field(default="", pattern=r"^(https?://[^/@\s]+)?$")
    peer_ca_file: str = ""
    data: str = "/var/lib/cloche"
    node: str = Field(default="", pattern=r"^([a-z0-9][a-z0-9-]{0,62})?$")
    executor: str = ""
    share_group: int | None = Field(default=None, ge=0)
    package_code: bool = False
    access_staleness: float = Field(default=900.0, ge=10)
    public_url: str = Field(default="", pattern=r"^(https?://[^/@\s]+)?$")
    delay: float = Field(default=0.0, ge=0, le=60, description="Holds back every delivery, in seconds; for tests.")


class ProcessSettings(Section):
    """All that a process needs besides its own service's section."""

    http: HttpSettings = HttpSettings()
    cluster: ClusterSettings = ClusterSettings()
    kafka: KafkaSettings = KafkaSettings(username="cloche")
    mongo: MongoSettings = MongoSettings()
    s3: S3Settings = S3Settings()
