"""`motor`: the journal on motor and on pymongo's own asynchronous client, side by side, as information."""

import asyncio
import time
from collections.abc import Awaitable, Callable
from statistics import median

from motor.motor_asyncio import AsyncIOMotorClient
from pymongo import AsyncMongoClient

from benchmarks.cluster.servers import document_store
from benchmarks.core import Row
from cloche_shared.adapters.mongo import MongoStore
from cloche_shared.ports.journal import Document
from tests.environments.mongo import mongo_settings
from tests.environments.servers import MongoServer

ROUNDS = 3
TASKS = 16
DOCUMENTS = 800
BODY = b'{"id":"0","facts":[],"at":"2026-01-01T00:00:00Z","filling":"%s"}' % (b"x" * 500)
CLIENTS: dict[str, Callable[..., object]] = {"motor": AsyncIOMotorClient, "pymongo": AsyncMongoClient}
STEPS = ("insert", "get", "mark as sent")


def rows() -> list[Row]:
    """Write, read and mark the same documents over both clients in turn."""
    seen: dict[tuple[str, str], list[float]] = {}
    with document_store() as server:
        for number in range(ROUNDS):
            for client in CLIENTS if number % 2 == 0 else reversed(CLIENTS):
                found = asyncio.run(_rates(server, CLIENTS[client]))
                for step, rate in zip(STEPS, found, strict=True):
                    seen.setdefault((client, step), []).append(rate)
    return [
        Row(
            "motor", f"{step}, documents/s from {TASKS} tasks on {server.product}, through motor",
            median(seen["motor", step]), "/s", "", ROUNDS, "pymongo's own", median(seen["pymongo", step]),
        )
        for step in STEPS
    ]  # fmt: skip


async def _rates(server: MongoServer, client: Callable[..., object]) -> list[float]:
    store = MongoStore(mongo_settings(server), "runner", client=client)
    try:
        await store.probe()
        journal, documents = store.journal, [_document(number) for number in range(DOCUMENTS)]
        rates = [
            await _rate(lambda one: journal.append_many([one]), documents),
            await _rate(lambda one: journal.get(one.key), documents),
        ]
        began = time.perf_counter()
        await journal.mark_sent([one.key for one in documents])
        rates.append(DOCUMENTS / (time.perf_counter() - began))
        await store.drop()
    finally:
        await store.close()
    return rates


def _document(number: int) -> Document:
    return Document(f"run/default/{number}/{1:012d}", BODY, "cloche.runs", f"run/default/{number}")


async def _rate(action: Callable[[Document], Awaitable[object]], documents: list[Document]) -> float:
    left = iter(documents)

    async def work() -> None:
        for one in left:
            await action(one)

    began = time.perf_counter()
    await asyncio.gather(*(work() for _ in range(TASKS)))
    return len(documents) / (time.perf_counter() - began)
