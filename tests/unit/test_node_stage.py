"""Scoring workers of this node: folders, adoption and logs, on executor and files in memory."""

import asyncio
import socket
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest

from cloche_deployer.adapters.node_stage import LOG_KEPT, NodeParts, NodeStage, NodeWorkers
from cloche_deployer.domain import Revision
from cloche_shared.adapters.memory_blobs import MemoryBlobs, MemoryBlobStore
from cloche_shared.adapters.memory_executor import Life, MemoryExecutor, MemoryMachine, Program
from cloche_shared.adapters.memory_node_files import MemoryNodeFiles
from cloche_shared.adapters.system_random import SystemRandom
from cloche_shared.contracts.definition import Lock
from cloche_shared.contracts.files import FileEntry, Manifest
from cloche_shared.contracts.references import References
from cloche_shared.contracts.services import ServiceSpec
from cloche_shared.journal.commit import StreamId
from cloche_shared.ports.executor import ProcessSpec

SERVICE = StreamId("service", "default", "svc")


def serve(_spec: ProcessSpec) -> Program:
    async def live(life: Life) -> int:
        life.begin()
        life.say(b"started\n" + b"x" * 3 * LOG_KEPT + b"\nlast line\n")
        await asyncio.sleep(3600)
        return 0

    return live


@dataclass
class Node:
    """One machine, and the stage of its present owner."""

    machine: MemoryMachine
    files: MemoryNodeFiles
    store: MemoryBlobStore
    sockets: Path
    revision: Revision

    def owner(self) -> tuple[NodeStage, MemoryExecutor]:
        executor = MemoryExecutor(self.machine)
        env = {"PATH": "/usr/bin", "HOME": "/node"}
        parts = NodeParts(executor, self.files, self.store, SystemRandom(), Path("/rt"), self.sockets, env, 60.0)
        return NodeStage(parts), executor

    async def prepared(self, stage: NodeStage) -> NodeWorkers:
        await stage.sweep({(SERVICE, 1, 1)})
        return await stage.prepare(SERVICE, 1, self.revision)


async def stored(space: MemoryBlobs, data: bytes) -> str:
    return (await space.put_bytes(data)).digest


@pytest.fixture
def sockets() -> Iterator[Path]:
    with TemporaryDirectory(prefix="ns-", dir="/tmp") as folder:
        yield Path(folder)


@pytest.fixture
async def node(sockets: Path) -> Node:
    store = MemoryBlobStore()
    code, locks = store.space("deployer", "default"), store.space("builder", "public")
    entry = FileEntry(path="score.py", digest=await stored(code, b"pass"), size=4)
    lock = Lock(definition_hash="e1:0", python="3.11.7", platform="any", artefacts=(), pylock="")
    revision = Revision(
        number=1,
        spec=ServiceSpec(
            entry_script="score.py", snapshot=await stored(code, Manifest(files=(entry,)).model_dump_json().encode())
        ),
        references=References(),
        stage="deployed",
        lock_digest=await stored(locks, lock.model_dump_json().encode()),
        scope="public",
    )
    return Node(MemoryMachine(serve), MemoryNodeFiles(), store, sockets, revision)


def listening(path: str) -> socket.socket:
    listener = socket.socket(socket.AF_UNIX)
    listener.bind(path)
    return listener


async def test_workers_are_adopted_in_the_folders_that_they_live_in(node: Node) -> None:
    stage, executor = node.owner()
    worker = await (await node.prepared(stage)).start()
    spec = node.machine.groups[worker.id].spec
    folder = spec.cwd.name
    node.files.files[folder]["written-by-the-script"] = b"1"
    with listening(worker.socket):
        executor.disconnect()
        workers = await node.prepared(node.owner()[0])
        assert [one.id for one in await workers.adopt()] == [worker.id]
        assert "written-by-the-script" in node.files.files[folder]
        await workers.clear()
    assert not node.files.files


async def test_folders_are_fresh_where_nobody_lives_in_them(node: Node) -> None:
    workers = await node.prepared(node.owner()[0])
    for files in node.files.files.values():
        files["left"] = b"1"
    workers = await node.prepared(node.owner()[0])
    assert not await workers.adopt()
    assert not any("left" in files for files in node.files.files.values())


async def test_a_worker_whose_socket_is_gone_is_ended_at_once(node: Node) -> None:
    stage, executor = node.owner()
    worker = await (await node.prepared(stage)).start()
    executor.disconnect()
    workers = await node.prepared(node.owner()[0])
    assert not await workers.adopt()
    assert worker.id not in node.machine.groups


async def test_each_revision_has_a_home_of_its_own_and_ends_when_it_is_orphaned(node: Node) -> None:
    worker = await (await node.prepared(node.owner()[0])).start()
    spec = node.machine.groups[worker.id].spec
    assert {spec.env["HOME"], spec.env["TMPDIR"]}.isdisjoint({"/node", str(spec.cwd)})
    assert {Path(spec.env["HOME"]).name, Path(spec.env["TMPDIR"]).name} <= set(node.files.files)
    assert spec.limits.orphan_after == 60.0


async def test_the_end_of_a_long_log_is_read_without_its_beginning(node: Node) -> None:
    workers = await node.prepared(node.owner()[0])
    worker = await workers.start()
    tail = await workers.tail()
    assert (len(tail), tail.endswith(b"x\nlast line\n")) == (LOG_KEPT, True)
    await worker.stop(grace=0.0)
    assert workers.log() == tail
