"""`cloche.core` without an address: the embedded Cloche of this machine, started when it is needed."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from cloche.core import Environment, Experiment, ScriptRunConfig, Workspace
from tests.e2e.keeper import processes_of
from tests.e2e.steps import Names
from tests.e2e.topology import call, eventually

pytestmark = pytest.mark.embedded_only


@pytest.fixture
def home(session_root: Path, unique: Names, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A data folder in which nothing runs, as the only one that the environment names."""
    folder = session_root / "homes" / unique("core")
    for name in ("CLOCHE_URL", "CLOCHE_TOKEN", "CLOCHE_PROJECT"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("CLOCHE_HOME", str(folder))
    monkeypatch.setenv("CLOCHE_HTTP__PORT", "0")
    yield folder
    call(("down", "--cancel-runs"), {"PATH": "/usr/bin:/bin", "CLOCHE_HOME": str(folder)})
    eventually(lambda: not processes_of(folder), "all processes of the server ended")


def test_the_default_workspace_starts_cloche_once_and_works(home: Path, tmp_path: Path) -> None:
    (tmp_path / "train.py").write_text("print('trained')")
    ws = Workspace()
    again = Workspace.from_config()
    try:
        assert (ws.name, again.location) == ("default", ws.location)
        assert (home / "server.json").is_file()
        run = Experiment(ws, "first").submit(ScriptRunConfig(tmp_path, "train.py", environment=Environment("mine")))
        assert run.wait_for_completion()["status"] == "Completed"
        assert [one.id for one in Experiment(again, "first").get_runs()] == [run.id]
        assert [*ws.environments] == ["mine"]
    finally:
        ws.client.close()
        again.client.close()
