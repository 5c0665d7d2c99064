"""How every client reaches the broker, and how clients begin and end: with patience, and never hanging."""

import asyncio
import logging
import ssl
from collections.abc import Awaitable, Callable, Coroutine, Sequence
from functools import cached_property
from typing import Any, Final, Protocol, TypeVar

from aiokafka import AIOKafkaConsumer, TopicPartition
from aiokafka.conn import create_conn
from aiokafka.errors import KafkaError, SaslAuthenticationFailed
from aiokafka.helpers import create_ssl_context

from cloche_shared.backends import KafkaSettings
from cloche_shared.errors import ClocheError, Invalid, Unavailable
from cloche_shared.notes import notes_of

DEAD: Final = ".dead"
ACCESS: Final = "cloche.access"
"""Who may do what: kept for ever, and never delayed."""
AWAIT_NEW_S: Final = 5.0
"""Seconds until a group that wants all topics of a kind hears of a new one."""
MESSAGE_BYTES: Final = 4 << 20
LETTER_BYTES: Final = 5 << 20
"""What a topic takes, and what its dead-letter topic does: a letter is its message and what is noted of it."""
FETCH_BYTES: Final = 16 << 20
PARTITION_BYTES: Final = 1 << 20
READ_S: Final = 20.0
"""Seconds that a consumer waits for an answer: longer than a group takes to notice that a member died."""
READING: Final[dict[str, Any]] = {
    "enable_auto_commit": False,
    "auto_offset_reset": "earliest",
    "fetch_max_bytes": FETCH_BYTES,
    "max_partition_fetch_bytes": PARTITION_BYTES,
}
"""How every consumer reads."""
RETRY_S: Final = (0.2, 0.5, 1.0, 2.0, 5.0)
CLOSE_S: Final = 5.0

Headers = Sequence[tuple[str, bytes]]
T = TypeVar("T")

_log = notes_of(__name__)

# The client repeats itself several times a second while a broker is away. What matters is said here, once.
logging.getLogger("aiokafka").setLevel(logging.CRITICAL)


class Stoppable(Protocol):
    """A client of the broker."""

    def stop(self) -> Coroutine[object, object, None]:
        """Leave groups and close connections."""


def unavailable(error: BaseException) -> Unavailable:
    """Return what users see; the driver's own texts may hold addresses and are left out."""
    return Unavailable(
        "bus_unavailable",
        "The message broker does not answer.",
        why=type(error).__name__,
        todo="Try again; nothing was lost.",
    )


async def within(seconds: float, action: Callable[[], Awaitable[T]]) -> T:
    """Return what the broker answers. Raises `Unavailable` when it does not, or not in time."""
    try:
        async with asyncio.timeout(seconds):
            return await action()
    except ClocheError:
        raise
    except (KafkaError, OSError) as error:
        raise unavailable(error) from error
    except Exception as error:
        # The client answers a broker that comes and goes with defects of its own, too.
        _log.exception("client_failed", error=type(error).__name__)
        raise unavailable(error) from error


class Reach:
    """The way to one broker as one principal. `prefix` goes before the name of every topic and group."""

    def __init__(self, settings: KafkaSettings, client: str, prefix: str) -> None:
        self.settings = settings
        self.prefix = prefix
        self._client = client
        self._leaving: set[asyncio.Task[None]] = set()

    def options(self, answer_s: float) -> dict[str, Any]:
        """Return the arguments of every client. `answer_s`: seconds that one request may take."""
        return {"bootstrap_servers": self.settings.bootstrap_servers, **self._link(answer_s)} | {
            "retry_backoff_ms": 100,
            "metadata_max_age_ms": 30_000,
        }

    def _link(self, answer_s: float) -> dict[str, Any]:
        settings = self.settings
        options: dict[str, Any] = {
            "client_id": self._client,
            "security_protocol": settings.security_protocol,
            "request_timeout_ms": round(answer_s * 1000),
        }
        if settings.security_protocol.endswith("SSL"):
            options["ssl_context"] = self._trust
        if settings.security_protocol.startswith("SASL"):
            options |= {
                "sasl_mechanism": settings.sasl_mechanism,
                "sasl_plain_username": settings.username,
                "sasl_plain_password": settings.password.get_secret_value(),
            }
        return options

    @cached_property
    def _trust(self) -> ssl.SSLContext:
        path = self.settings.ca_file
        try:
            found = create_ssl_context(cafile=path) if path else ssl.create_default_context()
        except OSError as error:
            raise Invalid(
                "invalid_setting",
                "The authorities that vouch for the message broker cannot be read.",
                why=type(error).__name__,
                todo="Let kafka.ca_file name a PEM file that this user may read.",
            ) from None
        if not isinstance(found, ssl.SSLContext):
            raise TypeError(type(found).__name__)
        return found

    async def greet(self) -> str:
        """Sign in at any of the bootstrap servers; return what the broker says of its version.

        Raises `Invalid` (`store_auth`) when it refuses the credentials, else whatever kept all from answering.
        """
        trouble: Exception = KafkaError("no server")
        for server in self.settings.bootstrap_servers.split(","):
            host, _, port = server.strip().rpartition(":")
            try:
                link = await create_conn(host, int(port), **self._link(self.settings.deadline_s))
            except SaslAuthenticationFailed:
                raise Invalid(
                    "store_auth",
                    "The message broker refuses the credentials.",
                    todo="See kafka.username and kafka.password_file.",
                ) from None
            except (KafkaError, OSError) as error:
                trouble = error
            else:
                newest = max(link._versions.get(0, (0, 0)))  # noqa: SLF001 - the protocol names no other version
                link.close()
                return f"produces by protocol version {newest}"
        raise trouble

    # --- partitions

    async def places(self, consumer: AIOKafkaConsumer, topics: Sequence[str]) -> list[TopicPartition]:
        """Return all partitions of topics (full names); waits until each topic has leaders for all of its own."""
        while True:
            # The public call returns names only.
            cluster = await consumer._client.fetch_all_metadata()  # noqa: SLF001
            found = [
                TopicPartition(topic, number)
                for topic in topics
                for number in sorted(cluster.partitions_for_topic(topic) or ())
            ]
            led = [place for place in found if cluster.leader_for_partition(place) not in (None, -1)]
            if found == led and {place.topic for place in found} == set(topics):
                return found
            await asyncio.sleep(RETRY_S[0])

    def loner(self) -> AIOKafkaConsumer:
        """Return a consumer that belongs to no group."""
        return AIOKafkaConsumer(**self.options(READ_S), group_id=None, **READING)

    # --- beginnings and ends

    async def started(self, make: Callable[[], AIOKafkaConsumer]) -> AIOKafkaConsumer:
        """Return a consumer that has reached the broker, however long that takes."""
        tries = 0
        while True:
            consumer = make()
            try:
                await consumer.start()
            except Exception as error:  # noqa: BLE001 - to a broker that comes and goes the client has defects, too
                await self.stopped(consumer)
                _log.warning("broker_not_reached", error=type(error).__name__, tries=tries + 1)
                await asyncio.sleep(RETRY_S[min(tries, len(RETRY_S) - 1)])
                tries += 1
            except BaseException:
                await self.stopped(consumer)
                raise
            else:
                return consumer

    async def stopped(self, client: Stoppable) -> None:
        """Stop a client. One that takes long ends in the background: cut short it would stay in its group."""
        task = self.leave(client)
        await asyncio.wait({task}, timeout=CLOSE_S)

    def leave(self, client: Stoppable) -> "asyncio.Task[None]":
        """Stop a client in the background."""
        task = asyncio.create_task(_stop(client), name="kafka-client-stop")
        self._leaving.add(task)
        task.add_done_callback(self._leaving.discard)
        return task

    async def close(self) -> None:
        """Wait for clients that are ending, for a while."""
        if self._leaving:
            await asyncio.wait(self._leaving, timeout=CLOSE_S)


async def _stop(client: Stoppable) -> None:
    try:
        await client.stop()
    except Exception as error:  # noqa: BLE001 - a client that failed may fail once more when it ends
        _log.info("client_ended_badly", error=type(error).__name__)
