"""A bare producer and a bare consumer that go on over an outage; a line for each message: when it was received.

Reads the broker's address and a topic from standard input; ends with its process group.
"""

import asyncio
import json
import sys
import time

from aiokafka import AIOKafkaConsumer, AIOKafkaProducer
from aiokafka.admin import AIOKafkaAdminClient, NewTopic

EVERY_S = 0.1


async def _send_on(producer: AIOKafkaProducer, topic: str) -> None:
    while True:
        await producer.send_and_wait(topic, b"tick")
        await asyncio.sleep(EVERY_S)


async def main(bootstrap: str, topic: str) -> None:
    """Send and receive for ever."""
    admin = AIOKafkaAdminClient(bootstrap_servers=bootstrap)
    await admin.start()
    await admin.create_topics([NewTopic(topic, 1, 1)])
    await admin.close()
    producer = AIOKafkaProducer(bootstrap_servers=bootstrap, acks="all", enable_idempotence=True)
    consumer = AIOKafkaConsumer(topic, bootstrap_servers=bootstrap, group_id=topic, auto_offset_reset="earliest")
    await producer.start()
    await consumer.start()
    sending = asyncio.create_task(_send_on(producer, topic))
    try:
        async for _ in consumer:
            print(time.time_ns(), flush=True)
    finally:
        sending.cancel()
        await producer.stop()
        await consumer.stop()


if __name__ == "__main__":
    asyncio.run(main(**json.load(sys.stdin)))
