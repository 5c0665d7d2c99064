"""A database of one test on a running document store."""

import uuid
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from urllib.parse import parse_qs

from cloche_shared.adapters.mongo import MongoStore
from cloche_shared.backends import MongoSettings
from tests.environments.servers import MongoServer


def mongo_settings(server: MongoServer, **more: object) -> MongoSettings:
    """Return how to reach a server, with databases that nobody else has."""
    options = {name: values[0] for name, values in parse_qs(server.options).items()}
    found = {
        "hosts": server.host,
        "database": f"t{uuid.uuid4().hex[:20]}",
        "username": server.user,
        "password": server.password,
        "auth_source": options.get("authSource", "admin"),
        "auth_mechanism": options.get("authMechanism", ""),
    }
    return MongoSettings.model_validate(found | more)


@asynccontextmanager
async def mongo_store(server: MongoServer, service: str = "runner") -> AsyncIterator[MongoStore]:
    """Yield a service's store in a database of its own; the database is gone afterwards."""
    store = MongoStore(mongo_settings(server), service)
    try:
        await store.probe()
        yield store
        await store.drop()
    finally:
        await store.close()
