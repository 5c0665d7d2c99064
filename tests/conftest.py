"""Settings of the test run that pytest's own options cannot express."""

import asyncio

pytest_plugins = ["tests.environments.fixtures"]


def pytest_configure() -> None:
    """Say that there is no event loop yet; otherwise one is made on first sight and never closed."""
    asyncio.set_event_loop(None)
