"""Prepares broker, document store and object store for the services, as their administrator.

Everything here may be done again: it runs before each start.
"""

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Final

from pydantic import SecretStr

from cloche_shared.access import DEFAULT_PROJECT
from cloche_shared.adapters.kafka_admin import KafkaAdmin
from cloche_shared.adapters.kafka_bus import KafkaBus
from cloche_shared.adapters.mongo import MongoStore
from cloche_shared.adapters.mongo_users import MongoUsers
from cloche_shared.adapters.s3_blobs import S3BlobStore
from cloche_shared.backends import KafkaSettings, MongoSettings, S3Settings
from cloche_shared.bus.dispatch import TRANSIENT
from cloche_shared.bus.rights import COMMANDS, SERVICES, Right, rights
from cloche_shared.cluster.provision.blob_rights import bucket_policy
from cloche_shared.errors import Invalid
from cloche_shared.logs import Log

RETRY_S: Final = 0.5
PLAIN: Final = "PLAIN"
SCRAM: Final = "SCRAM-SHA-256"


@dataclass(frozen=True, slots=True)
class MongoLogin:
    """How a service signs in at the document store."""

    username: str
    password: SecretStr
    mechanism: str


async def patiently(name: str, step: Callable[[], Awaitable[str]], log: Log, patience_s: float) -> str:
    """Do a step, again and again while its server is not there yet. Raises what waiting does not mend."""
    async with asyncio.timeout(patience_s):
        while True:
            try:
                return await step()
            except TRANSIENT as error:
                log.say("warning", "server_not_ready", f"{name} does not answer yet: {error}")
                await asyncio.sleep(RETRY_S)


async def prepare_broker(settings: KafkaSettings, passwords: dict[str, str]) -> str:
    """Make topics, users and rights; return what the broker says of itself."""
    bus = KafkaBus(settings, "provision", "1", prefix=settings.topic_prefix)
    try:
        said = await bus.probe()
        await bus.provide([COMMANDS + DEFAULT_PROJECT])
        admin = KafkaAdmin(bus)
        await admin.set_passwords(passwords)
        granted: list[Right] = rights(settings.topic_prefix)
        await admin.grant(granted)
        return f"{said}; {len(passwords)} users, {len(granted)} rights"
    finally:
        await bus.close()


async def prepare_store(
    settings: MongoSettings, passwords: dict[str, SecretStr], log: Log
) -> tuple[str, dict[str, MongoLogin]]:
    """Make a user for each service, where the server can; return how each signs in."""
    store = MongoStore(settings, "provision")
    try:
        said = await store.probe()
        if store.scans:
            log.say("warning", "one_user_for_all", "This server knows one user only: all services sign in as it.")
            login = MongoLogin(settings.username, settings.password, PLAIN)
            return said, dict.fromkeys(SERVICES, login)
        users = MongoUsers(store, settings.database)
        logins = {
            service: MongoLogin(f"{settings.database}_{service}", passwords[service], SCRAM) for service in SERVICES
        }
        for service, login in logins.items():
            await users.set_user(service, login.username, login.password.get_secret_value())
        await users.tidy()
        return said, logins
    finally:
        await store.close()


async def sign_in(settings: MongoSettings) -> MongoSettings:
    """Return the settings with the mechanism that the server takes: the stand-in knows only PLAIN.

    Raises `Unavailable`, and `Invalid` (`store_auth`) when it takes none.
    """
    for mechanism in (SCRAM, PLAIN):
        chosen = settings.model_copy(update={"auth_mechanism": mechanism})
        store = MongoStore(chosen, "provision")
        try:
            await store.probe()
        except Invalid as error:
            if error.code != "store_auth" or mechanism == PLAIN:
                raise
        else:
            return chosen
        finally:
            await store.close()
    raise AssertionError("the last mechanism returns or raises")


async def prepare_blobs(settings: S3Settings, *, rights: bool = False) -> str:
    """Make the bucket; return what the server says of itself.

    With `rights` each service's user (whose access key is the service's name) gets his, and nobody else any.
    """
    store = S3BlobStore(settings)
    try:
        said = await store.probe()
        if rights:
            policy = bucket_policy(settings.bucket, SERVICES)
            await store.call(store.client.set_bucket_policy, settings.bucket, policy)
        return f"{said}; {len(SERVICES)} users" if rights else said
    finally:
        await store.close()
