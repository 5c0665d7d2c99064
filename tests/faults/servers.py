"""A broker, a document store and an S3 server of a cluster's own, which can be killed, held and cut off.

The services reach them through links, so that an answer can be lost on its way although the server did
what it was asked. The links serve from a thread of their own.
"""

import asyncio
import threading
from collections.abc import Callable, Iterator
from contextlib import AsyncExitStack, contextmanager
from dataclasses import dataclass, field
from typing import Any, Final, cast

import pytest

from tests.e2e.topology import eventually
from tests.environments import engine
from tests.environments.box import LABEL, OWNER, listens
from tests.environments.kafka_link import KafkaLink, kafka_link
from tests.environments.owners import this_owner
from tests.environments.servers import KafkaServer, MongoServer, S3Server, Server
from tests.environments.starts import HELLO, VERSIONS
from tests.environments.tcp_proxy import TcpProxy

ROLES: Final = ("kafka", "mongo", "s3")
RESTART_S: Final = 180.0
"""A broker begins within seconds, unless the machine is busy with other things."""
DATA: Final = "/var/lib/kafka/data"
"""The broker's folder, in a volume of its own."""


@dataclass
class Servers:
    """The three servers and the links to them. `faults` counts what was done to them."""

    kafka: KafkaServer
    mongo: MongoServer
    s3: S3Server
    kafka_link: KafkaLink
    mongo_link: TcpProxy
    s3_link: TcpProxy
    faults: dict[str, int] = field(default_factory=dict)

    def kill(self, role: str) -> None:
        """End a server as a crash would, with all that it had not written."""
        self.count(f"{role} killed")
        self._handle(role).kill()

    def start(self, role: str) -> None:
        """Start a server that was killed, on what it had written; returns when it answers."""
        self._handle(role).start()
        where, question = self._question(role)
        eventually(lambda: listens(where, question), f"{role} answers again", seconds=RESTART_S)

    def pause(self, role: str) -> None:
        """Hold a server: connections stay, and nothing is answered."""
        self.count(f"{role} paused")
        self._handle(role).pause()

    def resume(self, role: str) -> None:
        self._handle(role).unpause()

    @contextmanager
    def down(self, role: str) -> Iterator[None]:
        """Leave a server dead meanwhile."""
        self.kill(role)
        try:
            yield
        finally:
            self.start(role)

    @contextmanager
    def held(self, role: str) -> Iterator[None]:
        """Leave a server paused meanwhile."""
        self.pause(role)
        try:
            yield
        finally:
            self.resume(role)

    def wipe_broker(self) -> None:
        """Let the broker die and begin again with an empty folder, as after the loss of its disk."""
        self.kill("kafka")
        self.count("broker wiped")
        handle = self._handle("kafka")
        engine.client().containers.run(
            handle.image.id,
            ["-c", f"find {DATA} -mindepth 1 -delete"],
            entrypoint="sh",
            volumes_from=[handle.id],
            network_mode="none",
            labels={LABEL: "wipe", OWNER: this_owner()},
            remove=True,
        )
        self.start("kafka")

    @contextmanager
    def losing_produced(self, times: int) -> Iterator[Callable[[], int]]:
        """Let the broker's answers to so many messages be lost; yields how many were."""
        before, self.kafka_link.lose_answers = self.kafka_link.lost, times
        try:
            yield lambda: self.kafka_link.lost - before
        finally:
            self.kafka_link.lose_answers = 0
            self.count("answers of the broker lost", self.kafka_link.lost - before)

    @contextmanager
    def losing_written(self, role: str, word: bytes, every: int) -> Iterator[Callable[[], int]]:
        """Let each answer to every so many-th request with a word in it be lost; yields how many were."""
        link, asked = {"mongo": self.mongo_link, "s3": self.s3_link}[role], 0
        before = link.dropped

        def drop(request: bytes) -> bool:
            nonlocal asked
            asked += word in request
            return word in request and asked % every == 0

        link.drop_answer = drop
        try:
            yield lambda: link.dropped - before
        finally:
            link.drop_answer = lambda _request: False
            self.count(f"answers of {role} lost", link.dropped - before)

    def count(self, fault: str, times: int = 1) -> None:
        self.faults[fault] = self.faults.get(fault, 0) + times

    def settings(self) -> dict[str, str]:
        """Return the variables that lead services to the links."""
        return {
            "CLOCHE_KAFKA__BOOTSTRAP_SERVERS": self.kafka_link.address,
            "CLOCHE_KAFKA__SECURITY_PROTOCOL": "PLAINTEXT",
            "CLOCHE_KAFKA__ALLOW_NO_ACLS": "true",
            "CLOCHE_MONGO__HOSTS": self.mongo_link.host,
            "CLOCHE_S3__ENDPOINT": f"http://{self.s3_link.host}",
        }

    def _question(self, role: str) -> tuple[int, bytes]:
        """Return a server's port and what it answers when it is there: the port itself opens before."""
        port = {"kafka": self.kafka.bootstrap, "mongo": self.mongo.host, "s3": self.s3.endpoint}[role]
        question = {"kafka": VERSIONS, "mongo": HELLO, "s3": b"GET / HTTP/1.0\r\n\r\n"}[role]
        return int(port.rpartition(":")[2]), question

    def _handle(self, role: str) -> Any:
        return cast("Server", getattr(self, role)).handle()


@contextmanager
def own_servers() -> Iterator[Servers]:
    """Start three servers and the links to them."""
    from tests.environments import places, sharing  # noqa: PLC0415  # half a second that collecting need not pay

    try:
        with sharing.private("kafka") as kafka, sharing.private("mongo") as mongo, sharing.private("s3") as s3:
            found = cast("KafkaServer", kafka), cast("MongoServer", mongo), cast("S3Server", s3)
            with _linked(*found) as servers:
                yield servers
    except places.NotPossible as error:
        pytest.skip(str(error))


@contextmanager
def _linked(kafka: KafkaServer, mongo: MongoServer, s3: S3Server) -> Iterator[Servers]:
    loop, ready, box = asyncio.new_event_loop(), threading.Event(), list[Servers]()
    end = asyncio.Event()

    async def serve() -> None:
        async with AsyncExitStack() as stack:
            links = (
                await stack.enter_async_context(kafka_link(kafka)),
                await stack.enter_async_context(TcpProxy(mongo.host).open()),
                await stack.enter_async_context(TcpProxy(s3.endpoint).open()),
            )
            box.append(Servers(kafka, mongo, s3, *links))
            ready.set()
            await end.wait()

    thread = threading.Thread(target=lambda: loop.run_until_complete(serve()), name="links", daemon=True)
    thread.start()
    ready.wait()
    try:
        yield box[0]
    finally:
        loop.call_soon_threadsafe(end.set)
        thread.join()
        loop.close()
