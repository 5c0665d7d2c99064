"""Node files that refuse: outputs that cannot be collected end a run, and never run its code again."""

import asyncio
import errno
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import pytest

from cloche_runner.adapters.memory import MemoryAttemptFiles, MemoryNodeFiles
from cloche_runner.settings import RunnerSettings
from cloche_runner.wiring import NodePorts, build
from cloche_shared.adapters.memory_executor import Life
from cloche_shared.contracts.files import Manifest
from cloche_shared.errors import Failed, Unavailable
from cloche_shared.lifecycle import Lifecycle
from cloche_shared.ports.blobs import Blobs
from cloche_shared.ports.node_files import Budget, PartlyCollectedError
from tests.unit.runner_world import Cluster, answering, facts_of, replica

pytestmark = pytest.mark.looptime


class Faulty(Cluster):
    """A node whose files refuse to be collected: `refuse` says how, by the number of the try."""

    def __init__(self, refuse: Callable[[int, Manifest], None]) -> None:
        super().__init__()
        self.refuse = refuse
        self.tries = 0
        self.started = 0
        self.code = 0
        self.checkouts = 0
        self.full = 0
        """So many checkouts find the disk full."""
        self.away = 0
        """So many checkouts find the store away."""
        self.programs["a.py"] = self.program

    async def program(self, life: Life) -> int:
        self.started += 1
        life.begin()
        life.say(b"done\n")
        self.disks["n1"].write(life.spec.id, "outputs/good", b"1")
        return self.code

    def node(self, name: str) -> NodePorts:
        ports = super().node(name)
        return replace(ports, parts=replace(ports.parts, files=_Files(self, name)))


class _Files(MemoryNodeFiles):
    def __init__(self, cluster: Faulty, name: str) -> None:
        super().__init__(cluster.disks[name])
        self._cluster = cluster

    async def checkout(self, work_id: str, snapshot: Manifest, blobs: Blobs) -> Path:
        self._cluster.checkouts += 1
        if self._cluster.checkouts <= self._cluster.away:
            raise Unavailable("store_unavailable", "The store does not answer.")
        if self._cluster.checkouts <= self._cluster.full:
            raise Failed("disk_full", "There is no room left on the disk.")
        return await super().checkout(work_id, snapshot, blobs)

    async def collect(
        self, work_id: str, folders: Sequence[str], blobs: Blobs, budget: Budget | None = None
    ) -> Manifest:
        found = await super().collect(work_id, folders, blobs, budget)
        self._cluster.tries += 1
        self._cluster.refuse(self._cluster.tries, found)
        return found


def partly(_: int, found: Manifest) -> None:
    raise PartlyCollectedError(["outputs/bad: Permission denied"], found.files)


def defective(_: int, __: Manifest) -> None:
    raise ValueError("a defect")


def refusing(_: int, __: Manifest) -> None:
    raise Failed("too_large", "It is too large.")


def late(tries: int, _: Manifest) -> None:
    if tries < 20:
        raise Unavailable("store_unavailable", "The store does not answer.")


@pytest.mark.parametrize(
    ("refuse", "kept", "part"),
    [(partly, ["outputs/good"], "outputs/bad"), (defective, [], "ValueError"), (refusing, [], "too large")],
)
async def test_missing_outputs_fail_the_run_once_with_what_could_be_kept(
    refuse: Callable[[int, Manifest], None], kept: list[str], part: str
) -> None:
    cluster = Faulty(refuse)
    async with answering(cluster), replica(cluster) as client:
        shown = await client.ended(await client.submit("a.py"))
        assert (shown["status"], shown["problem"]["code"]) == ("Failed", "outputs_not_collected")
        assert part in shown["problem"]["message"]
        assert (shown["attempt"], cluster.started) == (1, 1)
        listed = await client.get(f"/runs/{shown['id']}/outputs")
        assert [file["path"] for file in listed["files"]] == kept
        assert (await client.http.get(f"/runs/{shown['id']}/log")).text == "done\n"


async def test_outputs_over_the_limit_fail_the_run_and_the_rest_is_kept() -> None:
    cluster = Cluster()

    async def program(life: Life) -> int:
        life.begin()
        for name, size in (("a", 600), ("b", 600), ("c", 300)):
            cluster.disks["n1"].write(life.spec.id, f"outputs/{name}", b"x" * size)
        cluster.disks["n1"].upload(life.spec.id, "d", b"x" * 200)
        return 0

    cluster.programs["a.py"] = program
    async with answering(cluster), replica(cluster, outputs_bytes=1000) as client:
        shown = await client.ended(await client.submit("a.py"))
        assert (shown["status"], shown["problem"]["code"]) == ("Failed", "outputs_too_large")
        assert "outputs/b: its 600 bytes do not fit" in shown["problem"]["message"]
        assert "1,000 bytes" in shown["problem"]["message"]
        listed = await client.get(f"/runs/{shown['id']}/outputs")
        assert sum(file["size"] for file in listed["files"]) <= 1000
        assert "outputs/a" in [file["path"] for file in listed["files"]]


async def test_what_the_users_code_did_wrong_weighs_more_than_missing_outputs() -> None:
    cluster = Faulty(partly)
    cluster.code = 3
    async with answering(cluster), replica(cluster) as client:
        shown = await client.ended(await client.submit("a.py"))
        assert (shown["problem"]["code"], cluster.started) == ("user_code_failed", 1)


async def test_a_store_that_does_not_answer_is_asked_until_it_does() -> None:
    cluster = Faulty(late)
    async with answering(cluster), replica(cluster) as client:
        shown = await client.ended(await client.submit("a.py"))
        assert (shown["status"], cluster.started, cluster.tries) == ("Completed", 1, 20)


async def test_a_run_whose_code_ended_is_not_run_again_when_its_process_record_is_gone() -> None:
    cluster = Faulty(lambda _, __: late(0, __))
    async with answering(cluster):
        async with replica(cluster) as client:
            run_id = await client.submit("a.py")
            await client.until(run_id, "Finalizing")
        cluster.machines["n1"].groups.clear()
        cluster.refuse = lambda _, __: None
        async with replica(cluster) as client:
            shown = await client.ended(run_id)
            assert (shown["status"], shown["problem"]["code"]) == ("Failed", "outputs_not_collected")
            assert [file["path"] for file in (await client.get(f"/runs/{run_id}/outputs"))["files"]] == ["outputs/good"]
    assert cluster.started == 1
    assert facts_of(cluster, run_id).count("AttemptLost") == 0


@pytest.mark.parametrize(("full", "outcome"), [(2, ("Completed", 3)), (3, ("Failed", 3))])
async def test_a_full_disk_of_the_node_is_a_lost_attempt(full: int, outcome: tuple[str, int]) -> None:
    cluster = Faulty(lambda _, __: None)
    cluster.full = full
    async with answering(cluster), replica(cluster) as client:
        shown = await client.ended(await client.submit("a.py"))
        assert (shown["status"], shown["attempt"]) == outcome
        if full > 2:
            assert shown["problem"]["cause"] == "disk_full"


async def test_outputs_on_a_disk_that_stays_full_fail_the_run_after_a_while() -> None:
    def full(_: int, __: Manifest) -> None:
        raise Unavailable("disk_full", "There is no room left on the disk.")

    cluster = Faulty(full)
    async with answering(cluster), replica(cluster, room_wait=60.0) as client:
        run_id = await client.submit("a.py")
        await client.until(run_id, "Finalizing")
        why = await client.get(f"/runs/{run_id}/why")
        assert (why["waits_for"], "disk is full" in why["reason"]) == ("room", True)
        before = asyncio.get_running_loop().time()
        shown = await client.ended(run_id)
        assert 50 < asyncio.get_running_loop().time() - before < 70
        assert (shown["status"], shown["problem"]["code"], cluster.started) == ("Failed", "disk_full", 1)
        assert shown["left_out"] == ["its outputs: there is no room"]
        assert (await client.http.get(f"/runs/{run_id}/log")).text == "done\n"
        assert (await client.get(f"/runs/{run_id}/why"))["waits_for"] == "nothing"


async def test_outputs_are_stored_when_there_is_room_in_time() -> None:
    def full(tries: int, _: Manifest) -> None:
        if tries < 5:
            raise Unavailable("disk_full", "There is no room left on the disk.")

    cluster = Faulty(full)
    async with answering(cluster), replica(cluster, room_wait=60.0) as client:
        shown = await client.ended(await client.submit("a.py"))
        assert (shown["status"], shown["left_out"], cluster.started) == ("Completed", [], 1)


class _Unlisted(MemoryAttemptFiles):
    tries = 0

    async def present(self) -> list[str]:
        self.tries += 1
        if self.tries == 1:
            raise OSError(errno.EIO, "Input/output error")
        return await super().present()


async def test_cleaning_goes_on_after_an_error_of_the_disk() -> None:
    cluster = Cluster()
    async with answering(cluster), replica(cluster) as client:
        await client.ended(await client.submit("a.py"))
    cluster.disks["n1"].log("run-left-1", op="log")
    files = _Unlisted(cluster.disks["n1"])
    ports = cluster.node("n1")
    runner = build(
        cluster.platform(), RunnerSettings(node="n1"), replace(ports, parts=replace(ports.parts, attempts=files))
    )
    async with Lifecycle() as life:
        await runner.start(life)
        await asyncio.sleep(100)
        life.stop()
        assert (files.tries, await files.present()) == (2, [])


async def test_a_store_that_is_away_while_an_attempt_is_prepared_costs_time_and_no_attempt() -> None:
    cluster = Faulty(lambda _, __: None)
    cluster.away = 40
    async with answering(cluster), replica(cluster) as client:
        shown = await client.ended(await client.submit("a.py"))
    assert (shown["status"], shown["attempt"], cluster.checkouts) == ("Completed", 1, 41)


async def test_a_store_that_stays_away_loses_the_attempt() -> None:
    cluster = Faulty(lambda _, __: None)
    cluster.away = 10_000
    async with answering(cluster), replica(cluster) as client:
        shown = await client.ended(await client.submit("a.py"))
    assert (shown["status"], shown["problem"]["code"]) == ("Failed", "infrastructure_failure")
