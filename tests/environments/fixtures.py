"""Fixtures of real servers. Each is shared by all tests and workers: use a database, prefix or bucket of your own.

A test that asks for one is skipped, with the reason, where there is neither an engine nor an image.
"""

from __future__ import annotations

import sys
from contextlib import ExitStack
from typing import TYPE_CHECKING, Protocol, cast

import pytest

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.environments.servers import KafkaServer, MongoServer, S3Server, Server


class Start(Protocol):
    """Start a server of a role for this test alone: to pause, kill and restart."""

    def __call__(self, role: str) -> Server: ...


def shared(role: str) -> Server:
    from tests.environments import places, sharing  # noqa: PLC0415  # half a second that most test runs need not pay

    try:
        return sharing.acquire(role, sharing.this_owner())
    except places.NotPossible as error:
        pytest.skip(f"{role}: {error}")


@pytest.fixture(scope="session")
def kafka_server() -> KafkaServer:
    return cast("KafkaServer", shared("kafka"))


@pytest.fixture(scope="session")
def mongo_server() -> MongoServer:
    return cast("MongoServer", shared("mongo"))


@pytest.fixture(scope="session", params=["s3", "s3-second"])
def s3_server(request: pytest.FixtureRequest) -> S3Server:
    """Both S3 servers, one after the other."""
    return cast("S3Server", shared(request.param))


@pytest.fixture(scope="session")
def one_s3_server() -> S3Server:
    """The first S3 server, for a test that is about something else."""
    return cast("S3Server", shared("s3"))


@pytest.fixture
def own_server() -> Iterator[Start]:
    """Servers for one test alone, gone when it ends."""
    from tests.environments import places, sharing  # noqa: PLC0415  # as above

    with ExitStack() as servers:

        def start(role: str) -> Server:
            try:
                return servers.enter_context(sharing.private(role))
            except places.NotPossible as error:
                pytest.skip(f"{role}: {error}")

        yield start


def pytest_unconfigure(config: pytest.Config) -> None:
    """Give the shared servers back when the whole run ends; workers leave it to the process that started them."""
    from tests.environments import owners  # noqa: PLC0415  # only cheap imports

    if not hasattr(config, "workerinput") and owners.entered():
        from tests.environments import sharing  # noqa: PLC0415  # as above

        sharing.release(owners.this_owner())
    if "tests.environments.engine" in sys.modules:
        sys.modules["tests.environments.engine"].close()
