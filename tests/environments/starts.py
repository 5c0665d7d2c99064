"""How each server is started: settings, users, certificates, and when it is ready."""

import secrets

from confluent_kafka.admin import AdminClient, ScramCredentialInfo, ScramMechanism, UserScramCredentialUpsertion

from tests.environments.box import Box, listens
from tests.environments.servers import KafkaServer, MongoServer, S3Server, Server

MECHANISM = "SCRAM-SHA-512"
REGION = "us-east-1"
# A client's first question to a broker (ApiVersions). The port of a container accepts before the broker does.
VERSIONS = bytes.fromhex("0000000a0012000000000001ffff")
# A client's first question to a document store (`hello`): answered without signing in.
HELLO = bytes.fromhex(
    "3b000000"
    "01000000"
    "00000000"
    "d4070000"
    "00000000"
    "61646d696e2e24636d6400"
    "00000000"
    "ffffffff"
    "1400000001"
    "68656c6c6f00"
    "000000000000f03f"
    "00"
)


def kafka(owner: str) -> KafkaServer:
    """One broker that is its own controller: a plain, a SCRAM and a SCRAM over TLS listener on loopback."""
    box, password = Box("kafka", owner), secrets.token_urlsafe(18)
    plain, sasl, tls = box.publish(9092), box.publish(9093), box.publish(9094)
    authority = box.certificate("/etc/kafka/secrets/server.pem")
    settings = broker_settings(plain, sasl, tls)
    box.with_envs(KAFKA_HEAP_OPTS="-Xms128m -Xmx512m", **{f"KAFKA_{name}": value for name, value in settings.items()})
    container = box.begin(lambda: listens(plain, VERSIONS))
    users(f"127.0.0.1:{plain}", password, "admin", "service")
    return KafkaServer(
        role="kafka",
        product="Apache Kafka 4.1.0" if box.local else box.image,
        container=container,
        bootstrap=f"127.0.0.1:{plain}",
        sasl_bootstrap=f"127.0.0.1:{sasl}",
        tls_bootstrap=f"localhost:{tls}",
        authority=authority,
        mechanism=MECHANISM,
        admin="admin",
        service="service",
        password=password,
    )


def users(bootstrap: str, password: str, *names: str) -> None:
    """Give users a password by SCRAM."""
    admin = AdminClient({"bootstrap.servers": bootstrap, "log_level": 0})
    wanted = ScramCredentialInfo(ScramMechanism.SCRAM_SHA_512, 4096)
    made = admin.alter_user_scram_credentials(
        [UserScramCredentialUpsertion(name, wanted, password.encode()) for name in names], request_timeout=30
    )
    for each in made.values():
        each.result(timeout=30)


def broker_settings(plain: int, sasl: int, tls: int) -> dict[str, str]:
    """The broker's settings as variables of its image. Listener names avoid the words its scripts look for."""
    return {
        "NODE_ID": "1",
        "PROCESS_ROLES": "broker,controller",
        "LISTENERS": "PLAIN://:9092,SCRAM://:9093,SECURE://:9094,CONTROLLER://:9095,INSIDE://:9096",
        "ADVERTISED_LISTENERS": (
            f"PLAIN://127.0.0.1:{plain},SCRAM://127.0.0.1:{sasl},SECURE://localhost:{tls},INSIDE://localhost:9096"
        ),
        "LISTENER_SECURITY_PROTOCOL_MAP": (
            "PLAIN:PLAINTEXT,SCRAM:SASL_PLAINTEXT,SECURE:SASL_SSL,CONTROLLER:PLAINTEXT,INSIDE:PLAINTEXT"
        ),
        "INTER_BROKER_LISTENER_NAME": "INSIDE",
        "CONTROLLER_LISTENER_NAMES": "CONTROLLER",
        "CONTROLLER_QUORUM_VOTERS": "1@localhost:9095",
        "SASL_ENABLED_MECHANISMS": MECHANISM,
        "LISTENER_NAME_SCRAM_SCRAM___SHA___512_SASL_JAAS_CONFIG": (
            "org.apache.kafka.common.security.scram.ScramLoginModule required;"
        ),
        "LISTENER_NAME_SECURE_SCRAM___SHA___512_SASL_JAAS_CONFIG": (
            "org.apache.kafka.common.security.scram.ScramLoginModule required;"
        ),
        "SSL_KEYSTORE_TYPE": "PEM",
        "SSL_KEYSTORE_LOCATION": "/etc/kafka/secrets/server.pem",
        "AUTHORIZER_CLASS_NAME": "org.apache.kafka.metadata.authorizer.StandardAuthorizer",
        "SUPER_USERS": "User:ANONYMOUS;User:admin",
        "LOG_DIRS": "/var/lib/kafka/data",
        "AUTO_CREATE_TOPICS_ENABLE": "false",
        "OFFSETS_TOPIC_REPLICATION_FACTOR": "1",
        "OFFSETS_TOPIC_NUM_PARTITIONS": "5",
        "TRANSACTION_STATE_LOG_REPLICATION_FACTOR": "1",
        "TRANSACTION_STATE_LOG_MIN_ISR": "1",
        "TRANSACTION_STATE_LOG_NUM_PARTITIONS": "5",
        "GROUP_INITIAL_REBALANCE_DELAY_MS": "0",
        "GROUP_MIN_SESSION_TIMEOUT_MS": "1000",
    }


def mongo(owner: str) -> MongoServer:
    """A document store with a root user; plain and TLS connections. Without MongoDB's image, the stand-in."""
    box, password = Box("mongo", owner), secrets.token_urlsafe(18)
    inside = int(box.labels.get("cloche.test.tls-port", "27017"))
    plain = box.publish(27017)
    tls = plain if inside == 27017 else box.publish(inside)
    authority = box.certificate("/etc/server.pem")
    box.with_envs(MONGO_INITDB_ROOT_USERNAME="cloche", MONGO_INITDB_ROOT_PASSWORD=password)
    box.with_command(["mongod", "--tlsMode", "preferTLS", "--tlsCertificateKeyFile", "/etc/server.pem"])
    return MongoServer(
        role="mongo",
        product="FerretDB 1.24.2 over PostgreSQL 15" if box.local else box.image,
        container=box.begin(lambda: listens(plain, HELLO)),
        host=f"127.0.0.1:{plain}",
        tls_host=f"localhost:{tls}",
        user="cloche",
        password=password,
        # The stand-in hands the password on to PostgreSQL, so it must see it.
        options="authMechanism=PLAIN" if box.local else "authSource=admin",
        authority=authority,
    )


def s3(owner: str) -> S3Server:
    """Versity's gateway over a folder."""
    box, access, secret = Box("s3", owner), secrets.token_hex(8), secrets.token_hex(20)
    port = box.publish(7070)
    box.volume("/data")
    box.with_envs(ROOT_ACCESS_KEY=access, ROOT_SECRET_KEY=secret).with_command(["posix", "/data"])
    return s3_server(box, "Versity S3 Gateway 1.8.0", port, access, secret)


def s3_second(owner: str) -> S3Server:
    """The last free MinIO: a second program, so that nothing rests on one's habits."""
    box, access, secret = Box("s3-second", owner), secrets.token_hex(8), secrets.token_hex(20)
    port = box.publish(9000)
    box.volume("/data")
    box.with_envs(MINIO_ROOT_USER=access, MINIO_ROOT_PASSWORD=secret).with_command(["server", "/data"])
    return s3_server(box, "MinIO 2026-02-12", port, access, secret)


def s3_server(box: Box, product: str, port: int, access: str, secret: str) -> S3Server:
    question = b"GET / HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n"
    return S3Server(
        role=box.role,
        product=product if box.local else box.image,
        container=box.begin(lambda: listens(port, question)),
        endpoint=f"127.0.0.1:{port}",
        access_key=access,
        secret_key=secret,
        region=REGION,
    )


START = {"kafka": kafka, "mongo": mongo, "s3": s3, "s3-second": s3_second}
KIND: dict[str, type[Server]] = {"kafka": KafkaServer, "mongo": MongoServer, "s3": S3Server, "s3-second": S3Server}
