"""Nodes join, leave and die while runs wait: what they held goes on elsewhere, and its log says what is missing."""

import json
import signal
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import httpx2
import pytest

from cloche import Client, ClocheError
from cloche.client import Run
from tests.e2e.cluster import Cluster, free_ports
from tests.e2e.keeper import processes_of, signal_to
from tests.e2e.steps import Scripts, done, log_of, reaches
from tests.e2e.topology import PATIENCE, eventually

pytestmark = pytest.mark.timeout(6 * PATIENCE)
SETTINGS = {
    "CLOCHE_RUNNER__SHARED": "false",
    "CLOCHE_RUNNER__CPUS": "2",
    "CLOCHE_RUNNER__LEASE": "5",
    "CLOCHE_RUNNER__LOSS_DELAY": "0.1",
    "CLOCHE_RUNNER__LOG_KEPT_EVERY": "1",
}
TALKS = """
import itertools, sys, time
from pathlib import Path

for number in itertools.count():
    print(f"line {number}", flush=True)
    if Path(sys.argv[1]).exists():
        break
    time.sleep(0.2)
print("done")
"""


class Nodes(Cluster):
    """A registry, a builder, and runners that come and go; there is no gateway: every runner is asked by itself."""

    def start(self) -> None:
        self.home.mkdir(parents=True, mode=0o700)
        self._make_identity()
        names = ["registry-1", "builder-1", "runner-1", "runner-2", "runner-3"]
        self.ports = dict(zip(names, free_ports(len(names)), strict=True))
        self.url = self.url_of("runner-2")
        self.join("registry-1", "builder-1", "runner-1", "runner-2")

    def url_of(self, name: str) -> str:
        return f"http://127.0.0.1:{self.ports[name]}"

    def join(self, *names: str) -> None:
        for name in names:
            self.begin(name)
        for name in names:
            self.until_ready(name)

    def lose(self, node: str) -> None:
        """End all that lives on a node at once, its runner included, as a machine that loses its power."""
        for pid in processes_of(self.home / node):
            signal_to(pid, signal.SIGKILL)

    def nodes(self, asked: str) -> dict[str, str]:
        """Return the nodes' statuses as a runner shows them."""
        headers = {"authorization": f"Bearer {self.token}"}
        answer = httpx2.get(f"{self.url_of(asked)}/api/v1/nodes", headers=headers, timeout=PATIENCE)
        return {one["id"]: one["status"] for one in answer.raise_for_status().json()["items"]}


@pytest.fixture
def nodes(session_root: Path, tmp_path: Path) -> Iterator[Nodes]:
    found = Nodes("", "", tmp_path, home=session_root / "homes" / "lost", settings=SETTINGS)
    with ExitStack() as stack:
        stack.callback(found.stop)
        found.start()
        yield found


@pytest.mark.cluster_only
def test_nodes_die_and_join_while_runs_wait(nodes: Nodes, script: Scripts, tmp_path: Path) -> None:
    go, code = tmp_path / "go", script(TALKS)
    with Client(nodes.url_of("runner-1"), nodes.token, home=tmp_path) as first, nodes.client() as other:
        held = [other.runs.submit(code, arguments=[go], cpus=2, memory=2**26) for _ in range(2)]
        for run in held:
            reaches(other, run, "Running")
        waiting = other.runs.submit(code, arguments=[go], cpus=2, memory=2**26)
        reaches(other, waiting, "Queued")
        (lost,) = [run for run in held if _node(other, run) == "n1"]
        assert next(first.runs.log(lost.id, follow=True)).startswith(b"line 0\n")
        eventually(lambda: "line 12\n" in log_of(other, lost), "some of the log is stored")

        nodes.lose("n1")
        eventually(lambda: nodes.nodes("runner-2")["n1"] == "lost", "the node is declared lost")
        reaches(other, lost, "Queued")
        (cut,) = other.runs.get(lost.id).model_dump()["log_missing"]
        mark = f"[cloche: from byte {cut['offset']} on the log of attempt 1 is missing: node_lost]\n"
        kept = "".join(f"line {number}\n" for number in range(200))[: cut["offset"]]
        assert kept.endswith("\n")
        assert log_of(other, lost) == kept + mark

        nodes.join("runner-3")
        eventually(lambda: nodes.nodes("runner-2")["n3"] == "ready", "a node joins")
        eventually(lambda: "n3" in {_node(other, lost), _node(other, waiting)}, "the new node takes what waits")
        go.touch()
        for run in (*held, waiting):
            assert done(other, run).status == "Completed"
        whole = log_of(other, lost)
        assert whole.startswith(f"{kept}{mark}line 0\n")
        assert whole.endswith("done\n")

        nodes.join("runner-1")
        everybody = {"n1": "ready", "n2": "ready", "n3": "ready"}
        for asked in ("runner-1", "runner-2", "runner-3"):
            eventually(lambda asked=asked: nodes.nodes(asked) == everybody, "the lost node is back")
        assert log_of(first, lost) == whole
    with Client(nodes.url_of("registry-1"), nodes.token, home=tmp_path) as registry:
        others = registry.projects.create("others").name
    for asked in ("runner-1", "runner-2", "runner-3"):
        _refuses(nodes.url_of(asked), nodes.token, others, code, tmp_path)


def _refuses(url: str, token: str, project: str, script: Path, home: Path) -> None:
    """See a runner refuse a project's run, because every node is another project's."""
    with Client(url, token, home=home, project=project) as client, pytest.raises(ClocheError) as caught:
        client.runs.submit(script)
    assert caught.value.code == "isolation_required"


def _node(client: Client, run: Run) -> str:
    return str(json.loads(client.runs.get(run.id).model_dump_json())["node"])
