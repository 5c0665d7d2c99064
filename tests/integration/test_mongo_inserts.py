"""What several callers insert at the same time goes in one command, and each hears of its own documents."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from functools import partial
from typing import Any

from motor.motor_asyncio import AsyncIOMotorClient
from pymongo.monitoring import CommandListener

from cloche_shared.adapters.mongo import MongoStore
from cloche_shared.ports.journal import Document, Verdict
from tests.environments.mongo import mongo_settings
from tests.environments.servers import MongoServer

CALLERS = 60
INSERTED, DUPLICATE, SKIPPED = Verdict.INSERTED, Verdict.DUPLICATE, Verdict.SKIPPED


class Commands(CommandListener):
    """Counts the documents of each command that inserts into the journal."""

    def __init__(self) -> None:
        self.sizes: list[int] = []

    def started(self, event: Any) -> None:
        if event.command_name == "insert" and event.command["insert"] == "journal":
            self.sizes.append(len(event.command["documents"]))

    def succeeded(self, event: Any) -> None:
        """Its start was counted."""

    failed = succeeded


@asynccontextmanager
async def store(server: MongoServer, commands: Commands | None = None) -> AsyncIterator[MongoStore]:
    listeners = [commands] if commands else []
    found = MongoStore(mongo_settings(server), "runner", client=partial(AsyncIOMotorClient, event_listeners=listeners))
    try:
        await found.probe()
        yield found
        await found.drop()
    finally:
        await found.close()


def document(name: str, body: bytes = b"{}") -> Document:
    return Document(f"run/default/{name}/{1:012d}", body, "cloche.runs", f"run/default/{name}")


async def test_callers_of_one_moment_share_commands(mongo_server: MongoServer) -> None:
    commands = Commands()
    async with store(mongo_server, commands) as found:
        told = await asyncio.gather(*(found.journal.append_many([document(f"r{n}")]) for n in range(CALLERS)))
        held = await found.journal.read("run/", limit=CALLERS + 1)
    assert told == [[INSERTED]] * CALLERS
    assert len(held) == sum(commands.sizes) == CALLERS
    assert len(commands.sizes) < CALLERS / 4


async def test_of_callers_with_one_key_one_has_it(mongo_server: MongoServer) -> None:
    async with store(mongo_server) as found:
        told = await asyncio.gather(
            *(found.journal.append_many([document(f"r{n // 3}", b"%d" % n)]) for n in range(CALLERS))
        )
        held = await found.journal.read("run/", limit=CALLERS)
    winners = [n for n, verdicts in enumerate(told) if verdicts == [INSERTED]]
    assert len(winners) == CALLERS // 3
    assert {int(one.body) for one in held} == set(winners)


async def test_a_key_that_is_held_stops_its_own_caller_only(mongo_server: MongoServer) -> None:
    async with store(mongo_server) as found:
        await found.journal.append_many([document("held")])
        stopped = [document("before"), document("held"), document("behind")]
        others = [[document(f"a{n}"), document(f"b{n}")] for n in range(CALLERS)]
        calls = [*others[:7], stopped, *others[7:]]
        told = await asyncio.gather(*(found.journal.append_many(call) for call in calls))
        behind = await found.journal.get(document("behind").key)
        held = await found.journal.read("run/", limit=1000)
    assert told.pop(7) == [INSERTED, DUPLICATE, SKIPPED]
    assert told == [[INSERTED, INSERTED]] * CALLERS
    assert behind is None
    assert len(held) == 2 * CALLERS + 2


async def test_a_caller_that_goes_takes_nobody_along(mongo_server: MongoServer) -> None:
    async with store(mongo_server) as found:
        calls = [asyncio.create_task(found.journal.append_many([document(f"r{n}")])) for n in range(CALLERS)]
        await asyncio.sleep(0)
        for call in calls[::2]:
            call.cancel()
        told = await asyncio.gather(*calls, return_exceptions=True)
    assert told[1::2] == [[INSERTED]] * (CALLERS // 2)
    assert all(isinstance(one, asyncio.CancelledError) for one in told[::2])
