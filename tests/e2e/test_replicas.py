"""Any replica answers any request: each is asked by itself, past the gateway, and says what the others say.

Where there is one replica of each service (or one process with all four), the tests are about that one.
"""

import json
import time
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path
from statistics import median
from typing import Any

import httpx2
import pytest

from cloche import Client
from tests.e2e.packages import ThreadedIndex
from tests.e2e.steps import SCORE, Names, Scripts, completed, deployed, done, reaches, submit
from tests.e2e.topology import PATIENCE, Topology, eventually, own_address

WAITS = """
import sys, time
from pathlib import Path

print("begun", flush=True)
while not Path(sys.argv[1]).exists():
    time.sleep(0.05)
print("done")
"""
TICKS = """
import time
for number in range(60):
    print(f"{number} {time.time():.6f}", flush=True)
    time.sleep(0.05)
"""
pytestmark = pytest.mark.main_job
OF_EACH_SERVICE = {"registry": "/environments", "builder": "/builds", "runner": "/runs", "deployer": "/services"}
REVOKED_S = 1.0
"""Seconds that a revoked token opens anything, besides the time that a look at all replicas takes."""


class Replicas:
    """Every replica of a service, by its own address."""

    def __init__(self, topology: Topology, stack: ExitStack) -> None:
        self._topology = topology
        self._stack = stack
        self._ports: Mapping[str, int] = getattr(topology, "ports", {})

    def of(self, service: str) -> list[httpx2.Client]:
        """Return an HTTP client for each replica."""
        return [self._stack.enter_context(self._rest(url)) for url in self._urls(service)]

    def clients(self, service: str) -> list[Client]:
        """Return a client of the SDK for each replica."""
        scratch, token = self._topology.scratch, self._topology.token
        return [self._stack.enter_context(Client(url, token, home=scratch)) for url in self._urls(service)]

    def _urls(self, service: str) -> list[str]:
        names = sorted(name for name in self._ports if name.startswith(f"{service}-"))
        return [f"http://127.0.0.1:{self._ports[name]}" for name in names] or [self._topology.url]

    def _rest(self, url: str) -> httpx2.Client:
        return httpx2.Client(
            base_url=f"{url}/api/v1", headers={"authorization": f"Bearer {self._topology.token}"}, timeout=PATIENCE
        )


@pytest.fixture
def replicas(topology: Topology) -> Iterator[Replicas]:
    with ExitStack() as stack:
        yield Replicas(topology, stack)


def answers(asked: list[httpx2.Client], path: str, **fields: str) -> list[str]:
    """Return what each replica answers with 200."""
    found = [one.get(path, headers=fields) for one in asked]
    assert [one.status_code for one in found] == [200] * len(asked), [one.text for one in found]
    return [one.text for one in found]


def same(asked: list[httpx2.Client], path: str) -> str:
    """Return the one answer that all replicas give."""
    (text,) = set(answers(asked, path))
    return text


def test_a_live_log_and_its_ranges_come_from_every_replica(
    client: Client, replicas: Replicas, script: Scripts, tmp_path: Path
) -> None:
    asked = replicas.of("runner")
    run = submit(client, script(WAITS), arguments=[tmp_path / "go"])
    path = f"/runs/{run.id}/log"
    eventually(lambda: asked[0].get(path).text == "begun\n", "the run has begun")
    assert same(asked, path) == "begun\n"
    assert same(asked, f"{path}?offset=3") == "un\n"
    assert same(asked, f"{path}?tail=1") == "begun\n"
    followers = [one.runs.log(run.id, follow=True) for one in replicas.clients("runner")]
    assert [next(one) for one in followers] == [b"begun\n"] * len(asked)
    (tmp_path / "go").touch()
    assert [b"".join(one) for one in followers] == [b"done\n"] * len(asked)
    assert done(client, run).status == "Completed"
    assert same(asked, path) == "begun\ndone\n"
    assert json.loads(same(asked, f"/runs/{run.id}"))["status"] == "Completed"


def test_lines_that_are_still_written_come_whole_and_in_order_through_every_replica(
    client: Client, replicas: Replicas, script: Scripts
) -> None:
    run = submit(client, script(TICKS))

    def read(one: Client) -> list[tuple[int, float]]:
        """Return of each line its number, and how old it was when it came."""
        seen: list[tuple[int, float]] = []
        begun = b""
        for piece in one.runs.log(run.id, follow=True):
            now = time.time()
            *lines, begun = (begun + piece).split(b"\n")
            seen += [(int(number), now - float(at)) for number, at in map(bytes.split, lines)]
        return seen

    readers = replicas.clients("runner")
    with ThreadPoolExecutor(len(readers)) as pool:
        found = list(pool.map(read, readers))
    ages = [sorted(age for _, age in lines) for lines in found]
    print("seconds from line to reader (half, all but one, all):", [(a[30], a[-2], a[-1]) for a in ages])  # noqa: T201 - a figure for whoever asks with -s
    assert [[number for number, _ in lines] for lines in found] == [list(range(60))] * len(readers)


def test_a_run_is_cancelled_through_every_replica(client: Client, replicas: Replicas, script: Scripts) -> None:
    code = script("import time\nprint('begun', flush=True)\ntime.sleep(600)")
    asked = replicas.of("runner")
    runs = [submit(client, code) for _ in asked]
    for one, run in zip(asked, runs, strict=True):
        reaches(client, run, "Running")
        assert one.post(f"/runs/{run.id}/cancel").status_code in {200, 202}
    for run in runs:
        assert done(client, run).status == "Canceled"
        assert json.loads(same(asked, f"/runs/{run.id}"))["status"] == "Canceled"


def test_every_replica_says_why_a_run_waits_and_shows_the_same_nodes(
    client: Client, replicas: Replicas, script: Scripts
) -> None:
    asked = replicas.of("runner")
    run = reaches(client, submit(client, script("print(1)"), cpus=1000.0), "Queued")
    eventually(lambda: len(set(answers(asked, f"/runs/{run.id}/why"))) == 1, "all give the same reason")
    names = [[node["id"] for node in json.loads(text)["items"]] for text in answers(asked, "/nodes")]
    assert names == [names[0]] * len(asked)
    assert len(names[0]) == len(asked)
    client.runs.cancel(run.id)


def test_what_a_run_left_comes_from_every_replica(client: Client, replicas: Replicas, script: Scripts) -> None:
    ended = completed(
        client, script("from pathlib import Path\nPath('outputs').mkdir()\nPath('outputs/a.txt').write_text('left')")
    )
    asked = replicas.of("runner")
    assert same(asked, f"/runs/{ended.id}/outputs/outputs/a.txt") == "left"
    assert "outputs/a.txt" in same(asked, f"/runs/{ended.id}/outputs")
    same(asked, f"/runs/{ended.id}/metrics")


def test_files_of_a_model_come_from_every_replica(
    client: Client, replicas: Replicas, unique: Names, tmp_path: Path
) -> None:
    (tmp_path / "weights.txt").write_text("0.5")
    name = unique("model")
    client.models.register(name, path=tmp_path / "weights.txt")
    asked = replicas.of("registry")
    found = json.loads(same(asked, f"/models/{name}?version=1"))
    assert found["name"] == name
    for number, one in enumerate(replicas.clients("registry")):
        folder = tmp_path / str(number)
        one.models.download(name, 1, folder)
        assert [path.read_text() for path in folder.rglob("weights.txt")] == ["0.5"]


def test_a_service_is_shown_and_scores_through_every_replica(
    client: Client, replicas: Replicas, unique: Names, script: Scripts
) -> None:
    name = unique("svc")
    service = deployed(client, name, script(SCORE, "score.py"))
    asked = replicas.of("deployer")
    key = service.keys().primary
    for one in asked:
        for fields in ({}, {"authorization": f"Bearer {key}"}):
            scored = one.post(f"/services/{name}/score", json={"a": 1}, headers=fields)
            assert (scored.status_code, scored.json()["got"]) == (200, {"a": 1}), scored.text
    eventually(lambda: len(set(answers(asked, f"/services/{name}"))) == 1, "all show the same service")
    assert json.loads(same(asked, f"/services/{name}"))["workers"] == {"wanted": 1, "ready": 1}
    for text in answers(asked, "/services?page_size=200"):
        assert [one["workers"] for one in json.loads(text)["items"] if one["name"] == name] == [
            {"wanted": 1, "ready": 1}
        ]
    eventually(lambda: "init is done" in asked[0].get(f"/services/{name}/log").text, "the worker has said so")
    assert "init is done" in same(asked, f"/services/{name}/log")
    assert key in same(asked, f"/services/{name}/keys")
    assert "score" in same(asked, f"/services/{name}/swagger.json")
    assert same(asked, f"/services/{name}/health") == "Healthy"
    followed = [one.services.log(name, follow=True) for one in replicas.clients("deployer")]
    assert all("init is done" in next(lines) for lines in followed)
    service.delete()
    assert [one.get(f"/services/{name}").status_code for one in asked] == [404] * len(asked)


def test_a_fresh_key_opens_at_every_replica_at_once(
    topology: Topology, client: Client, replicas: Replicas, unique: Names, script: Scripts
) -> None:
    name = unique("svc")
    service = deployed(client, name, script(SCORE, "score.py"))
    asked = replicas.of("deployer")
    former = service.keys().primary
    for maker in asked:
        fresh = maker.post(f"/services/{name}/keys/primary").json()["primary"]
        opened = [
            one.post(f"/services/{name}/score", json=1, headers={"authorization": f"Bearer {fresh}"}).status_code
            for one in asked
        ]
        assert opened == [200] * len(asked)
    local = own_address()
    for one in asked:
        transport = httpx2.HTTPTransport(local_address=local)
        with httpx2.Client(base_url=one.base_url, transport=transport, timeout=PATIENCE) as stranger:
            eventually(shut(stranger, name, former), "the former key opens nothing", seconds=PATIENCE)
    service.delete()


def shut(stranger: httpx2.Client, name: str, key: str) -> Callable[[], bool]:
    def look() -> bool:
        asked = stranger.post(f"/services/{name}/score", json=1, headers={"authorization": f"Bearer {key}"})
        return asked.status_code == 401

    return look


def test_a_token_opens_every_replica_at_once_and_revoked_none_soon_after(
    client: Client, replicas: Replicas, unique: Names
) -> None:
    team = unique("team")
    client.projects.create(team)
    everyone = [(one.base_url, path) for service, path in OF_EACH_SERVICE.items() for one in replicas.of(service)]

    def seconds_until_shut() -> float:
        """Return for how long a revoked token opened anything, less one round of requests: so long a look takes."""
        made = client.tokens.create("viewer", projects=[team])
        fields = {"authorization": f"Bearer {made.token}", "cloche-project": team}
        # an address of its own: one from which revoked tokens came is trusted less
        transport = httpx2.HTTPTransport(local_address=own_address())
        with httpx2.Client(transport=transport, headers=fields, timeout=PATIENCE) as stranger:

            def statuses() -> set[int]:
                return {stranger.get(f"{str(base).rstrip('/')}{path}").status_code for base, path in everyone}

            assert statuses() == {200}
            began = time.monotonic()
            assert statuses() == {200}
            round_s = time.monotonic() - began
            client.tokens.revoke(made.id)
            revoked = time.monotonic()
            eventually(lambda: statuses() == {401}, "no replica lets it in")
            return time.monotonic() - revoked - round_s

    assert median(seconds_until_shut() for _ in range(5)) < REVOKED_S


def test_a_builds_log_is_live_at_every_replica(
    client: Client, replicas: Replicas, index: ThreadedIndex, unique: Names
) -> None:
    package, name = unique("pkg"), unique("env")
    client.environments.register(name, requirements=index.add(package))
    index.gate.clear()
    build = client.builds.start(name)
    followers = [one.builds.log(build.id, follow=True) for one in replicas.clients("builder")]
    first = {next(one) for one in followers}
    assert len(first) == 1
    assert not client.builds.get(build.id).ended
    index.gate.set()
    rest = {"".join(one) for one in followers}
    assert len(rest) == 1
    asked = replicas.of("builder")
    assert client.builds.wait(build.id, timeout=PATIENCE).status == "Completed"
    whole = same(asked, f"/builds/{build.id}/log")
    assert whole == first.pop() + rest.pop()
    same(asked, f"/builds/{build.id}")
    assert package in same(asked, f"/builds/{build.id}/lock")


def test_what_one_replica_wrote_is_listed_by_all_who_are_told_the_position(replicas: Replicas, unique: Names) -> None:
    asked = replicas.of("registry")
    for writer in asked:
        name = unique("0-env")  # among the first of the list
        made = writer.post("/environments", json={"name": name, "definition": {}})
        assert made.status_code in {200, 201}
        position = {"cloche-position": made.headers["cloche-position"]}
        for text in answers(asked, "/environments?page_size=200", **position):
            listed: list[Mapping[str, Any]] = json.loads(text)["items"]
            assert name in {one["name"] for one in listed}
