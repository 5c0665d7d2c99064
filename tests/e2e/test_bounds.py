"""What Cloche leaves on the disk is bounded: its own log, and what runs leave."""

from collections.abc import Callable
from pathlib import Path

import pytest

from cloche import Client
from tests.e2e.problems import failed
from tests.e2e.steps import Scripts, completed, done, submit
from tests.e2e.topology import Embedded, call

pytestmark = pytest.mark.embedded_only

LEAVES = """
from pathlib import Path
Path("outputs").mkdir()
Path("outputs/small.txt").write_text("kept")
Path("outputs/zlarge.bin").write_bytes(bytes(2_000_000))
"""


def test_outputs_over_the_limit_are_left_out_and_the_run_says_so(
    own_topology: Callable[..., Embedded], script: Scripts, tmp_path: Path
) -> None:
    server = own_topology(CLOCHE_RUNNER__OUTPUTS_BYTES="1000000")
    with server.client() as client:
        run = done(client, submit(client, script(LEAVES)))
        assert run.status == "Failed"
        problem = failed(run.problem, "outputs_too_large", names="outputs/zlarge.bin")
        assert "1,000,000 bytes" in problem["message"]
        assert [one["path"] for one in client.runs.outputs(run.id)] == ["outputs/small.txt"]
        assert client.runs.download(run.id, "outputs/small.txt", tmp_path / "got").read_text() == "kept"
        completed(client, script(LEAVES.replace("2_000_000", "900_000")))


def test_the_log_of_a_server_in_the_background_is_held_to_its_size(own_topology: Callable[..., Embedded]) -> None:
    server = own_topology()
    server.stop()
    environ = {name: value for name, value in server.environ().items() if name != "CLOCHE_URL"}
    environ["CLOCHE_EMBEDDED__LOG_BYTES"] = "20000"
    url = call(("up", "-d", "--port", "0", "--json"), environ).document["url"]
    with Client(url, (server.home / "token").read_text().strip(), home=server.scratch) as client:
        for _ in range(300):
            client.environments.list()
    call(("down",), environ)
    assert sorted(path.name for path in server.home.glob("cloche.log*")) == ["cloche.log", "cloche.log.1"]
    assert all(path.stat().st_size <= 20_000 for path in server.home.glob("cloche.log*"))
    assert all(path.stat().st_mode & 0o777 == 0o600 for path in server.home.glob("cloche.log*"))
