"""The bus on a real broker: what it refuses, what strangers send, what members of a group may and may not do."""

import asyncio
import logging
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from dataclasses import replace

import pytest
from aiokafka import AIOKafkaProducer
from aiokafka.record.util import calc_crc32c
from pydantic import SecretStr

from cloche_shared.adapters.kafka_admin import KafkaAdmin
from cloche_shared.adapters.kafka_bus import KafkaBus
from cloche_shared.bus.rights import rights
from cloche_shared.errors import ClocheError, Conflict, Invalid, NotFound, Unavailable
from cloche_shared.ports.bus import DeadLetter
from tests.environments.kafka import drop_topics, kafka_bus, kafka_settings, secured
from tests.environments.kafka_link import kafka_link
from tests.environments.servers import KafkaServer
from tests.integration.kafka_events import (
    ACCESS,
    ENVIRONMENTS,
    RUNS,
    Taken,
    event,
    follow,
    ids,
    send,
    silence,
    take,
    until_all,
)

CANARY = "canary-3f9c1e"


@pytest.fixture
async def bus(kafka_server: KafkaServer) -> AsyncIterator[KafkaBus]:
    async with kafka_bus(kafka_server) as made:
        yield made


# --- starting


async def test_the_broker_says_who_it_is_and_may_be_asked_by_several_at_once(kafka_server: KafkaServer) -> None:
    async with kafka_bus(kafka_server) as bus:
        other = KafkaBus(kafka_settings(kafka_server), "test", "2", prefix=bus.prefix)
        said = await asyncio.gather(bus.probe(), other.probe())
        assert all("1 broker(s), PLAINTEXT, everybody may write" in one for one in said)
        assert await other.check() is None
        await other.close()


async def test_topics_of_another_width_are_refused_with_the_cure(kafka_server: KafkaServer, bus: KafkaBus) -> None:
    wide = KafkaBus(kafka_settings(kafka_server, partitions=5), "test", "2", prefix=bus.prefix)
    with pytest.raises(Conflict) as refused:
        await wide.probe()
    await wide.close()
    assert refused.value.code == "topic_partitions_differ"
    assert "kafka.partitions to 3" in refused.value.todo


async def test_a_broker_that_lets_everybody_write_is_refused(kafka_server: KafkaServer) -> None:
    open_bus = KafkaBus(kafka_settings(kafka_server, allow_no_acls=False), "test", "1", prefix="never.")
    with pytest.raises(Invalid) as refused:
        await open_bus.probe()
    await open_bus.close()
    assert refused.value.code == "broker_open"


async def test_a_wrong_password_is_refused_and_never_told(
    kafka_server: KafkaServer, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    caplog.set_level(logging.DEBUG, "aiokafka")
    settings = secured(kafka_server, kafka_server.admin).model_copy(
        update={"password": SecretStr(CANARY), "deadline_s": 2.0}
    )
    bus = KafkaBus(settings, "test", "1", prefix="never.")
    errors: list[ClocheError] = []
    for ask in (bus.probe, lambda: bus.publish([event("a")])):
        with pytest.raises(ClocheError) as refused:
            await ask()
        errors.append(refused.value)
    said = [str(await bus.check())]
    await bus.close()
    assert [error.code for error in errors] == ["store_auth", "bus_unavailable"]
    for error in errors:
        chain: BaseException | None = error
        while chain is not None:
            said += [str(chain), repr(chain)]
            chain = chain.__cause__ or chain.__context__
    said += [record.getMessage() + str(record.__dict__) for record in caplog.records]
    assert not [text for text in said if CANARY in text]


async def test_a_service_may_write_its_own_facts_only(kafka_server: KafkaServer, bus: KafkaBus) -> None:
    mine = [replace(right, user=kafka_server.service) for right in rights(bus.prefix) if right.user == "registry"]
    await KafkaAdmin(bus).grant(mine)
    registry = KafkaBus(secured(kafka_server, kafka_server.service), "registry", "1", prefix=bus.prefix)
    try:
        assert "SASL_SSL, rights by topic" in await registry.probe()
        async with registry.subscribe("registry.test", [ENVIRONMENTS, RUNS]) as subscription:
            await registry.publish([event("a", topic=ENVIRONMENTS)])
            with pytest.raises(Unavailable) as refused:
                await registry.publish([event("b", topic=RUNS)])
            assert refused.value.code == "bus_forbidden"
            (poison,) = await take(subscription, 1)
            await registry.bury(DeadLetter("registry.test", poison, "Invalid: no", 1, "1.0"))
            (letter,) = await registry.letters()
            await registry.resend(letter.id)
            assert ids(await take(subscription, 1)) == ids([poison])
    finally:
        await registry.close()


# --- what strangers send


def binary(**changes: bytes | None) -> list[tuple[str, bytes]]:
    whole: dict[str, bytes | None] = dict(event("x").headers())
    return [(name, value) for name, value in (whole | changes).items() if value is not None]


POISON = {
    "bad JSON": (b"k", b"{nonsense", binary()),
    "wrong type": (b"k", b"[1, 2]", binary()),
    "huge": (b"k", b"x" * (4 * 1024 * 1024 - 2048), binary()),
    "missing headers": (b"k", b"{}", binary(ce_id=None)),
    "no headers": (b"k", b"{}", []),
    "tombstone": (b"k", None, binary()),
    "not UTF-8": (b"\xff\xfe", b"\xff", [("ce_id", b"\xff\xfe"), *binary(ce_id=None)]),
    "bad sequence": (b"k", b"{}", binary(ce_sequence=b"one")),
}


@pytest.mark.parametrize("kind", POISON)
async def test_poison_comes_with_its_bytes_and_a_reason_and_blocks_nobody(
    kafka_server: KafkaServer, bus: KafkaBus, kind: str
) -> None:
    key, value, headers = POISON[kind]
    await bus.publish([event("a", 1)])
    stranger = AIOKafkaProducer(bootstrap_servers=kafka_server.bootstrap, max_request_size=8 << 20)
    async with stranger:
        for partition in range(3):
            await stranger.send_and_wait(bus.prefix + RUNS, value, key=key, headers=headers, partition=partition)
    await bus.publish([event("a", 2)])
    async with bus.subscribe("g", [RUNS]) as subscription:
        found = await take(subscription, 5)
        poison = [one for one in found if one.event is None]
        assert ids(found) == [event("a", 1).id, event("a", 2).id]
        assert [one.raw for one in poison] == [value or b""] * 3
        assert all(one.reason for one in poison)
        for one in poison:
            await bus.bury(DeadLetter("g", one, one.reason, 1, "1.0"))
        await subscription.commit({one.source: one.offset + 1 for one in found})
    letters = await bus.letters()
    assert [letter.letter.delivery.raw for letter in letters] == [value or b""] * 3
    assert {letter.letter.delivery.source for letter in letters} == {one.source for one in poison}


async def test_what_the_client_itself_cannot_read_is_passed_one_by_one(
    kafka_server: KafkaServer, bus: KafkaBus
) -> None:
    await bus.publish([event(f"k{number}") for number in range(20)])
    async with AIOKafkaProducer(bootstrap_servers=kafka_server.bootstrap) as stranger:
        batch = stranger.create_batch()
        for name in ("odd-", "fine"):
            batch.append(key=b"k", value=b"{}", timestamp=None, headers=[(name, b"")])
        batch.close()
        odd = with_bytes(batch._build(), b"odd-", b"\xff\xfe\xff\xfe")
        batch._build = lambda: odd
        await (await stranger.send_batch(batch, bus.prefix + RUNS, partition=1))
    await bus.publish([event(f"l{number}") for number in range(20)])
    async with bus.subscribe("g", [RUNS]) as subscription:
        found = await take(subscription, 42)
        assert len(set(ids(found))) == 40
        assert [one.reason for one in found if one.event is None] == ["The names of its headers are not UTF-8."] * 2
        await subscription.commit({one.source: one.offset + 1 for one in found})
    async with bus.subscribe("g", [RUNS]) as subscription:
        assert await silence(subscription)


def with_bytes(batch: bytes, old: bytes, new: bytes) -> bytes:
    """Return a batch of messages with some bytes changed and its checksum made right again."""
    changed = bytes(batch).replace(old, new)
    return changed[:17] + calc_crc32c(memoryview(changed[21:])).to_bytes(4, "big") + changed[21:]


async def test_a_type_of_a_newer_version_is_an_event_like_others(bus: KafkaBus) -> None:
    await bus.publish([event("a", kind="cloche.RunQueued.v9")])
    async with bus.subscribe("g", [RUNS]) as subscription:
        (found,) = await take(subscription, 1)
    assert found.event is not None
    assert (found.event.type, found.event.name) == ("cloche.RunQueued.v9", "RunQueued")


async def test_a_letter_comes_again_to_its_group_and_to_no_other(bus: KafkaBus) -> None:
    await bus.publish([event("a")])
    async with bus.subscribe("g", [RUNS]) as mine, bus.subscribe("h", [RUNS]) as other:
        (poison,) = await take(mine, 1)
        assert ids(await take(other, 1)) == ids([poison])
        await bus.bury(DeadLetter("g", poison, "Invalid: no", 3, "1.0"))
        (letter,) = await bus.letters()
        assert (letter.letter.delivery, letter.letter.attempts) == (poison, 3)
        assert await bus.letter(letter.id) == letter
        assert await bus.letters(after=letter.id) == []
        await bus.resend(letter.id)
        (again,) = await take(mine, 1)
        assert again.event == poison.event
        assert await silence(other)
        await mine.commit({again.source: again.offset + 1})
    assert await bus.letters() == []
    with pytest.raises(NotFound):
        await bus.resend(letter.id)
    async with bus.subscribe("g", []) as mine:
        assert await silence(mine)


# --- topics that come later, delays


async def test_a_group_of_all_commands_hears_of_projects_made_later(bus: KafkaBus) -> None:
    await bus.provide(["cloche.commands.default"])
    async with bus.subscribe("g", ["cloche.commands.*"]) as subscription:
        await bus.publish([event("a", topic="cloche.commands.default")])
        (known,) = await take(subscription, 1)
        await subscription.commit({known.source: known.offset + 1})
        await bus.provide(["cloche.commands.later"])
        await bus.publish([event("b", topic="cloche.commands.later"), event("c", topic=RUNS)])
        (found,) = await take(subscription, 1)
        assert found.source.startswith("cloche.commands.later/")
        await bus.bury(DeadLetter("g", found, "Invalid: no", 1, "1.0"))
        assert await silence(subscription)


async def test_who_subscribes_waits_for_topics_that_are_not_there(kafka_server: KafkaServer) -> None:
    async with AsyncExitStack() as stack:
        prefix = f"late{id(stack):x}."
        early = KafkaBus(kafka_settings(kafka_server, deadline_s=1.0), "test", "1", prefix=prefix)
        stack.push_async_callback(early.close)
        with pytest.raises(Unavailable):
            async with early.tail([RUNS]):
                pass

        async def first() -> list[str]:
            async with early.subscribe("g", [RUNS]) as subscription:
                return ids(await take(subscription, 1, 40))

        waiting = asyncio.create_task(first())
        await asyncio.sleep(0.5)
        bus = KafkaBus(kafka_settings(kafka_server), "test", "2", prefix=prefix)
        stack.push_async_callback(bus.close)
        await bus.probe()
        await bus.publish([event("a")])
        assert await waiting == [event("a").id]
        await drop_topics(bus)


async def test_a_delay_holds_back_everything_but_who_may_do_what(kafka_server: KafkaServer) -> None:
    async with kafka_bus(kafka_server, delay=2.0) as bus, bus.subscribe("g", [RUNS, ACCESS]) as subscription:
        loop = asyncio.get_running_loop()
        started = loop.time()
        await bus.publish([event("a"), event("b", topic=ACCESS)])
        first, second = await take(subscription, 1), await take(subscription, 1)
        assert first[0].source.startswith(ACCESS)
        assert second[0].source.startswith(RUNS)
        assert 1.9 < loop.time() - started < 4


async def test_a_tail_knows_how_much_is_behind_it(bus: KafkaBus) -> None:
    await bus.publish([event("a", number) for number in range(1, 11)])
    async with bus.tail([RUNS], from_start=True) as tail:
        assert await tail.behind() == 10
        await take(tail, 10)
        assert await tail.behind() == 0


# --- groups


async def test_what_a_member_lost_is_not_committed_by_it(bus: KafkaBus) -> None:
    await bus.publish([event(f"k{number}") for number in range(30)])
    async with bus.subscribe("g", [RUNS]) as one:
        await take(one, 30)
        async with bus.subscribe("g", [RUNS]) as two:
            members = {one: Taken(), two: Taken()}
            sharing = [asyncio.create_task(follow(*member)) for member in members.items()]
            async with asyncio.timeout(20):
                while sum(taken.distinct for taken in members.values()) < 30:  # noqa: ASYNC110 - as in `until_all`
                    await asyncio.sleep(0.05)
            await asyncio.sleep(1)
            for task in sharing:
                task.cancel()
            await asyncio.gather(*sharing, return_exceptions=True)
            assert members[two].sources
            await one.commit(dict.fromkeys(members[two].sources, 1))
    async with bus.subscribe("g", [RUNS]) as late:
        assert await silence(late, 2)


async def test_the_partitions_of_a_member_that_died_go_to_the_other(kafka_server: KafkaServer, bus: KafkaBus) -> None:
    async with kafka_link(kafka_server) as link:
        settings = kafka_settings(kafka_server, bootstrap_servers=link.address)
        dying = KafkaBus(settings, "test", "2", prefix=bus.prefix, session_s=2.0)
        living = KafkaBus(kafka_settings(kafka_server), "test", "3", prefix=bus.prefix, session_s=2.0)
        taken = Taken()
        async with AsyncExitStack() as stack:
            lost = await stack.enter_async_context(dying.subscribe("g", [RUNS]))
            kept = await stack.enter_async_context(living.subscribe("g", [RUNS]))
            handling = asyncio.create_task(follow(kept, taken))
            await send(bus, [event(f"k{number}") for number in range(30)])
            unhandled = await take(lost, 1)
            link.silent = True
            await until_all(taken, 30, 30)
            handling.cancel()
            with pytest.raises(asyncio.CancelledError):
                await handling
            link.silent = False
            await lost.commit({one.source: one.offset + 1 for one in unhandled})
        await dying.close()
        await living.close()
        assert taken.in_order()


async def test_a_storm_of_rebalances_loses_nothing_and_keeps_the_order_of_keys(bus: KafkaBus) -> None:
    taken, total = Taken(), 400

    async def member(stays_s: float) -> None:
        async with bus.subscribe("g", [RUNS]) as subscription:
            with pytest.raises(TimeoutError):
                async with asyncio.timeout(stays_s):
                    await follow(subscription, taken)

    async def storm() -> None:
        while True:
            await member(0.3)

    async def load() -> None:
        for number in range(total // 8):
            await send(bus, [event(f"k{key}", number + 1) for key in range(8)])
            await asyncio.sleep(0.1)

    tasks = [asyncio.create_task(one) for one in (storm(), storm(), member(600))]
    try:
        await load()
        await until_all(taken, total, 30)
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
    assert taken.distinct == total
    assert taken.in_order()


async def test_a_message_whose_answer_was_lost_is_there_and_the_next_follows_it(
    kafka_server: KafkaServer, bus: KafkaBus
) -> None:
    async with kafka_link(kafka_server) as link:
        unlucky = KafkaBus(
            kafka_settings(kafka_server, bootstrap_servers=link.address, deadline_s=3.0), "test", "2", prefix=bus.prefix
        )
        await unlucky.publish([event("a", 1)])
        link.lose_answers = 3
        await send(unlucky, [event("a", 2)])
        await send(unlucky, [event("a", 3)])
        await unlucky.close()
        assert link.lost == 3
    async with bus.subscribe("g", [RUNS]) as subscription:
        found = ids(await take(subscription, 3))
    assert list(dict.fromkeys(found)) == [event("a", number).id for number in (1, 2, 3)]
