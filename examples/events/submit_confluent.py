"""Submit a run by message and wait for its end, with confluent-kafka and nothing of Cloche's.

    pip install confluent-kafka
    python examples/events/submit_confluent.py librdkafka.properties [PROJECT]

The command travels in CloudEvents' structured mode here: one JSON object, attributes and data together.
"""

import json
import os
import sys
import time
import uuid
from pathlib import Path

SOURCE = "/examples/confluent"
PREFIX = os.environ.get("CLOCHE_TOPIC_PREFIX", "")
"""What stands before the name of every topic, where installations share a broker (`kafka.topic_prefix`)."""
ENDS = {"cloche.RunCompleted.v1": 0, "cloche.RunFailed.v1": 1, "cloche.RunCanceled.v1": 1}
PATIENCE_S = 300.0


def properties(path: str) -> dict[str, str]:
    """Read `name=value` lines: this client takes them as they are."""
    try:
        lines = [line.strip() for line in Path(path).read_text().splitlines()]
    except OSError as error:
        sys.exit(f"{path} cannot be read: {error.strerror}.")
    pairs = [line.partition("=") for line in lines if line and not line.startswith("#")]
    found = {name.strip(): value.strip() for name, _, value in pairs}
    if "bootstrap.servers" not in found or "sasl.jaas.config" in found:
        sys.exit(f"{path} is not for this client; `docker compose run --rm client librdkafka.properties` writes one.")
    if "ssl.ca.location" in found:  # it lies beside this file, wherever we are called
        found["ssl.ca.location"] = str(Path(path).parent / found["ssl.ca.location"])
    return found


def command(event_id: str) -> tuple[dict[str, bytes], bytes]:
    """Return headers and value of a `SubmitRun`, in CloudEvents' structured mode."""
    event = {
        "specversion": "1.0",
        "id": event_id,
        "source": SOURCE,
        "type": "cloche.SubmitRun.v1",
        "correlationid": event_id,
        "datacontenttype": "application/json",
        "data": {"script": "hello.py", "files": {"hello.py": "print('hello from a message')\n"}},
    }
    return {"content-type": b"application/cloudevents+json"}, json.dumps(event).encode()


def verdict(headers: list[tuple[str, bytes]], value: bytes | None, correlation: str) -> int | None:
    """Return the exit status once a message tells how it ended, None for every other message."""
    said = {name: text.decode() for name, text in headers}
    if said.get("ce_correlationid") != correlation:
        return None
    kind = said.get("ce_type", "")
    sys.stdout.write(f"{kind} {said.get('ce_subject', '')}\n")
    if kind == "cloche.CommandRefused.v1":
        sys.stderr.write(f"{json.loads(value or b'{}')['problem']['message']}\n")
        return 1
    return ENDS.get(kind)


def main(path: str, project: str = "default") -> int:
    """Send one command; return 0 when its run completed."""
    from confluent_kafka import Consumer, Producer, TopicPartition  # noqa: PLC0415 - the rest needs no client

    reach = properties(path)
    event_id = str(uuid.uuid4())
    headers, value = command(event_id)
    consumer = Consumer({**reach, "group.id": f"{PREFIX}producer-{event_id}", "enable.auto.commit": False})
    try:
        known = consumer.list_topics(timeout=10).topics
        topics = (f"{PREFIX}cloche.runs", f"{PREFIX}cloche.answers")
        places = [TopicPartition(topic, n) for topic in topics for n in known[topic].partitions]
        for place in places:
            place.offset = consumer.get_watermark_offsets(place, timeout=10)[1]
        consumer.assign(places)
        producer = Producer({**reach, "acks": "all", "enable.idempotence": True})
        producer.produce(f"{PREFIX}cloche.commands.{project}", value, key=event_id, headers=headers)
        producer.flush(10)
        end = time.monotonic() + PATIENCE_S
        while time.monotonic() < end:
            message = consumer.poll(1.0)
            if message is None or message.error():
                continue
            ended = verdict(message.headers() or [], message.value(), event_id)
            if ended is not None:
                return ended
    finally:
        consumer.close()
    return 1


def run(arguments: list[str]) -> int:
    """Call `main`, and say in a sentence what it ended over."""
    if not 1 <= len(arguments) <= 2:  # noqa: PLR2004 - a file and a project
        sys.exit("usage: submit_confluent.py PROPERTIES [PROJECT]")
    from confluent_kafka import KafkaException  # noqa: PLC0415 - the rest needs no client

    try:
        return main(*arguments)
    except KafkaException as error:
        sys.exit(f"The broker cannot be used with {arguments[0]}: {error.args[0]}")


if __name__ == "__main__":
    sys.exit(run(sys.argv[1:]))
