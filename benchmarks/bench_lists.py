"""`lists`: a page of environments and of runs at 1,000 and at 100,000."""

import asyncio
import http.client
import random
import time
from collections.abc import Iterator
from pathlib import Path

from benchmarks.cloche_server import Running, cloche
from benchmarks.core import Row, Series, scratch
from cloche_registry.domain import environments
from cloche_registry.rows import environment_rows
from cloche_runner.domain import runs
from cloche_runner.views import rows_of
from cloche_shared.adapters.sqlite.file import SqliteFile
from cloche_shared.contracts.definition import Definition, PythonSection
from cloche_shared.contracts.fact import Fact
from cloche_shared.contracts.facts import EnvironmentRegistered, RunCanceled, RunSubmitted
from cloche_shared.contracts.references import EnvironmentRef, References
from cloche_shared.contracts.runs import RunSpec
from cloche_shared.http.paging import encode_token
from cloche_shared.journal.commit import Actor, Commit, Origin, StreamId
from cloche_shared.ports.journal import Document
from cloche_shared.ports.views import Row as ListRow
from cloche_shared.store.hashing import definition_hash

FEW, MANY = 1_000, 100_000
REQUESTS = 400
WARM = 30
BATCH = 2_000
GOAL_MS, GOAL_RATIO = 50.0, 1.5
_ORIGIN = Origin(Actor("key:bench", "127.0.0.1", "bench"), "bench")


def rows() -> list[Row]:
    """Ask two servers for the first page and for pages anywhere in turn."""
    with scratch("lists") as folder:
        for count in (FEW, MANY):
            (folder / str(count)).mkdir()
            asyncio.run(_fill(folder / str(count), count))
        with cloche(folder / str(FEW)) as few, cloche(folder / str(MANY)) as many:
            found: list[Row] = []
            for kind in ("environments", "runs"):
                series = _pages(kind, {FEW: few, MANY: many})
                found.append(_row(kind, series))
            return found


def _row(kind: str, series: Series) -> Row:
    few, many = series.p99(str(FEW)), series.p99(str(MANY))
    what = f"p99 of a page of 50 {kind}, first and anywhere, at {MANY:,} (p50 {series.median(str(MANY)):.2f} ms)"
    goal = f"≤ {GOAL_MS:.0f} ms, ≤ {GOAL_RATIO} x"
    met = many <= GOAL_MS and many <= GOAL_RATIO * few
    return Row("lists", what, many, "ms", goal, REQUESTS, f"at {FEW:,}", few, met)


def _pages(kind: str, servers: dict[int, Running]) -> Series:
    series, seeded = Series(), random.Random(1)  # noqa: S311 - which pages are asked for
    connections = {count: http.client.HTTPConnection("127.0.0.1", one.port) for count, one in servers.items()}
    for number in range(WARM + REQUESTS):
        for count, connection in connections.items():
            place = None if number % 2 else seeded.randrange(100, count - 100)
            took = _page(connection, servers[count].token, kind, place)
            if number >= WARM:
                series.add(str(count), took)
    for connection in connections.values():
        connection.close()
    return series


def _page(connection: http.client.HTTPConnection, token: str, kind: str, place: int | None) -> float:
    path = f"/api/v1/{kind}?page_size=50"
    if place is not None:
        name = _name(place)
        sort = name if kind == "environments" else _time(place)
        path += f"&page_token={encode_token(f'/api/v1/{kind}', sort, name)}"
    began = time.perf_counter()
    connection.request("GET", path, headers={"Authorization": f"Bearer {token}"})
    answer = connection.getresponse()
    body = answer.read()
    took = (time.perf_counter() - began) * 1000
    assert answer.status == 200, body[:300]
    assert body.count(b'"created_at"') > 0, body[:300]
    return took


def _name(number: int) -> str:
    return f"bench-{number:06d}"


def _time(number: int) -> str:
    hours, rest = divmod(number, 3600)
    return f"2026-01-{1 + hours // 24:02d}T{hours % 24:02d}:{rest // 60:02d}:{rest % 60:02d}.000000Z"


async def _fill(home: Path, count: int) -> None:
    """Write what registering and running would have left: documents and list rows, made by the same functions.

    The documents go to no topic: what would consume them has had its effect.
    """
    store = await SqliteFile.open(home / "cloche.db")
    for service, made in (("registry", _environments(count)), ("runner", _runs(count))):
        documents: list[Document] = []
        listed: list[ListRow] = []
        for document, shown in made:
            documents.append(document)
            listed += shown
            if len(documents) >= BATCH:
                await store.journal(service).append_many(documents)
                await store.views(service).upsert(listed)
                documents, listed = [], []
        await store.journal(service).append_many(documents)
        await store.views(service).upsert(listed)
    await store.close()


def _environments(count: int) -> Iterator[tuple[Document, list[ListRow]]]:
    for number in range(count):
        definition = Definition(python=PythonSection(version="3.11", pip=(f"numpy==1.{number}", "pandas>=2")))
        fact = EnvironmentRegistered(
            environment_version=1,
            definition=definition,
            definition_hash=definition_hash(definition, platform="linux-x86_64"),
            python="3.11",
            created_at=_time(number),
            created_by="key:bench",
        )
        stream = StreamId("environment", "default", _name(number))
        state = environments.evolve(environments.Environment(), fact)
        yield _document(stream, (fact,), number), list(environment_rows(stream, state, 1))


def _runs(count: int) -> Iterator[tuple[Document, list[ListRow]]]:
    spec = RunSpec(script="train.py", arguments=("--epochs", "10"), snapshot="sha256:" + "0" * 64)
    references = References(environment=EnvironmentRef(name="bench-000001"))
    for number in range(count):
        facts: tuple[Fact, ...] = (
            RunSubmitted(spec=spec, references=references, at=_time(number), by="key:bench"),
            RunCanceled(at=_time(number)),
        )
        stream = StreamId("run", "default", _name(number))
        state = runs.Run()
        for fact in facts:
            state = runs.evolve(state, fact)
        yield _document(stream, facts, number), list(rows_of(stream, state, 1))


def _document(stream: StreamId, facts: tuple[Fact, ...], number: int) -> Document:
    return Document(stream.key(1), Commit(f"{stream.kind}-{number}", facts, _ORIGIN, _time(number)).body())
