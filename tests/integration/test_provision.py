"""Users and rights at a real broker and a real document store."""

import asyncio
from collections.abc import Iterator

import pytest
from pydantic import SecretStr

from cloche_shared.adapters.kafka_bus import KafkaBus
from cloche_shared.adapters.system_clock import SystemClock
from cloche_shared.backends import KafkaSettings
from cloche_shared.bus.rights import PRODUCER, SERVICES
from cloche_shared.cluster.provision.servers import prepare_blobs, prepare_broker, prepare_store, sign_in
from cloche_shared.contracts.envelope import Event
from cloche_shared.errors import ClocheError, Invalid
from cloche_shared.logs import Log, Scrubber
from tests.environments.kafka import kafka_settings
from tests.environments.mongo import mongo_settings
from tests.environments.s3 import s3_settings
from tests.environments.servers import KafkaServer, MongoServer, S3Server

PASSWORDS = {user: f"password-of-{user}" for user in (*SERVICES, PRODUCER)}


def as_user(server: KafkaServer, user: str, password: str = "") -> KafkaSettings:
    return kafka_settings(
        server,
        bootstrap_servers=server.sasl_bootstrap,
        security_protocol="SASL_PLAINTEXT",
        username=user,
        password=SecretStr(password or PASSWORDS[user]),
        allow_no_acls=False,
    )


def event(topic: str) -> Event:
    return Event(
        id="run/default/1/1#0",
        type="cloche.RunSubmitted.v1",
        source="/test",
        subject="run/default/1",
        sequence=1,
        project="default",
        time="2026-01-01T00:00:00Z",
        correlation="1",
        data={},
        topic=topic,
        key="run/default/1",
    )


@pytest.fixture(scope="module")
def broker() -> Iterator[KafkaServer]:
    """A broker whose users are these tests' own."""
    from tests.environments import places, sharing  # noqa: PLC0415  # half a second that most test runs need not pay

    async def prepare(server: KafkaServer) -> None:
        for _ in range(2):  # it runs before each start
            said = await prepare_broker(kafka_settings(server, deadline_s=30.0), PASSWORDS)
            assert "5 users" in said

    try:
        with sharing.private("kafka") as server:
            assert isinstance(server, KafkaServer)
            asyncio.run(prepare(server))
            yield server
    except places.NotPossible as error:
        pytest.skip(f"kafka: {error}")


async def write(server: KafkaServer, user: str, topic: str) -> str:
    """Return what stands in the way of a message, nothing when it was taken."""
    bus = KafkaBus(as_user(server, user), user, "1")
    try:
        await bus.publish([event(topic)])
    except ClocheError as error:
        return error.code
    finally:
        await bus.close()
    return ""


async def test_a_service_writes_its_own_facts_and_no_others(broker: KafkaServer) -> None:
    tried = [(user, topic) for user in SERVICES for topic in ("cloche.runs", "cloche.builds", "cloche.answers")]
    found = dict(zip(tried, await asyncio.gather(*(write(broker, *one) for one in tried)), strict=True))
    taken = {one for one, code in found.items() if not code}
    assert taken == {
        ("runner", "cloche.runs"),
        ("builder", "cloche.builds"),
        *((s, "cloche.answers") for s in SERVICES),
    }
    assert set(found.values()) == {"", "bus_forbidden"}


async def test_a_service_finds_all_it_needs_and_may_make_topics_for_commands(broker: KafkaServer) -> None:
    for user in SERVICES:
        bus = KafkaBus(as_user(broker, user), user, "1")
        try:
            assert "rights by topic" in await bus.probe()
            await bus.provide([f"cloche.commands.of-{user}"])
        finally:
            await bus.close()


async def test_a_producer_writes_commands_and_no_facts(broker: KafkaServer) -> None:
    assert await write(broker, PRODUCER, "cloche.commands.default") == ""
    assert await write(broker, PRODUCER, "cloche.runs") == "bus_forbidden"
    assert await write(broker, PRODUCER, "cloche.access") == "bus_forbidden"


async def test_another_password_is_refused(broker: KafkaServer) -> None:
    bus = KafkaBus(as_user(broker, "runner", "guessed"), "runner", "1")
    try:
        with pytest.raises(Invalid, match="credentials"):
            await bus.probe()
    finally:
        await bus.close()


async def test_each_service_gets_a_user_where_the_store_can(mongo_server: MongoServer) -> None:
    lines: list[bytes] = []
    log = Log("test", write=lines.append, clock=SystemClock(), scrubber=Scrubber())
    settings = await sign_in(mongo_settings(mongo_server, auth_mechanism=""))
    passwords = {service: SecretStr(f"password-of-{service}") for service in SERVICES}
    said, logins = await prepare_store(settings, passwords, log)
    assert set(logins) == set(SERVICES)
    if "FerretDB" in said:
        assert {login.username for login in logins.values()} == {mongo_server.user}
        assert b"one_user_for_all" in b"".join(lines)
    else:
        assert len({login.username for login in logins.values()}) == len(SERVICES)


async def test_the_bucket_is_made_once(one_s3_server: S3Server) -> None:
    settings = s3_settings(one_s3_server)
    assert await prepare_blobs(settings) == await prepare_blobs(settings)
