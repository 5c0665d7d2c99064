"""What a node gave to an attempt stays that attempt's, whoever else schedules, sweeps or declares nodes lost."""

import pytest

from cloche_runner.domain.nodes import Claimant, decide_allocate, decide_join, decide_lost
from cloche_runner.domain.run_decisions import decide_claim
from cloche_runner.handlers import Answers, Submission, service_origin
from cloche_runner.settings import RunnerSettings
from cloche_runner.wiring import Runner, build
from cloche_shared.contracts.facts import ImageProvided, ReferencesResolved
from cloche_shared.contracts.files import FileEntry, Manifest
from cloche_shared.contracts.references import References
from cloche_shared.contracts.runs import Resources, RunSpec
from cloche_shared.journal.commit import StreamId
from cloche_shared.store.hashing import lock_bytes, lock_digest, manifest_bytes
from tests.unit.runner_world import LOCK, OFFER, RESOLVED, Cluster, answering, facts_of, replica, sleeping

pytestmark = pytest.mark.looptime

WANTED = Resources(cpus=1.0, gpus=1)
PROVIDED = ImageProvided(
    definition_hash=LOCK.definition_hash,
    lock_digest=lock_digest(LOCK),
    scope="public",
    target="process",
    image="cloche/x",
    reused=True,
    build_id="public-b1",
)


async def queued_run(cluster: Cluster, runner: Runner, wanted: Resources) -> StreamId:
    """Submit a run and give it both answers, so that it waits for a node."""
    await cluster.blobs.space("builder", "public").put_bytes(lock_bytes(LOCK))
    space = cluster.blobs.space("runner", "default")
    blob = await space.put_bytes(b"print()")
    files = (FileEntry(path="a.py", digest=blob.digest, size=blob.size),)
    snapshot = (await space.put_bytes(manifest_bytes(Manifest(files=files)))).digest
    spec = RunSpec(script="a.py", snapshot=snapshot, resources=wanted)
    changed = await runner.commands.submit("default", spec, References(), Submission(service_origin("test")))
    answers = Answers(runner.core)
    await answers.resolved(changed.stream, service_origin("test"), ReferencesResolved(environment=RESOLVED))
    await answers.provided(changed.stream, service_origin("test"), PROVIDED)
    return changed.stream


async def test_a_refused_claim_leaves_the_allocation_to_the_attempt_that_another_replica_claimed() -> None:
    cluster = Cluster(shared=True)
    quick, slow = (build(cluster.platform(), RunnerSettings(node="")) for _ in range(2))
    await quick.core.change_node("n1", service_origin(), lambda node: decide_join(node, OFFER, ""))
    stream = await queued_run(cluster, quick, WANTED)
    holder = f"{stream}#1"
    await slow.core.see(stream)
    claimants = [Claimant(holder, WANTED)]
    given = await quick.core.change_node("n1", service_origin(), lambda node: decide_allocate(node, claimants))
    assert holder in given.state.held
    await quick.core.change_node("n1", service_origin(), decide_lost)
    await quick.core.change_node("n1", service_origin(), lambda node: decide_join(node, OFFER, ""))
    await quick.core.change_run(stream, service_origin(), lambda run: decide_claim(run, "n1", 1, ("GPU-a",)))
    await slow.core.see(slow.core.nodes.id("-", "n1"))
    await slow.scheduling.round()
    node = (await quick.core.nodes.get(quick.core.nodes.id("-", "n1"))).state
    assert node.held[holder].gpus == ("GPU-a",)
    assert node.free_gpus == ()


async def test_a_claim_whose_allocation_is_gone_is_lost_before_a_process_begins() -> None:
    cluster = Cluster(shared=True)
    async with replica(cluster, "n1") as client:
        runner = client.runner
        stream = await queued_run(cluster, runner, Resources(cpus=1.0, gpus=2))
        await runner.core.change_run(stream, service_origin(), lambda run: decide_claim(run, "n1", 1, ("GPU-a",)))
        await client.until(stream.id, "Queued")
        assert "AttemptLost" in facts_of(cluster, stream.id)
        assert "RunStarted" not in facts_of(cluster, stream.id)
        assert cluster.machines["n1"].groups == {}


async def test_a_node_that_returns_ends_what_it_ran_when_it_was_declared_lost() -> None:
    cluster = Cluster(shared=True)
    cluster.programs["a.py"] = sleeping(10)
    async with answering(cluster):
        async with replica(cluster, "n1") as client:
            run_id = await client.submit("a.py", resources={"gpus": 1})
            await client.until(run_id, "Running")
            [group] = cluster.machines["n1"].groups.values()
        async with replica(cluster, "") as observer:
            # it dies before it takes the run away
            await observer.runner.core.change_node("n1", service_origin(), decide_lost)
        async with replica(cluster, "n1") as client:
            assert group.exit is not None
            shown = await client.ended(run_id)
            assert (shown["status"], shown["attempt"]) == ("Completed", 2)
