"""Submit a run by message and wait for its end, with aiokafka and nothing of Cloche's.

    python examples/events/submit_aiokafka.py librdkafka.properties [PROJECT]

The properties are those that every Kafka client knows: `bootstrap.servers`, `security.protocol`,
`sasl.mechanism`, `sasl.username`, `sasl.password`, `ssl.ca.location`.
"""

import asyncio
import json
import os
import ssl
import sys
import uuid
from pathlib import Path

SOURCE = "/examples/aiokafka"
PREFIX = os.environ.get("CLOCHE_TOPIC_PREFIX", "")
"""What stands before the name of every topic, where installations share a broker (`kafka.topic_prefix`)."""
ENDS = {"cloche.RunCompleted.v1": 0, "cloche.RunFailed.v1": 1, "cloche.RunCanceled.v1": 1}
PATIENCE_S = 300.0
SCRIPT = "print('hello from a message')\n"


def properties(path: str) -> dict[str, str]:
    """Read `name=value` lines."""
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


def options(found: dict[str, str]) -> dict[str, object]:
    """Return the properties as aiokafka calls them."""
    made: dict[str, object] = {
        "bootstrap_servers": found["bootstrap.servers"],
        "security_protocol": found.get("security.protocol", "PLAINTEXT").upper(),
    }
    if "sasl.username" in found:
        made["sasl_mechanism"] = found.get("sasl.mechanism", "SCRAM-SHA-512")
        made["sasl_plain_username"] = found["sasl.username"]
        made["sasl_plain_password"] = found["sasl.password"]
    if str(made["security_protocol"]).endswith("SSL"):
        made["ssl_context"] = ssl.create_default_context(cafile=found.get("ssl.ca.location"))
    return made


def command(event_id: str) -> tuple[list[tuple[str, bytes]], bytes]:
    """Return headers and value of a `SubmitRun`, in CloudEvents' binary mode."""
    attributes = {
        "ce_specversion": "1.0",
        "ce_id": event_id,
        "ce_source": SOURCE,
        "ce_type": "cloche.SubmitRun.v1",
        "ce_correlationid": event_id,
        "content-type": "application/json",
    }
    data = {"script": "hello.py", "files": {"hello.py": SCRIPT}, "tags": {"from": "kafka"}}
    return [(name, text.encode()) for name, text in attributes.items()], json.dumps(data).encode()


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


async def main(found: dict[str, str], project: str = "default") -> int:
    """Send one command; return 0 when its run completed."""
    from aiokafka import AIOKafkaConsumer, AIOKafkaProducer  # noqa: PLC0415 - the rest needs no client

    reach = options(found)
    event_id = str(uuid.uuid4())
    headers, value = command(event_id)
    consumer = AIOKafkaConsumer(f"{PREFIX}cloche.runs", f"{PREFIX}cloche.answers", auto_offset_reset="latest", **reach)
    producer = AIOKafkaProducer(acks="all", enable_idempotence=True, **reach)
    async with consumer, producer:
        await consumer.seek_to_end()
        for place in consumer.assignment():
            await consumer.position(place)  # from here on nothing is missed
        await producer.send_and_wait(
            f"{PREFIX}cloche.commands.{project}", value, key=event_id.encode(), headers=headers
        )
        async for message in consumer:
            ended = verdict(list(message.headers), message.value, event_id)
            if ended is not None:
                return ended
    return 1


def run(arguments: list[str]) -> int:
    """Call `main`, and say in a sentence what it ended over."""
    if not 1 <= len(arguments) <= 2:  # noqa: PLR2004 - a file and a project
        sys.exit("usage: submit_aiokafka.py PROPERTIES [PROJECT]")
    from aiokafka.errors import KafkaError  # noqa: PLC0415 - the rest needs no client

    found = properties(arguments[0])
    try:
        return asyncio.run(asyncio.wait_for(main(found, *arguments[1:]), PATIENCE_S))
    except TimeoutError:
        sys.exit(f"The run has not ended within {PATIENCE_S:g} s.")
    except (KafkaError, OSError) as error:
        sys.exit(f"The broker cannot be used with {arguments[0]}: {error or type(error).__name__}")


if __name__ == "__main__":
    sys.exit(run(sys.argv[1:]))
