"""Bus on Kafka, through aiokafka: CloudEvents in binary mode, at least once, in order per key.

Who publishes hears of it once all replicas that are in sync have the message; who consumes commits what it
was told to, never what it no longer owns. A broker that is away is waited for; nothing here ends because
of it.
"""

from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from datetime import datetime
from typing import Any, TypeVar

from aiokafka.admin import AIOKafkaAdminClient

from cloche_shared.adapters.kafka.letters import Letters
from cloche_shared.adapters.kafka.reach import Reach, within
from cloche_shared.adapters.kafka.reading import Member, Tail
from cloche_shared.adapters.kafka.replaying import Replaying
from cloche_shared.adapters.kafka.sending import Sender
from cloche_shared.adapters.kafka.topics import Topics, all_topics, check_guarded
from cloche_shared.backends import KafkaSettings
from cloche_shared.contracts.envelope import Event
from cloche_shared.errors import ClocheError
from cloche_shared.ports.bus import Again, DeadLetter, Delivery, Letter, Ranges, Subscription

T = TypeVar("T")


class KafkaBus:
    """The bus of one process.

    `delay` holds every delivery back, in seconds; `prefix` goes before every topic's and group's name.
    `session_s`: seconds of silence after which a member's partitions go to others; None: as the settings say.
    """

    def __init__(
        self,
        settings: KafkaSettings,
        service: str,
        replica: str,
        *,
        delay: float = 0.0,
        prefix: str = "",
        session_s: float | None = None,
    ) -> None:
        self.prefix = prefix
        self._delay = delay
        self._session_s = session_s or settings.session_s
        self._reach = Reach(settings, f"cloche-{service}-{replica}", prefix)
        self._sender = Sender(self._reach)
        self._topics = Topics(self._reach)
        self._letters = Letters(self._reach, self._topics, self._sender)
        self._replaying = Replaying(self._reach, self._sender)

    def options(self) -> dict[str, Any]:
        """Return how to reach the broker, for another client."""
        return self._reach.options(self._reach.settings.deadline_s)

    async def publish(self, events: Sequence[Event]) -> None:
        await self._sender.send([(event.topic, event.key.encode(), event.value(), event.headers()) for event in events])

    @asynccontextmanager
    async def subscribe(self, group: str, topics: Sequence[str]) -> AsyncIterator[Subscription]:
        member = Member(self._reach, self._delay, group, topics, session_s=self._session_s)
        try:
            await member.open()
            yield member
        finally:
            await member.close()

    @asynccontextmanager
    async def tail(
        self,
        topics: Sequence[str],
        *,
        from_start: bool = False,
        after: str = "",  # noqa: ARG002 - there is no one order to resume in
    ) -> AsyncIterator[Subscription]:
        tail = Tail(self._reach, self._delay, topics, from_start=from_start)
        try:
            await tail.open()
            yield tail
        finally:
            await tail.close()

    def place(self, delivery: Delivery) -> str:  # noqa: ARG002 - topics and partitions have no one order
        return ""

    async def bury(self, letter: DeadLetter) -> None:
        await self._letters.put(letter)

    async def letters(self, limit: int = 100, *, after: str = "") -> list[Letter]:
        return await self._letters.page(limit, after)

    async def letter(self, letter_id: str) -> Letter | None:
        return await self._letters.find(letter_id)

    async def resend(self, letter_id: str) -> None:
        """Let a letter come again to the group that buried it, and to no other."""
        await self._letters.resend(letter_id)

    async def past(self, topics: Sequence[str], since: datetime | None = None) -> Again:
        return await self._replaying.past(topics, since)

    async def replay(self, group: str, topics: Sequence[str], left: Ranges, limit: int = 1000) -> Again:
        return await self._replaying.replay(group, topics, left, limit)

    # --- the broker

    async def probe(self) -> str:
        """Create the topics that are not there; return which broker it is and how it is guarded.

        Returns once every partition is served and this process is ready to send. Raises `Unavailable`
        while the broker does not answer; what waiting does not mend is `Invalid` (`broker_open`,
        `store_auth`, `bus_forbidden`) or `Conflict` (`topic_partitions_differ`).
        """
        settings = self._reach.settings

        async def ask(admin: AIOKafkaAdminClient) -> str:
            guarded = await check_guarded(admin, self._reach)
            await self._topics.ensure(admin, all_topics())
            await self._sender.warm(all_topics())
            self._topics.lost(await self._sender.topics())
            count = len((await admin.describe_cluster())["brokers"])
            rights = "rights by topic" if guarded else "everybody may write"
            return f"Kafka ({said}), {count} broker(s), {settings.security_protocol}, {rights}"

        said = await within(settings.deadline_s, self._reach.greet)
        return await self._as_admin(ask)

    async def provide(self, topics: Sequence[str]) -> None:
        """Make topics that are not there (`cloche.commands.<project>`), each with the one for its dead letters."""
        if not all(self._topics.knows(topic) for topic in topics):
            await self._as_admin(lambda admin: self._topics.ensure(admin, topics))

    async def check(self) -> str | None:
        """Return what is wrong with the broker now, None when it is well.

        A broker that lost topics is not well until this process begins anew, whatever it holds then.
        """
        try:
            lost = self._topics.lost(await self._sender.topics())
        except ClocheError as error:
            return f"{error.code}: {error.why}"
        if not lost:
            return None
        which = lost[0] if len(lost) == 1 else f"{lost[0]} and {len(lost) - 1} more"
        return f"topics_lost: the broker lost {which}; restart the services, then `cloche events republish`."

    async def close(self) -> None:
        """Close every connection; what was not acknowledged is sent again by whoever kept it."""
        self._sender.close()
        await self._reach.close()

    async def _as_admin(self, act: Callable[[AIOKafkaAdminClient], Awaitable[T]]) -> T:
        async def started() -> T:
            admin = self._topics.admin()
            try:
                await admin.start()
                return await act(admin)
            finally:
                await admin.close()

        return await within(self._reach.settings.deadline_s, started)
