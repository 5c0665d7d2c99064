"""Every code sample of the article runs, only `azureml` in its imports changed to `cloche`, and does what it says.

The samples are read from the page, never copied; what a cell leaves undefined (`ws`, `exp`, files …) is the prelude.
"""

import os
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("rattler")

from cloche.core import Datastore, Experiment, ScriptRunConfig, Workspace
from cloche.core import list as environments_of
from cloche.core.compute import ComputeTarget, ProcessCompute
from cloche_shared.adapters.memory_resolver import Package, wheel_bytes
from tests.e2e.article import PAGE, SCORE, TRAIN, cells, publish, served
from tests.e2e.steps import Names
from tests.e2e.topology import PATIENCE, Topology, own_server

CLUSTER = os.environ.get("CLOCHE_TEST_TOPOLOGY") == "cluster"
PUBLIC = "public"
"""The folder that a server's default index and channels are served from, as `tests.e2e.cluster` names it."""
pytestmark = pytest.mark.skipif(not PAGE.is_file(), reason="the article lies beside the project, and is not here")
KINDS = (
    "add_conda_package",
    "add_private_pip_wheel",
    "list(",
    "Environment.get(",
    "Run.get_environment",
    "env.build()",
    "ScriptRunConfig",
    "Estimator",
    "Model.deploy",
)
"""What each cell is known by, in their order."""


@dataclass
class Notebook:
    """A folder and the names that cells have defined so far."""

    folder: Path
    names: dict[str, Any] = field(default_factory=dict)

    def run(self, kind: str, **prelude: Any) -> dict[str, Any]:
        """Run the one cell of a kind after what it leaves undefined; return all names."""
        (cell,) = [one for one in cells() if kind in one]
        self.names |= prelude
        exec(compile(cell, f"article: {kind}", "exec"), self.names)  # noqa: S102 - the article's own code
        return self.names


@pytest.fixture
def server(request: pytest.FixtureRequest, unique: Names, tmp_path: Path) -> Iterator[Topology]:
    """A server whose conda-forge and package index are on loopback: the cluster's own, or an embedded one's."""
    if CLUSTER:
        topology = request.getfixturevalue("topology")
        publish(topology.home / PUBLIC)
        yield topology
        return
    publish(tmp_path / PUBLIC)
    with served(tmp_path / PUBLIC) as url:
        settings = {
            "CLOCHE_BUILDER__CHANNEL_ALIAS": f"{url}/channels",
            "CLOCHE_BUILDER__DEFAULT_INDEX": f"{url}/simple",
        }
        with own_server(request.getfixturevalue("session_root"), unique("article"), settings) as found:
            yield found


@pytest.fixture
def notebook(server: Topology, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Notebook]:
    """A reader's folder with the scripts that the article speaks of, and the workspace `ws`."""
    folder = tmp_path / "notebook"
    (folder / "my-sklearn-proj").mkdir(parents=True)
    for place in (folder, folder / "my-sklearn-proj"):
        (place / "train.py").write_text(TRAIN)
    (folder / "score.py").write_text(SCORE)
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "rows.csv").write_text("1\n2\n3\n")
    monkeypatch.chdir(folder)
    home = tmp_path / "home"
    ws = Workspace.create("workspace_name", exist_ok=True, url=server.url, token=server.token, home=home)
    try:
        yield Notebook(folder, {"ws": ws})
    finally:
        ws.client.close()


def test_the_page_has_the_samples_that_are_tried_here() -> None:
    found = cells()
    assert [[kind for kind in KINDS if kind in one] for one in found] == [[kind] for kind in KINDS]


@pytest.mark.undelayed
@pytest.mark.timeout(5 * PATIENCE)
def test_every_sample_of_the_article_does_what_it_says(notebook: Notebook, capsys: pytest.CaptureFixture[str]) -> None:
    packages_of_conda_and_pip_are_locked(notebook)
    assert "Image Build Status: Succeeded" in capsys.readouterr().out
    environments_are_listed_and_got(notebook)
    a_script_runs_with_the_variables_of_its_environment(notebook)
    an_estimator_reads_mounted_data_and_gets_its_arguments(notebook)
    a_private_wheel_arrives_in_a_run(notebook)
    a_model_is_served(notebook)


def packages_of_conda_and_pip_are_locked(notebook: Notebook) -> None:
    myenv = notebook.run("add_conda_package")["myenv"]
    build = notebook.run("env.build()", env=myenv)["build"]
    assert build.succeeded
    assert "conda-forge/noarch/scikit-learn-0.21.3" in build.lock
    assert 'name: "pillow"' in build.lock


def environments_are_listed_and_got(notebook: Notebook) -> None:
    notebook.run("list(", list=environments_of)
    assert "myenv" in [one.name for one in environments_of("workspace_name")]
    restored = notebook.run("Environment.get(")["restored_environment"]
    assert (restored.version, [*restored.python.conda_dependencies.pip_packages]) == ("1", ["pillow==5.4.1"])


def a_script_runs_with_the_variables_of_its_environment(notebook: Notebook) -> None:
    run = notebook.run("ScriptRunConfig")["run"]
    assert run.wait_for_completion(show_output=True)["status"] == "Completed"
    assert notebook.run("Run.get_environment")["Run"].get_environment().name == "myenv"
    run.download_file("azureml-logs/70_driver_log.txt", "log.txt")
    assert "variable: EXAMPLE_VALUE" in (notebook.folder / "log.txt").read_text()
    assert "outputs/model.pkl" in run.get_file_names()
    notebook.names["first_run"] = run


def an_estimator_reads_mounted_data_and_gets_its_arguments(notebook: Notebook) -> None:
    ws = notebook.names["ws"]
    small = ProcessCompute.provisioning_configuration(cpus=0.5, memory_gb=0.25)
    prelude = {
        "ds": Datastore.register_folder(ws, "rows", notebook.folder.parent / "data"),
        "compute_target": ComputeTarget.create(ws, "small", small),
        "experiment": Experiment(ws, "estimated"),
    }
    run = notebook.run("Estimator", **prelude)["run"]
    assert run.wait_for_completion()["status"] == "Completed"
    assert run.get_metrics() == {"regularization": 0.8, "rows": 3}
    assert "scikit-learn" in [*run.get_environment().python.conda_dependencies.conda_packages]


def a_private_wheel_arrives_in_a_run(notebook: Notebook) -> None:
    package = Package("my-custom", "1.0", (), {"my_custom.py": "WORD = 'own'\n"})
    (notebook.folder / "my-custom.whl").write_bytes(wheel_bytes(package))
    myenv = notebook.run("add_private_pip_wheel")["myenv"]
    (notebook.folder / "wheeled").mkdir()
    (notebook.folder / "wheeled" / "train.py").write_text("import my_custom\nprint('the wheel says', my_custom.WORD)\n")
    config = ScriptRunConfig("wheeled", "train.py", environment=myenv)
    run = Experiment(notebook.names["ws"], "wheeled").submit(config)
    run.wait_for_completion(show_output=True)
    run.download_file("azureml-logs/70_driver_log.txt", "log.txt")
    assert "the wheel says own" in (notebook.folder / "log.txt").read_text()


def a_model_is_served(notebook: Notebook) -> None:
    service = notebook.run("Model.deploy", run=notebook.names["first_run"])["service"]
    service.wait_for_deployment(show_output=True)
    assert service.name == "my_web_service"
    assert service.run('{"data": [1, 2]}') == {"scored": [3, 6], "said": "EXAMPLE_VALUE"}
    service.delete()
