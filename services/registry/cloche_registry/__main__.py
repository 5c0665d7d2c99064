"""`python -m cloche_registry`: the registry as a process of its own."""

import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from cloche_registry.settings import RegistrySettings
from cloche_registry.wiring import build
from cloche_shared.cluster.settings import ProcessSettings
from cloche_shared.cluster.wiring import Built, Opened, main


class Settings(ProcessSettings):
    """All settings of the process."""

    registry: RegistrySettings = RegistrySettings()


@asynccontextmanager
async def composed(opened: Opened[Settings]) -> AsyncIterator[Built]:
    """Build the registry; the first administrator's token opens everything from the first start on."""
    service = build(opened.platform, opened.settings.registry, opened.pepper)
    token = opened.token

    async def prelude() -> None:
        await service.refill_access()
        if token:
            await service.ensure_bootstrap_key(token)

    yield Built(service, prelude, owns_keys=True)


if __name__ == "__main__":
    sys.exit(main("registry", Settings, composed))
