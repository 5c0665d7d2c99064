"""Topics of one test on a running broker."""

import uuid
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from aiokafka.admin import AIOKafkaAdminClient
from pydantic import SecretStr

from cloche_shared.adapters.kafka_bus import KafkaBus
from cloche_shared.backends import KafkaSettings
from tests.environments.servers import KafkaServer


def kafka_settings(server: KafkaServer, **more: object) -> KafkaSettings:
    """Return how to reach a broker in plain text, with few partitions."""
    settings = KafkaSettings(
        bootstrap_servers=server.bootstrap, security_protocol="PLAINTEXT", allow_no_acls=True, partitions=3
    )
    return settings.model_copy(update=more)


def secured(server: KafkaServer, user: str, **more: object) -> KafkaSettings:
    """Return how to reach a broker over TLS as one of its users."""
    return kafka_settings(
        server,
        bootstrap_servers=server.tls_bootstrap,
        security_protocol="SASL_SSL",
        sasl_mechanism=server.mechanism,
        username=user,
        password=SecretStr(server.password),
        ca_file=server.authority,
        allow_no_acls=False,
        **more,
    )


@asynccontextmanager
async def kafka_bus(server: KafkaServer, *, delay: float = 0.0) -> AsyncIterator[KafkaBus]:
    """Yield a bus with topics of its own, which are gone afterwards."""
    bus = KafkaBus(kafka_settings(server), "test", "1", delay=delay, prefix=f"t{uuid.uuid4().hex[:12]}.")
    try:
        await bus.probe()
        yield bus
        await drop_topics(bus)
    finally:
        await bus.close()


async def drop_topics(bus: KafkaBus) -> None:
    admin = AIOKafkaAdminClient(**bus.options())
    await admin.start()
    try:
        mine = [topic for topic in await admin.list_topics() if topic.startswith(bus.prefix)]
        await admin.delete_topics(mine)
    finally:
        await admin.close()
