"""Dead letters: put aside under `<topic>.dead`, listed, and sent again to the group that could not handle them.

A letter comes again through a topic of its own, which only the service that answers operators may write:
the facts' own topics stay with those who own the facts.
"""

import asyncio
from datetime import UTC, datetime
from typing import Final, TypeAlias

import orjson
from aiokafka import ConsumerRecord

from cloche_shared.adapters.kafka.reach import DEAD, LETTER_BYTES, Reach, within
from cloche_shared.adapters.kafka.sending import Message, Sender
from cloche_shared.adapters.kafka.topics import Topics
from cloche_shared.bus.letters import RESENT, letter_not_found
from cloche_shared.contracts.envelope import from_message
from cloche_shared.errors import ClocheError
from cloche_shared.ports.bus import DeadLetter, Delivery, Letter

NOTES: Final = "cloche_letter"
DONE: Final = "cloche_resent"
"""In place of a message: the letter of this name was sent again."""
RESENT_GROUP: Final = "cloche_group"
RESENT_TOPIC: Final = "cloche_topic"
KEPT_BYTES: Final = LETTER_BYTES - 64 * 1024

_Record: TypeAlias = ConsumerRecord[bytes, bytes]


class Letters:
    """The dead letters of one installation."""

    def __init__(self, reach: Reach, topics: Topics, sender: Sender) -> None:
        self._reach = reach
        self._topics = topics
        self._sender = sender

    async def put(self, letter: DeadLetter) -> None:
        """Store a letter durably. Raises `Unavailable`."""
        delivery = letter.delivery
        event = delivery.event
        topic = event.topic if event is not None else _topic(delivery.source)
        value = event.value() if event is not None else delivery.raw
        notes = {
            "group": letter.group,
            "reason": letter.reason,
            "attempts": letter.attempts,
            "code_version": letter.code_version,
            "source": delivery.source,
            "offset": delivery.offset,
            "topic": topic,
            "why": delivery.reason,
            "parsed": event is not None,
        }
        if len(value) > KEPT_BYTES:
            notes |= {"parsed": False, "cut_from": len(value)}
            value = value[:KEPT_BYTES]
        headers = [(NOTES, orjson.dumps(notes)), *(event.headers() if event is not None else ())]
        await self._ensure(topic + DEAD)
        await self._sender.send([(topic + DEAD, delivery.key.encode(), value, headers)])

    async def page(self, limit: int, after: str) -> list[Letter]:
        """Return letters behind the one named `after`, in the order in which they were put aside."""
        letters, done = await self._all()
        names = [letter.id for letter in letters]
        if after and after not in names:
            return []
        behind = letters[names.index(after) + 1 :] if after else letters
        return [letter for letter in behind if letter.id not in done][:limit]

    async def find(self, name: str) -> Letter | None:
        """Return a letter that was not sent again yet."""
        letters, done = await self._all()
        return next((letter for letter in letters if letter.id == name and name not in done), None)

    async def resend(self, name: str) -> None:
        """Let a letter come again to its group. Raises `NotFound`."""
        found = await self.find(name)
        if found is None:
            raise letter_not_found(name)
        delivery = found.letter.delivery
        event = delivery.event
        topic = event.topic if event is not None else _topic(delivery.source)
        value, headers = (event.value(), event.headers()) if event is not None else (delivery.raw, [])
        to = [(RESENT_GROUP, found.letter.group.encode()), (RESENT_TOPIC, topic.encode()), *headers]
        again: Message = (RESENT, delivery.key.encode(), value, to)
        await self._sender.send([again])
        # A crash between the two only means that it can be sent once more.
        await self._sender.send([(_topic_of(name), name.encode(), b"", [(DONE, name.encode())])])

    async def _ensure(self, topic: str) -> None:
        """Create a dead-letter topic that is not there: topics of commands come with their projects."""
        if self._topics.knows(topic):
            return

        async def make() -> None:
            admin = self._topics.admin()
            try:
                await admin.start()
                await self._topics.ensure(admin, [topic])
            finally:
                await admin.close()

        await within(self._reach.settings.deadline_s, make)

    async def _all(self) -> tuple[list[Letter], set[str]]:
        """Return all letters by age, and the names of those that were sent again."""
        records = await self._records()
        done = {value.decode() for record in records for name, value in record.headers if name == DONE}
        ordered = sorted(records, key=lambda one: (one.timestamp, one.topic, one.offset))
        letters = (self._letter(record) for record in ordered)
        return [letter for letter in letters if letter is not None], done

    async def _records(self) -> list[_Record]:
        """Read every dead-letter topic from its beginning to its present end."""
        found: list[_Record] = []

        async def read() -> None:
            admin = self._topics.admin()
            consumer = self._reach.loner()
            try:
                await admin.start()
                names = await self._topics.names_of_dead(admin)
                await consumer.start()
                places = await self._reach.places(consumer, names)
                consumer.assign(places)
                ends = await consumer.end_offsets(places)
                await consumer.seek_to_beginning(*places)
                while any([await consumer.position(place) < end for place, end in ends.items()]):
                    for records in (await consumer.getmany(timeout_ms=200)).values():
                        found.extend(records)
            finally:
                await asyncio.gather(admin.close(), self._reach.stopped(consumer), return_exceptions=True)

        await within(self._reach.settings.deadline_s, read)
        return found

    def _letter(self, record: _Record) -> Letter | None:
        """Return the letter in a record; None when it is none, as a stranger may write there, too."""
        headers = dict(record.headers)
        try:
            notes = orjson.loads(headers.pop(NOTES))
            event = from_message(notes["topic"], record.key, headers, record.value) if notes["parsed"] else None
            raw = b"" if event is not None else record.value or b""
            key = (record.key or b"").decode(errors="replace")
            delivery = Delivery(notes["source"], notes["offset"], key, event, raw, notes["why"])
            letter = DeadLetter(notes["group"], delivery, notes["reason"], notes["attempts"], notes["code_version"])
        except (KeyError, TypeError, ValueError, ClocheError):
            return None
        name = f"{record.topic.removeprefix(self._reach.prefix)}-{record.partition}-{record.offset}"
        return Letter(name, letter, _moment(record.timestamp))


def _moment(milliseconds: int) -> str:
    """Return a broker's time as text; empty for none."""
    if milliseconds < 0:
        return ""
    found = datetime.fromtimestamp(milliseconds / 1000, UTC)
    return found.isoformat(timespec="milliseconds").replace("+00:00", "Z")


def _topic(source: str) -> str:
    return source.rpartition("/")[0]


def _topic_of(name: str) -> str:
    """Return the dead-letter topic in a letter's name."""
    return name.rsplit("-", 2)[0]
