"""`versions`: one version of an environment, read by name and number, among 1,000 versions and among 100,000.

Each environment has 100 versions.
"""

import asyncio
import http.client
import random
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from benchmarks.cloche_server import Running, cloche
from benchmarks.core import Row, Series, scratch
from cloche_shared.adapters.sqlite.file import SqliteFile
from cloche_shared.contracts.definition import Definition, PythonSection
from cloche_shared.contracts.facts import EnvironmentRegistered
from cloche_shared.journal.commit import Actor, Commit, Origin, StreamId
from cloche_shared.ports.journal import Document
from cloche_shared.store.hashing import definition_hash

FEW, MANY = 1_000, 100_000
EACH: Final = 100
REQUESTS = 1_000
WARM = 50
BATCH = 2_000
GOAL_MS, GOAL_RATIO = 10.0, 1.5
_ORIGIN = Origin(Actor("key:bench", "127.0.0.1", "bench"), "bench")


def rows() -> list[Row]:
    """Ask two servers for versions anywhere in turn, most of them of environments that nobody asked for before."""
    with scratch("versions") as folder:
        for count in (FEW, MANY):
            (folder / str(count)).mkdir()
            asyncio.run(_fill(folder / str(count), count))
        with cloche(folder / str(FEW)) as few, cloche(folder / str(MANY)) as many:
            series = _asked({FEW: few, MANY: many})
    at_few, at_many = series.p99(str(FEW)), series.p99(str(MANY))
    what = f"p99 of one version, anywhere, at {MANY:,} (p50 {series.median(str(MANY)):.2f} ms)"
    goal = f"≤ {GOAL_MS:.0f} ms, ≤ {GOAL_RATIO} x"
    met = at_many <= GOAL_MS and at_many <= GOAL_RATIO * at_few
    return [Row("versions", what, at_many, "ms", goal, REQUESTS, f"at {FEW:,}", at_few, met)]


def _asked(servers: dict[int, Running]) -> Series:
    series, seeded = Series(), random.Random(1)  # noqa: S311 - which versions are asked for
    connections = {count: http.client.HTTPConnection("127.0.0.1", one.port) for count, one in servers.items()}
    for number in range(WARM + REQUESTS):
        for count, connection in connections.items():
            took = _version(connection, servers[count].token, seeded.randrange(count))
            if number >= WARM:
                series.add(str(count), took)
    for connection in connections.values():
        connection.close()
    return series


def _version(connection: http.client.HTTPConnection, token: str, place: int) -> float:
    name, number = _name(place), place % EACH + 1
    path = f"/api/v1/environments/{name}?version={number}"
    began = time.perf_counter()
    connection.request("GET", path, headers={"Authorization": f"Bearer {token}"})
    answer = connection.getresponse()
    body = answer.read()
    took = (time.perf_counter() - began) * 1000
    assert answer.status == 200, body[:300]
    assert f'"name":"{name}","version":"{number}"'.encode() in body, body[:300]
    return took


async def _fill(home: Path, count: int) -> None:
    """Write what registering would have left; the documents go to no topic, and the list keeps no row of it."""
    store = await SqliteFile.open(home / "cloche.db")
    documents: list[Document] = []
    for document in _documents(count):
        documents.append(document)
        if len(documents) >= BATCH:
            await store.journal("registry").append_many(documents)
            documents = []
    await store.journal("registry").append_many(documents)
    await store.close()


def _documents(count: int) -> Iterator[Document]:
    for place in range(count):
        number = place % EACH + 1
        definition = Definition(python=PythonSection(version="3.11", pip=(f"numpy==1.{place}", "pandas>=2")))
        fact = EnvironmentRegistered(
            environment_version=number,
            definition=definition,
            definition_hash=definition_hash(definition, platform="linux-x86_64"),
            python="3.11",
            created_at="2026-01-01T00:00:00.000000Z",
            created_by="key:bench",
        )
        commit = Commit(f"bench-{place}", (fact,), _ORIGIN, fact.created_at)
        yield Document(StreamId("environment", "default", _name(place)).key(number), commit.body())


def _name(place: int) -> str:
    return f"bench-{place // EACH:04d}"
