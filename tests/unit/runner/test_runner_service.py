"""The runner as its clients and the other services meet it: the whole way, bad input, endings, cancel."""

import asyncio

import pytest

from cloche_shared.adapters.memory_executor import CannotStart, Life, Program
from cloche_shared.contracts.files import FileEntry, Manifest
from cloche_shared.ports.executor import ProcessSpec
from cloche_shared.store.hashing import manifest_bytes
from tests.unit.runner_world import (
    CHAIN,
    GIB,
    Client,
    Cluster,
    facts_of,
    replica,
    sleeping,
)

pytestmark = pytest.mark.looptime


# --- the whole way


async def test_a_run_goes_through_its_chain_and_leaves_nothing_behind(client: Client, cluster: Cluster) -> None:
    run_id = await client.submit(arguments=["--fast"], tags={"a": "b"})
    shown = await client.ended(run_id)
    assert shown["status"] == "Completed", shown
    assert shown["exit"]["code"] == 0
    assert shown["environment"]["version"] == "2"
    assert facts_of(cluster, run_id) == CHAIN
    await asyncio.sleep(1)
    assert cluster.machines["n1"].groups == {}
    assert cluster.disks["n1"].work == {}
    assert cluster.disks["n1"].journals == {}
    [node] = (await client.get("/nodes"))["items"]
    assert (node["free_cpus"], node["holders"]) == (2.0, [])
    [listed] = (await client.get("/runs?status=Completed"))["items"]
    assert listed["id"] == run_id


async def test_every_answer_may_come_twice(client: Client, cluster: Cluster) -> None:
    cluster.copies = 2
    run_id = await client.submit()
    await client.ended(run_id)
    assert facts_of(cluster, run_id) == CHAIN


# --- bad input


async def test_a_reference_that_does_not_exist_fails_the_run(client: Client, cluster: Cluster) -> None:
    cluster.resolves = False
    shown = await client.ended(await client.submit())
    assert (shown["status"], shown["problem"]["code"]) == ("Failed", "environment_not_found")


async def test_an_environment_that_cannot_be_built_fails_the_run(client: Client, cluster: Cluster) -> None:
    cluster.builds = False
    shown = await client.ended(await client.submit())
    assert (shown["status"], shown["problem"]["code"]) == ("Failed", "solver_conflict")


async def test_a_script_that_is_not_in_the_snapshot_is_refused_with_near_names(client: Client) -> None:
    snapshot = await client.snapshot("train.py", "data.csv")
    answer = await client.post("/runs", {"script": "trian.py", "snapshot": snapshot})
    assert (answer.status_code, answer.json()["code"]) == (422, "script_not_found")
    assert answer.json()["near"] == ["train.py"]


async def test_a_snapshot_whose_blobs_are_missing_is_refused(client: Client, cluster: Cluster) -> None:
    absent = "sha256:" + "9" * 64
    answer = await client.post("/runs", {"script": "a.py", "snapshot": absent})
    assert (answer.status_code, answer.json()["code"]) == (422, "snapshot_incomplete")
    files = (FileEntry(path="a.py", digest=absent, size=1),)
    whole = await cluster.blobs.space("runner", "default").put_bytes(manifest_bytes(Manifest(files=files)))
    answer = await client.post("/runs", {"script": "a.py", "snapshot": whole.digest})
    assert (answer.json()["code"], answer.json()["missing"]) == ("snapshot_incomplete", [absent])


async def test_a_snapshot_over_its_limit_is_refused(cluster: Cluster) -> None:
    async with replica(cluster, snapshot_files=1) as client:
        answer = await client.post("/runs", {"script": "a.py", "snapshot": await client.snapshot("a.py", "b.py")})
    assert (answer.status_code, answer.json()["code"]) == (413, "snapshot_too_large")


async def test_reserved_variables_and_paths_that_leave_the_tree_are_refused(client: Client) -> None:
    snapshot = await client.snapshot("a.py")
    body = {"script": "a.py", "snapshot": snapshot, "variables": {"LD_PRELOAD": "x"}}
    assert (await client.post("/runs", body)).json()["code"] == "reserved_variable"
    assert (await client.post("/runs", {"script": "../a.py", "snapshot": snapshot})).json()["code"] == "unsafe_path"


async def test_an_argument_that_no_program_can_take_is_refused(client: Client) -> None:
    body = {"script": "a.py", "snapshot": await client.snapshot("a.py"), "arguments": ["ok", "a\0b"]}
    answer = await client.post("/runs", body)
    assert (answer.status_code, answer.json()["code"]) == (422, "invalid_argument")
    assert answer.json()["errors"][0]["pointer"] == "/arguments/1"


async def test_a_defect_of_ours_ends_the_attempt_instead_of_holding_its_node(client: Client, cluster: Cluster) -> None:
    def broken(_: ProcessSpec) -> Program:
        raise RuntimeError("a defect")

    cluster.machines["n1"].programs = broken
    shown = await client.ended(await client.submit())
    assert (shown["status"], shown["problem"]["code"]) == ("Failed", "infrastructure_failure")
    [node] = (await client.get("/nodes"))["items"]
    assert node["holders"] == []


async def test_the_api_is_documented_and_odd_requests_are_answered(client: Client) -> None:
    document = (await client.http.get("http://cloche.test/openapi.json")).json()
    paths = {path for path in document["paths"] if "/runs" in path or "/nodes" in path}
    assert "/api/v1/runs/{run_id}/outputs/{path}" in paths
    run_id = await client.submit()
    await client.ended(run_id)
    for path, status in (
        ("/runs?page_size=0", 422),
        ("/runs?page_token=x", 422),
        ("/runs?status=None", 422),
        (f"/runs/{run_id}?wait=-1", 422),
        (f"/runs/{run_id}/outputs/..%2fa", 422),
        (f"/runs/{run_id}/log?offset=999", 200),
        (f"/runs/{run_id}/log?tail=0", 200),
        ("/nodes?page_size=1", 200),
    ):
        assert (await client.http.get(path)).status_code == status, path
    answer = await client.post(f"/runs/{run_id}/cancel", If_Match='"1"')
    assert (answer.status_code, answer.json()["code"]) == (412, "etag_mismatch")


async def test_a_run_that_does_not_exist_is_not_found_anywhere(client: Client) -> None:
    for path in ("", "/why", "/log", "/metrics", "/outputs", "/outputs/a"):
        answer = await client.http.get(f"/runs/none{path}")
        assert (answer.status_code, answer.json()["code"]) == (404, "run_not_found"), path
    assert (await client.post("/runs/none/cancel")).status_code == 404


async def test_the_same_idempotency_key_makes_one_run(client: Client) -> None:
    body = {"script": "a.py", "snapshot": await client.snapshot("a.py")}
    answers = await asyncio.gather(*(client.post("/runs", body, Idempotency_Key="k1") for _ in range(5)))
    assert len({answer.json()["id"] for answer in answers}) == 1
    other = await client.post("/runs", {**body, "priority": 1}, Idempotency_Key="k1")
    assert other.json()["code"] == "idempotency_key_reused"
    await client.ended(answers[0].json()["id"])
    assert len((await client.get("/runs"))["items"]) == 1


# --- endings


async def crash(life: Life) -> int:
    life.begin()
    life.say(b"Traceback\nValueError: no\n")
    return 3


async def hungry(life: Life) -> int:
    life.begin()
    life.use(8 * GIB)
    await asyncio.sleep(1)
    return 0


async def unstartable(life: Life) -> int:
    raise CannotStart("cannot start python: No such file or directory")


@pytest.mark.parametrize(
    ("program", "more", "code", "part"),
    [
        (crash, {}, "user_code_failed", "exit code 3"),
        (hungry, {}, "out_of_memory", "512 MiB"),
        (sleeping(1000), {"deadline": 5.0}, "deadline_exceeded", "5 s"),
        (unstartable, {}, "not_started", "cannot start python"),
    ],
)
async def test_a_bad_end_is_named_and_the_log_is_kept(
    client: Client, cluster: Cluster, program: Program, more: dict[str, object], code: str, part: str
) -> None:
    cluster.programs["bad.py"] = program
    shown = await client.ended(await client.submit("bad.py", **more))
    assert (shown["status"], shown["problem"]["code"]) == ("Failed", code)
    assert part in shown["problem"]["message"]
    assert shown["outputs"] is not None
    log = await client.http.get(f"/runs/{shown['id']}/log")
    assert len(log.content) == shown["log_bytes"]


async def test_user_code_is_retried_only_as_often_as_asked(client: Client, cluster: Cluster) -> None:
    cluster.programs["bad.py"] = crash
    shown = await client.ended(await client.submit("bad.py", retries=2))
    assert (shown["status"], shown["attempt"]) == ("Failed", 3)
    log = await client.http.get(f"/runs/{shown['id']}/log")
    assert log.text.count("Traceback") == 3


async def test_lost_attempts_are_tried_again_three_times_in_all(client: Client, cluster: Cluster) -> None:
    cluster.programs["a.py"] = sleeping(1000)
    run_id = await client.submit("a.py")
    for attempt in (1, 2, 3):
        await client.until(run_id, "Running")
        await asyncio.sleep(1)
        assert (await client.get(f"/runs/{run_id}"))["attempt"] == attempt
        [name] = cluster.machines["n1"].groups
        cluster.machines["n1"].lose(name)
        await asyncio.sleep(0.1)
    shown = await client.ended(run_id)
    assert (shown["status"], shown["problem"]["code"]) == ("Failed", "infrastructure_failure")
    names = facts_of(cluster, run_id)
    assert (names.count("AttemptLost"), names.count("RunRequeued")) == (3, 2)


async def test_a_run_names_the_build_of_its_environment(client: Client) -> None:
    assert (await client.ended(await client.submit()))["build_id"] == "public-b1"


async def test_a_machine_that_starts_nothing_loses_attempts(client: Client, cluster: Cluster) -> None:
    cluster.machines["n1"].refuses = True
    shown = await client.ended(await client.submit())
    assert (shown["status"], shown["problem"]["code"]) == ("Failed", "infrastructure_failure")


async def test_what_the_environment_and_the_run_set_reaches_the_process(client: Client, cluster: Cluster) -> None:
    seen: list[ProcessSpec] = []

    async def program(life: Life) -> int:
        seen.append(life.spec)
        return 0

    cluster.programs["a.py"] = program
    run_id = await client.submit(
        "a.py", arguments=["x"], variables={"SIZE": "9"}, resources={"gpus": 1, "gpu_kind": "h200"}
    )
    await client.ended(run_id)
    [spec] = seen
    assert spec.argv[1:] == ["/rt/bootstrap.py", "--", "a.py", "x"]
    assert (spec.env["COLOUR"], spec.env["SIZE"]) == ("red", "9")
    assert (spec.env["CLOCHE_RUN_ID"], spec.env["CUDA_VISIBLE_DEVICES"]) == (run_id, "GPU-a")
    await client.ended(await client.submit("a.py"))
    assert (seen[1].env["CUDA_VISIBLE_DEVICES"], seen[1].env["NVIDIA_VISIBLE_DEVICES"]) == ("", "void")


# --- cancel


async def test_a_cancel_before_any_claim_decides_at_once(client: Client, cluster: Cluster) -> None:
    run_id = await client.submit(resources={"gpus": 3})
    await client.until(run_id, "Queued")
    answer = await client.post(f"/runs/{run_id}/cancel")
    assert (answer.status_code, answer.json()["status"]) == (200, "Canceled")
    again = await client.post(f"/runs/{run_id}/cancel")
    assert (again.status_code, again.json()["status"]) == (200, "Canceled")
    assert "AttemptClaimed" not in facts_of(cluster, run_id)


@pytest.mark.parametrize("stubborn", [False, True])
async def test_a_cancel_of_a_running_run_ends_its_group(client: Client, cluster: Cluster, stubborn: bool) -> None:
    cluster.programs["a.py"] = sleeping(1000, stubborn=stubborn)
    run_id = await client.submit("a.py", grace=2.0)
    await client.until(run_id, "Running")
    answer = await client.post(f"/runs/{run_id}/cancel")
    assert (answer.status_code, answer.json()["status"]) == (202, "CancelRequested")
    asked = asyncio.get_running_loop().time()
    shown = await client.ended(run_id)
    assert shown["status"] == "Canceled"
    assert asyncio.get_running_loop().time() - asked <= 7
    assert cluster.machines["n1"].groups == {}


async def test_cancelling_at_any_moment_leaves_one_terminal_state(cluster: Cluster) -> None:
    cluster.programs["a.py"] = sleeping(0.05)
    async with replica(cluster) as client:
        for step in range(40):
            run_id = await client.submit("a.py", grace=0.0)
            for _ in range(step):
                await asyncio.sleep(0)
            await client.post(f"/runs/{run_id}/cancel")
            assert (await client.ended(run_id))["status"] in {"Canceled", "Completed"}
            ends = [name for name in facts_of(cluster, run_id) if name in {"RunCanceled", "RunCompleted", "RunFailed"}]
            assert len(ends) == 1
        await asyncio.sleep(1)
        assert cluster.machines["n1"].groups == {}
        [node] = (await client.get("/nodes"))["items"]
        assert node["free_cpus"] == 2.0


async def test_all_runs_can_be_cancelled_at_once(client: Client, cluster: Cluster) -> None:
    cluster.programs["a.py"] = sleeping(1000)
    ids = [await client.submit("a.py") for _ in range(4)]
    await client.until(ids[1], "Running")
    assert await client.runner.cancel_all() == 4
    assert {(await client.ended(run_id))["status"] for run_id in ids} == {"Canceled"}


@pytest.mark.parametrize("asked", [{"cpus": 0}, {"memory": 0}, {"memory": 1}, {"cpus": -1}])
async def test_a_run_gets_at_least_what_an_interpreter_needs(client: Client, asked: dict[str, int]) -> None:
    body = {"script": "a.py", "snapshot": "sha256:" + "0" * 64, "resources": asked}
    answer = await client.post("/runs", body)
    assert (answer.status_code, answer.json()["code"]) == (422, "invalid_field")
    assert answer.json()["errors"][0]["pointer"] == f"/resources/{next(iter(asked))}"
