"""Blobs over HTTP: verified while they arrive, a space of their own for each project."""

import hashlib
from collections.abc import AsyncIterator

import httpx2
import pytest

from cloche_shared.access import AccessTable, issue_key
from cloche_shared.adapters.memory_blobs import MemoryBlobStore
from cloche_shared.adapters.system_clock import SystemClock
from cloche_shared.adapters.system_random import SystemRandom
from cloche_shared.contracts.facts import ApiKeyIssued
from cloche_shared.http.app import AppParts, create_app
from cloche_shared.http.files import FILE_RULES, files_router
from cloche_shared.http.front import FrontParts
from cloche_shared.http.health import Version
from cloche_shared.http.policy import FrontPolicy

PEPPER = b"p" * 32
HELLO = "sha256:" + hashlib.sha256(b"hello").hexdigest()
OTHER = "sha256:" + hashlib.sha256(b"other").hexdigest()
PATH = "/api/v1/files/runs"


class World:
    """A files router over blobs in memory, and clients with keys."""

    def __init__(self) -> None:
        clock, self.random = SystemClock(), SystemRandom()
        self.access = AccessTable(PEPPER, clock)
        self.store = MemoryBlobStore()
        policy = FrontPolicy(hosts=frozenset({"cloche.test"}), routes=FILE_RULES)
        front = FrontParts(access=self.access, clock=clock, random=self.random, policy=policy)
        version = Version(name="cloche", version="0", installation="here")
        routes = files_router("runs", self.store, "runner", max_file_bytes=1000)
        self.app = create_app([routes], AppParts(version=version, front=front))

    def client(self, role: str = "submitter", project: str = "default") -> httpx2.AsyncClient:
        key = issue_key(self.random, PEPPER)
        data = {"key_id": key.key_id, "digest": key.digest, "role": role, "projects": (project,)}
        self.access.apply(ApiKeyIssued.model_validate(data))
        headers = {"authorization": f"Bearer {key.token}"}
        transport = httpx2.ASGITransport(app=self.app)
        return httpx2.AsyncClient(transport=transport, base_url="http://cloche.test", headers=headers)


@pytest.fixture
def world() -> World:
    return World()


@pytest.fixture
async def client(world: World) -> AsyncIterator[httpx2.AsyncClient]:
    async with world.client() as client:
        yield client


async def pieces(*data: bytes) -> AsyncIterator[bytes]:
    for piece in data:
        yield piece


async def test_a_blob_comes_back_as_it_was_sent(client: httpx2.AsyncClient) -> None:
    sent = await client.put(f"{PATH}/{HELLO}", content=pieces(b"hel", b"", b"lo"))
    assert (sent.status_code, sent.json()) == (201, {"digest": HELLO, "size": 5})
    got = await client.get(f"{PATH}/{HELLO}")
    assert (got.content, got.headers["content-length"]) == (b"hello", "5")
    assert got.headers["content-type"] == "application/octet-stream"
    assert got.headers["content-disposition"] == "attachment"
    assert got.headers["x-content-type-options"] == "nosniff"


async def test_sending_it_again_is_harmless(client: httpx2.AsyncClient) -> None:
    answers = [(await client.put(f"{PATH}/{HELLO}", content=b"hello")).status_code for _ in range(2)]
    assert answers == [201, 200]


async def test_the_empty_file_is_a_file(client: httpx2.AsyncClient) -> None:
    empty = "sha256:" + hashlib.sha256().hexdigest()
    assert (await client.put(f"{PATH}/{empty}", content=b"")).status_code == 201
    assert (await client.get(f"{PATH}/{empty}")).content == b""


async def test_only_those_that_are_absent_are_missing(client: httpx2.AsyncClient) -> None:
    await client.put(f"{PATH}/{HELLO}", content=b"hello")
    answer = await client.post(f"{PATH}/missing", json={"digests": [OTHER, HELLO]})
    assert answer.json() == {"missing": [OTHER]}


async def test_bytes_with_another_digest_are_refused_and_not_kept(world: World, client: httpx2.AsyncClient) -> None:
    answer = await client.put(f"{PATH}/{HELLO}", content=b"other")
    assert (answer.status_code, answer.json()["code"]) == (422, "digest_mismatch")
    assert (await client.get(f"{PATH}/{HELLO}")).status_code == 404
    assert world.store.space("runner", "default").content == {}


@pytest.mark.parametrize("content", [b"x" * 1001, pieces(*[b"x" * 100] * 11)], ids=["whole", "in pieces"])
async def test_a_file_over_the_limit_is_refused(
    client: httpx2.AsyncClient, content: bytes | AsyncIterator[bytes]
) -> None:
    answer = await client.put(f"{PATH}/{HELLO}", content=content)
    assert (answer.status_code, answer.json()["code"]) == (413, "too_large")


async def test_an_absent_blob_is_not_found(client: httpx2.AsyncClient) -> None:
    answer = await client.get(f"{PATH}/{HELLO}")
    assert (answer.status_code, answer.json()["code"]) == (404, "blob_not_found")


@pytest.mark.parametrize("digest", ["sha256:abc", "md5:" + "a" * 64, "..%2F..%2Fetc", "sha256:" + "A" * 64])
async def test_what_is_no_digest_is_refused(client: httpx2.AsyncClient, digest: str) -> None:
    for answer in (await client.get(f"{PATH}/{digest}"), await client.put(f"{PATH}/{digest}", content=b"")):
        assert answer.status_code in {404, 422}


@pytest.mark.parametrize(
    "body", [{}, {"digests": ["x"]}, {"digests": [HELLO], "more": 1}, {"digests": [HELLO] * 5001}, []]
)
async def test_a_question_that_is_not_as_documented_is_refused(client: httpx2.AsyncClient, body: object) -> None:
    assert (await client.post(f"{PATH}/missing", json=body)).status_code == 422


async def test_another_project_does_not_see_it(world: World, client: httpx2.AsyncClient) -> None:
    await client.put(f"{PATH}/{HELLO}", content=b"hello")
    async with world.client(project="other") as other:
        assert (await other.get(f"{PATH}/{HELLO}")).status_code == 404
        assert (await other.post(f"{PATH}/missing", json={"digests": [HELLO]})).json() == {"missing": [HELLO]}


async def test_a_viewer_reads_and_does_not_write(world: World, client: httpx2.AsyncClient) -> None:
    await client.put(f"{PATH}/{HELLO}", content=b"hello")
    async with world.client("viewer") as viewer:
        assert (await viewer.get(f"{PATH}/{HELLO}")).content == b"hello"
        assert (await viewer.put(f"{PATH}/{OTHER}", content=b"other")).status_code == 403
