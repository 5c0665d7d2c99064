"""Commands as an outside producer sends them, over a bus in memory, and what they are answered."""

from collections.abc import Mapping

import orjson

from cloche_shared.adapters.memory_bus import MemoryBus
from cloche_shared.bus.commands import command_id
from cloche_shared.contracts.commands import command_topic
from cloche_shared.contracts.envelope import STRUCTURED, Event, from_message
from cloche_shared.contracts.facts import TOPICS
from cloche_shared.errors import Invalid

SOURCE = "/shop/orders"


def message(name: str, data: Mapping[str, object], event_id: str = "1", **attributes: str) -> bytes:
    """Return a command in structured mode."""
    kind = name if "." in name else f"cloche.{name}.v1"
    whole = {"specversion": "1.0", "id": event_id, "source": SOURCE, "type": kind, **attributes, "data": data}
    return orjson.dumps(whole)


async def produce(bus: MemoryBus, value: bytes, *, key: str = "k", project: str = "default") -> None:
    """Put a message on a project's topic as a broker's adapter delivers it."""
    topic = command_topic(project)
    try:
        event = from_message(topic, key.encode(), {"content-type": STRUCTURED.encode()}, value)
    except Invalid as error:
        bus.publish_raw(topic, key, value, str(error))
    else:
        await bus.publish([event])


class Answers:
    """What commands were answered."""

    def __init__(self, bus: MemoryBus) -> None:
        self._bus = bus

    async def to(self, event_id: str, project: str = "default") -> Event:
        """Return the answer to a command of `SOURCE`."""
        subject = f"command/{project}/{command_id(SOURCE, event_id)}"
        async with self._bus.tail([TOPICS["answers"]], from_start=True) as answers:
            while True:
                for delivery in await answers.fetch():
                    if delivery.event is not None and delivery.event.subject == subject:
                        return delivery.event

    def count(self, event_id: str, project: str = "default") -> int:
        """Return how many answers a command has."""
        subject = f"command/{project}/{command_id(SOURCE, event_id)}"
        parts = self._bus.broker.partitions(TOPICS["answers"])
        return sum(1 for part in parts for one in part.log if one.event is not None and one.event.subject == subject)
