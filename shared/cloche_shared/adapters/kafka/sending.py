"""Sending: acknowledged by all replicas in sync, in order per key, each time within a deadline."""

import asyncio
from collections.abc import Iterable, Sequence
from contextlib import suppress
from typing import Final

from aiokafka import AIOKafkaProducer
from aiokafka.errors import MessageSizeTooLargeError, ProducerClosed, TopicAuthorizationFailedError

from cloche_shared.adapters.kafka.reach import LETTER_BYTES, Headers, Reach, unavailable, within
from cloche_shared.errors import ClocheError, Unavailable
from cloche_shared.notes import notes_of

Message = tuple[str, bytes, bytes | None, Headers]
"""Topic (without prefix), key, value, headers."""
ENVELOPE_BYTES: Final = 64 * 1024

_log = notes_of(__name__)


class Sender:
    """The producer of one process. One that failed is given up, because a wedged one never sends again."""

    def __init__(self, reach: Reach) -> None:
        self._reach = reach
        self._producer: AIOKafkaProducer | None = None
        self._starting = asyncio.Lock()

    async def send(self, messages: Sequence[Message]) -> None:
        """Send all. Raises `Unavailable`; sending the same again is harmless."""
        if not messages:
            return
        producer: AIOKafkaProducer | None = None
        try:
            async with asyncio.timeout(self._reach.settings.deadline_s):
                producer = await self._ready()
                await _sent(producer, [(self._reach.prefix + one[0], *one[1:]) for one in messages])
        except TopicAuthorizationFailedError as error:
            raise Unavailable(
                "bus_forbidden",
                "The message broker does not let this service write there.",
                todo="Give its principal the right to write its own topics.",
            ) from error
        except MessageSizeTooLargeError as error:
            raise Unavailable(
                "bus_refused",
                "The message broker does not take a message of this size.",
                todo="Set the topic's max.message.bytes as Cloche creates it.",
            ) from error
        except ClocheError:
            raise
        except asyncio.CancelledError:
            self._drop(producer)
            raise
        except Exception as error:
            # Besides its own errors a client that lost its broker raises whatever it trips over.
            _log.warning("producer_given_up", error=type(error).__name__)
            self._drop(producer)
            raise unavailable(error) from error

    async def warm(self, topics: Iterable[str]) -> None:
        """Be ready to send to topics: connected, with the leader of each partition known."""
        producer = await self._ready()
        for topic in topics:
            await producer.partitions_for(self._reach.prefix + topic)

    async def topics(self) -> set[str]:
        """Ask the broker which topics there are that this user may see (full names). Raises `Unavailable`."""

        async def ask() -> set[str]:
            return set((await (await self._ready()).client.fetch_all_metadata()).topics())

        return await within(self._reach.settings.deadline_s, ask)

    def close(self) -> None:
        """Send nothing more."""
        self._drop(self._producer)

    async def _ready(self) -> AIOKafkaProducer:
        async with self._starting:
            if self._producer is None:
                producer = AIOKafkaProducer(
                    **self._reach.options(self._reach.settings.deadline_s),
                    acks="all",
                    enable_idempotence=True,
                    max_request_size=LETTER_BYTES + ENVELOPE_BYTES,
                    linger_ms=0,
                )
                try:
                    await producer.start()
                except BaseException:
                    self._reach.leave(producer)
                    raise
                self._producer = producer
            return self._producer

    def _drop(self, producer: AIOKafkaProducer | None) -> None:
        """Give up a producer, unless another took its place already. The next send makes a new one."""
        if producer is not self._producer:
            return
        self._producer = None
        if producer is not None:
            _abandon(producer)
            self._reach.leave(producer)


def _abandon(producer: AIOKafkaProducer) -> None:
    """Let whoever waits hear now, and send again: to stop means to send what waits, for ever when it cannot."""
    producer._message_accumulator.fail_all(ProducerClosed())  # noqa: SLF001 - there is no public way


async def _sent(producer: AIOKafkaProducer, messages: Sequence[tuple[str, bytes, bytes | None, Headers]]) -> None:
    waiting: list[asyncio.Future[object]] = []
    for topic, key, value, headers in messages:
        one = await producer.send(topic, value, key=key, headers=list(headers))
        one.add_done_callback(_seen)
        waiting.append(one)
    await asyncio.gather(*waiting)


def _seen(one: "asyncio.Future[object]") -> None:
    """Take note of how a message ended, so that nobody is told of an error that nobody asked for."""
    with suppress(asyncio.CancelledError):
        one.exception()
