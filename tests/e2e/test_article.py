"""Every code sample of the article runs, only `azureml` in its imports changed to `cloche`, and does what it says.

The samples are read from the page, never copied; what a cell leaves undefined (`ws`, `exp`, files …) is the prelude.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("rattler")

from cloche.core import Datastore, Environment, Experiment, Workspace
from cloche.core import list as environments_of
from cloche.core.compute import ComputeTarget, ProcessCompute
from tests.e2e.article import PAGE, SCORE, TRAIN, cells, conda_forge
from tests.e2e.packages import ThreadedIndex, threaded_index
from tests.e2e.topology import Embedded

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
    index: ThreadedIndex
    names: dict[str, Any] = field(default_factory=dict)

    def run(self, kind: str, **prelude: Any) -> dict[str, Any]:
        """Run the one cell of a kind after what it leaves undefined; return all names."""
        (cell,) = [one for one in cells() if kind in one]
        self.names |= prelude
        exec(compile(cell, f"article: {kind}", "exec"), self.names)  # noqa: S102 - the article's own code
        return self.names


@pytest.fixture
def notebook(
    own_topology: Callable[..., Embedded], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Notebook]:
    """A reader's notebook: a workspace on a server whose conda-forge and package index are on loopback."""
    with conda_forge(tmp_path / "channels") as alias, threaded_index() as index:
        index.add("pillow", "5.4.1")
        server = own_topology(CLOCHE_BUILDER__CHANNEL_ALIAS=alias, CLOCHE_BUILDER__DEFAULT_INDEX=index.url)
        folder = tmp_path / "notebook"
        (folder / "my-sklearn-proj").mkdir(parents=True)
        for place in (folder, folder / "my-sklearn-proj"):
            (place / "train.py").write_text(TRAIN)
        (folder / "score.py").write_text(SCORE)
        monkeypatch.chdir(folder)
        ws = Workspace.create("workspace_name", url=server.url, token=server.token, home=tmp_path / "home")
        try:
            yield Notebook(folder, index, {"ws": ws})
        finally:
            ws.client.close()


def test_the_page_has_the_samples_that_are_tried_here() -> None:
    found = cells()
    assert [[kind for kind in KINDS if kind in one] for one in found] == [[kind] for kind in KINDS]


@pytest.mark.embedded_only
def test_an_environment_of_conda_and_pip_is_locked_built_listed_and_got(
    notebook: Notebook, capsys: pytest.CaptureFixture[str]
) -> None:
    myenv = notebook.run("add_conda_package")["myenv"]
    build = notebook.run("env.build()", env=myenv)["build"]
    assert "Image Build Status: Succeeded" in capsys.readouterr().out
    assert build.succeeded
    assert "conda-forge/noarch/scikit-learn-0.21.3" in build.lock
    assert 'name: "pillow"' in build.lock
    ws = notebook.names["ws"]
    notebook.run("list(", list=environments_of)
    assert [one.name for one in environments_of("workspace_name")] == ["myenv"]
    restored = notebook.run("Environment.get(")["restored_environment"]
    assert (restored.version, [*restored.python.conda_dependencies.pip_packages]) == ("1", ["pillow==5.4.1"])
    assert restored.register(ws).version == "1"


@pytest.mark.embedded_only
def test_a_script_is_run_with_the_variables_of_its_environment_and_its_model_is_served(notebook: Notebook) -> None:
    run = notebook.run("ScriptRunConfig")["run"]
    assert run.wait_for_completion(show_output=True)["status"] == "Completed"
    assert notebook.run("Run.get_environment")["Run"].get_environment().name == "myenv"
    run.download_file("azureml-logs/70_driver_log.txt", "log.txt")
    assert "variable: EXAMPLE_VALUE" in (notebook.folder / "log.txt").read_text()
    assert "outputs/model.pkl" in run.get_file_names()
    service = notebook.run("Model.deploy")["service"]
    service.wait_for_deployment(show_output=True)
    assert service.name == "my_web_service"
    assert service.run('{"data": [1, 2]}') == {"scored": [3, 6], "said": "EXAMPLE_VALUE"}
    service.delete()


@pytest.mark.embedded_only
def test_an_estimator_reads_mounted_data_and_gets_its_arguments(notebook: Notebook, tmp_path: Path) -> None:
    ws = notebook.names["ws"]
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "rows.csv").write_text("1\n2\n3\n")
    small = ProcessCompute.provisioning_configuration(cpus=0.5, memory_gb=0.25)
    prelude = {
        "ds": Datastore.register_folder(ws, "rows", tmp_path / "data"),
        "compute_target": ComputeTarget.create(ws, "small", small),
        "experiment": Experiment(ws, "estimated"),
    }
    run = notebook.run("Estimator", **prelude)["run"]
    assert run.wait_for_completion()["status"] == "Completed"
    assert run.get_metrics() == {"regularization": 0.8, "rows": 3}
    packages = Environment.get(ws, "estimator").python.conda_dependencies.conda_packages
    assert "scikit-learn" in [*packages]
