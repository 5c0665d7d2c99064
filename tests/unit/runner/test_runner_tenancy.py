"""Whose code a node runs, as callers see it: refused where every node is another project's, else accepted."""

import pytest

from cloche_runner.handlers import Submission, service_origin
from cloche_shared.contracts.facts import ProjectCreated
from cloche_shared.contracts.files import FileEntry, Manifest
from cloche_shared.contracts.references import References
from cloche_shared.contracts.runs import RunSpec
from cloche_shared.errors import Forbidden
from cloche_shared.store.hashing import manifest_bytes
from tests.unit.runner_world import Client, Cluster, answering, replica

pytestmark = pytest.mark.looptime


def cluster(*, shared: bool) -> Cluster:
    made = Cluster(shared=shared)
    made.access.apply(ProjectCreated(), "team")
    return made


async def asked(client: Client, key: str = "") -> tuple[int, str]:
    """Submit a run of the project `team`; return status, and code or run id."""
    space = client.cluster.blobs.space("runner", "team")
    blob = await space.put_bytes(b"print()")
    files = (FileEntry(path="train.py", digest=blob.digest, size=blob.size),)
    snapshot = (await space.put_bytes(manifest_bytes(Manifest(files=files)))).digest
    fields = {"Cloche-Project": "team", **({"Idempotency-Key": key} if key else {})}
    answer = await client.post("/runs", {"script": "train.py", "snapshot": snapshot}, **fields)
    return answer.status_code, answer.json()["code" if answer.status_code >= 400 else "id"]


async def test_a_run_is_refused_where_every_node_is_another_projects_and_repeated_requests_are_not() -> None:
    there = cluster(shared=True)
    async with answering(there), replica(there) as client:
        status, run = await asked(client, "once")
        assert status == 202
        await client.ended(await client.submit())
        assert [node["open"] for node in (await client.get("/nodes"))["items"]] == [True]
        shown = await client.http.get("/nodes", headers={"Cloche-Project": "team"})
        assert [node["open"] for node in shown.json()["items"]] == [False]
        assert await asked(client) == (403, "isolation_required")
        assert await asked(client, "once") == (202, run)
        async with replica(there, "n2"):
            assert (await asked(client))[0] == 202


@pytest.mark.parametrize("several_processes", [False, True])
async def test_projects_share_a_node_where_that_is_said_and_in_the_one_process_of_one_user(
    several_processes: bool,
) -> None:
    there = cluster(shared=several_processes)
    async with answering(there), replica(there, shared=several_processes) as client:
        await client.ended(await client.submit())
        assert (await asked(client))[0] == 202


async def test_a_node_for_one_project_takes_no_run_of_another() -> None:
    there = cluster(shared=True)
    async with answering(there), replica(there, project="team") as client:
        assert (await asked(client))[0] == 202
        spec = RunSpec(script="train.py", snapshot=await client.snapshot("train.py"))
        with pytest.raises(Forbidden, match="another project"):
            await client.runner.commands.submit("default", spec, References(), Submission(service_origin("test")))
