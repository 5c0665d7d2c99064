"""What a `ScriptRunConfig` and an `Estimator` ask the server for, and what they refuse."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import orjson
import pytest

from cloche._calls import Answer, Call
from cloche.core import Dataset, Datastore, Environment, Experiment, RunConfiguration, ScriptRunConfig, Workspace
from cloche.core.compute import AmlCompute, ComputeTarget, ProcessCompute
from cloche.core.runconfig import DataReferenceConfiguration, DockerConfiguration
from cloche.exceptions import AzureMLException, RunConfigurationException, SnapshotException, TrainingException
from cloche.train.dnn import PyTorch
from cloche.train.estimator import Estimator
from cloche.train.sklearn import SKLearn
from tests.unit.core.scripted import ENDED, Scripted, problem

MISSING = problem(422, "snapshot_incomplete")


@pytest.fixture
def source(tmp_path: Path, server: Scripted) -> Path:
    """A folder with a script; the server takes runs of it, and wants their snapshots first."""
    folder = tmp_path / "proj"
    folder.mkdir()
    (folder / "train.py").write_text("print(1)")
    seen: list[Call] = []

    def submit(call: Call) -> Answer:
        seen.append(call)
        return MISSING(call) if len(seen) % 2 else Answer(202, {}, orjson.dumps(ENDED))

    server.answers["POST /runs"] = submit
    server.answers["POST /files/runs/missing"] = {"missing": []}
    server.answers["POST /environments"] = {"name": "myenv", "version": "2", "definition": {}}
    return folder


def sent(server: Scripted) -> dict[str, Any]:
    return server.body("POST", "/runs")


@pytest.fixture
def files(server: Scripted) -> Callable[[], list[str]]:
    """Return a function that tells the paths of the snapshot that was sent last."""

    def paths() -> list[str]:
        content = [call.content for call in server.asked if call.method == "PUT"][-1]
        assert isinstance(content, bytes)
        return [one["path"] for one in orjson.loads(content)["files"]]

    return paths


@pytest.fixture(autouse=True)
def _taken(server: Scripted) -> None:
    """Take every blob."""
    send = server.send

    def take(call: Call) -> Answer:
        if call.method == "PUT" and "/files/" in call.path:
            server.asked.append(call)
            return Answer(204, {}, b"")
        return send(call)

    server.send = take  # type: ignore[method-assign] # what the test's server is


def test_attributes_of_a_script_run_are_those_of_its_configuration(
    ws: Workspace, server: Scripted, source: Path
) -> None:
    environment = Environment("myenv")
    config = ScriptRunConfig(source_directory=str(source), script="train.py", arguments=["--rate", 0.8])
    config.compute_target = "local"
    config.environment = environment
    assert (config.run_config.target, config.run_config.environment) == ("local", environment)
    run = Experiment(ws, "exp").submit(config, tags={"team": "a"})
    body = sent(server)
    assert run.id == "r1"
    assert body["script"] == "train.py"
    assert body["arguments"] == ["--rate", "0.8"]
    assert body["environment"] == {"name": "myenv", "version": "2"}
    said = {"name": "myenv", "definition": {"variables": {"EXAMPLE_ENV_VAR": "EXAMPLE_VALUE"}}}
    assert server.body("POST", "/environments") == said
    assert (body["experiment"], body["tags"]) == ("exp", {"team": "a"})
    assert "resources" not in body


def test_what_the_server_refuses_of_an_environment_is_told_before_a_run_is_submitted(
    ws: Workspace, server: Scripted, source: Path
) -> None:
    server.answers["POST /environments"] = problem(422, "images_not_available")
    environment = Environment("myenv")
    environment.docker.enabled = True
    with pytest.raises(AzureMLException) as caught:
        Experiment(ws, "exp").submit(ScriptRunConfig(source, "train.py", environment=environment))
    assert caught.value.code == "images_not_available"
    assert not [call for call in server.asked if call.path.endswith("/runs")]


def test_a_run_without_an_environment_leaves_it_to_the_server(ws: Workspace, server: Scripted, source: Path) -> None:
    Experiment(ws, "exp").submit(ScriptRunConfig(source, "train.py"))
    assert "environment" not in sent(server)


def test_variables_time_and_priority_of_a_configuration_are_sent(ws: Workspace, server: Scripted, source: Path) -> None:
    config = RunConfiguration()
    config.environment_variables = {"A": "1"}
    config.max_run_duration_seconds = 60
    config.priority = 5
    Experiment(ws, "exp").submit(ScriptRunConfig(source, "train.py", run_config=config))
    body = sent(server)
    assert (body["variables"], body["deadline"], body["priority"]) == ({"A": "1"}, 60, 5)


def test_a_target_says_what_its_runs_get(ws: Workspace, server: Scripted, source: Path) -> None:
    size = ProcessCompute.provisioning_configuration(cpus=2, memory_gb=0.5, gpus=1, gpu_kind="H200", priority=3)
    target = ComputeTarget.create(ws, "big", size)
    for chosen in (target, "big"):
        config = ScriptRunConfig(source, "train.py", compute_target=chosen)
        Experiment(ws, "exp").submit(config)
        body = sent(server)
        assert body["resources"] == {"cpus": 2, "memory": 512 * 1024**2, "gpus": 1, "gpu_kind": "H200"}
        assert body["priority"] == 3
    low = ComputeTarget.create(ws, "low", AmlCompute.provisioning_configuration("standard_nc6", "lowpriority"))
    assert type(low) is AmlCompute
    Experiment(ws, "exp").submit(ScriptRunConfig(source, "train.py", compute_target="low"))
    assert sent(server)["resources"] == {"cpus": 6, "memory": 56 * 1024**3, "gpus": 1}
    assert sent(server)["priority"] == -10


def test_data_travels_with_the_run_and_its_name_becomes_a_path(
    ws: Workspace, server: Scripted, source: Path, tmp_path: Path, files: Callable[[], list[str]]
) -> None:
    (tmp_path / "data" / "deep").mkdir(parents=True)
    (tmp_path / "data" / "deep" / "rows.csv").write_text("1")
    store = Datastore.register_folder(ws, "rows", tmp_path / "data")
    arguments = ["--all", store.as_mount(), f"--part={store.path('deep').as_download('here')}", "x"]
    config = ScriptRunConfig(source, "train.py", arguments=arguments)
    deep = store.path("deep", "deep_data").as_download("here")
    config.run_config.data_references = {"deep_data": deep}
    config.arguments[2] = f"--part={deep}"
    Experiment(ws, "exp").submit(config)
    body = sent(server)
    assert body["arguments"] == ["--all", "azureml-data/rows", "--part=here", "x"]
    assert body["variables"]["AZUREML_DATAREFERENCE_rows"] == "azureml-data/rows"
    assert files() == ["azureml-data/rows/deep/rows.csv", "here/rows.csv", "train.py"]


def test_datasets_and_named_references_are_data_too(
    ws: Workspace, server: Scripted, source: Path, tmp_path: Path, files: Callable[[], list[str]]
) -> None:
    (tmp_path / "one.csv").write_text("1")
    store = ws.get_default_datastore()
    store.upload_files([str(tmp_path / "one.csv")], target_path="more")
    config = ScriptRunConfig(source, "train.py", arguments=["--in", Dataset.File.from_files(str(tmp_path / "one.csv"))])
    config.run_config.data_references = {"kept": DataReferenceConfiguration("workspaceblobstore", "more")}
    config.run_config.data = {"more": Dataset.File.from_files((store, "more")).as_named_input("more").as_download()}
    Experiment(ws, "exp").submit(config)
    assert sent(server)["arguments"] == ["--in", "azureml-data/input"]
    variables = sent(server)["variables"]
    assert variables["AZUREML_DATAREFERENCE_kept"] == "azureml-data/kept"
    assert (variables["more"], "kept" in variables) == ("azureml-data/more", False)
    assert files() == [f"azureml-data/{name}/one.csv" for name in ("input", "kept", "more")] + ["train.py"]


def test_data_may_not_lie_where_the_source_or_the_outputs_do(ws: Workspace, source: Path, tmp_path: Path) -> None:
    (tmp_path / "data").mkdir()
    store = Datastore.register_folder(ws, "rows", tmp_path / "data")
    for place in ("train.py", "outputs/x", "../x"):
        config = ScriptRunConfig(source, "train.py", arguments=[store.as_download(place)])
        with pytest.raises(AzureMLException) as caught:
            Experiment(ws, "exp").submit(config)
        assert caught.value.code in {"place_taken", "unsafe_path"}


def test_folders_that_are_watched_are_collected_and_none_where_nothing_shall_be(
    ws: Workspace, server: Scripted, source: Path
) -> None:
    for watched, collected, said in (
        (["logs"], True, None),
        (["mine/"], True, ("outputs", "logs", "mine")),
        ([], False, ()),
    ):
        config = changed(history__directories_to_watch=watched, history__output_collection=collected)
        Experiment(ws, "exp").submit(ScriptRunConfig(source, "train.py", run_config=config))
        assert sent(server).get("collect") == said


def changed(**changes: object) -> RunConfiguration:
    config = RunConfiguration()
    for path, value in changes.items():
        *sections, name = path.split("__")
        owner: Any = config
        for section in sections:
            owner = getattr(owner, section)
        setattr(owner, name, value)
    return config


@pytest.mark.parametrize(
    ("changes", "code"),
    [
        ({"framework": "PySpark"}, "spark_not_available"),
        ({"framework": "CNTK"}, "not_available"),
        ({"node_count": 2}, "not_available"),
        ({"mpi__process_count_per_node": 2}, "not_available"),
        ({"tensorflow__worker_count": 2}, "not_available"),
        ({"communicator": "OpenMpi"}, "not_available"),
        ({"docker": DockerConfiguration(use_docker=True)}, "not_available"),
        ({"command": "python train.py"}, "not_available"),
        ({"output_data": {"a": 1}}, "not_available"),
        ({"credential_passthrough": True}, "not_available"),
        ({"history__snapshot_project": False}, "not_available"),
    ],
)
def test_what_nothing_would_follow_is_refused_by_name(
    ws: Workspace, server: Scripted, source: Path, changes: dict[str, object], code: str
) -> None:
    with pytest.raises(RunConfigurationException) as caught:
        Experiment(ws, "exp").submit(ScriptRunConfig(source, "train.py", run_config=changed(**changes)))
    assert caught.value.code == code
    assert not [call for call in server.asked if call.method == "POST"]


def test_a_script_that_is_not_there_is_a_fault_of_the_snapshot(ws: Workspace, source: Path) -> None:
    with pytest.raises(SnapshotException) as caught:
        Experiment(ws, "exp").submit(ScriptRunConfig(source, "nowhere.py"))
    assert caught.value.code == "script_not_found"


def test_the_configuration_is_copied_when_it_is_given(source: Path) -> None:
    config = RunConfiguration()
    taken = ScriptRunConfig(source, "train.py", run_config=config)
    config.environment_variables["A"] = "1"
    assert taken.run_config.environment_variables == {}
    with pytest.raises(AttributeError):
        taken.compute_tarket = "local"  # type: ignore[attr-defined] # what users may do


def test_a_configuration_is_kept_in_a_file(tmp_path: Path, ws: Workspace) -> None:
    config = RunConfiguration(script="train.py", arguments=["--a", 1])
    config.environment = Environment("e")
    config.environment.python.conda_dependencies.add_pip_package("numpy")
    config.history.directories_to_watch = ["logs", "outputs"]
    config.data_references = {"d": ws.get_default_datastore().path("x", "d").as_download("y")}
    config.environment_variables = {"A_b": "c"}
    config.save(tmp_path, "mine")
    found = RunConfiguration.load(tmp_path, "mine")
    assert (found.script, found.arguments, found.history) == ("train.py", ["--a", 1], config.history)
    assert found.environment is not None
    assert found.environment._definition() == config.environment._definition()
    assert found.environment_variables == {"A_b": "c"}
    assert found.data_references["d"] == DataReferenceConfiguration("workspaceblobstore", "x", "download", "y")
    RunConfiguration.delete(tmp_path, "mine")
    with pytest.raises(FileNotFoundError):
        RunConfiguration.load(tmp_path, "mine")


# --- estimators


def test_an_estimator_is_a_script_with_its_packages_and_arguments(
    ws: Workspace, server: Scripted, source: Path, tmp_path: Path
) -> None:
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "rows.csv").write_text("1")
    store = Datastore.register_folder(ws, "rows", tmp_path / "data")
    estimator = Estimator(
        source_directory=str(source),
        script_params={"--data-folder": store.as_mount(), "--regularization": 0.8, "--flag": ""},
        compute_target="local",
        entry_script="train.py",
        conda_packages=["scikit-learn"],
        pip_packages=["pandas"],
        environment_variables={"A": "1"},
    )
    assert estimator.run_config.arguments[3] == 0.8
    Experiment(ws, "exp").submit(estimator)
    body = sent(server)
    assert body["arguments"] == ["--data-folder", "azureml-data/rows", "--regularization", "0.8", "--flag"]
    definition = server.body("POST", "/environments")["definition"]
    assert definition["python"]["conda"]["packages"] == ["scikit-learn"]
    assert definition["python"]["pip"] == ["pandas"]
    assert definition["variables"] == {"A": "1"}
    assert "docker" not in definition


def test_arguments_of_an_estimator_may_be_replaced_when_it_is_submitted(
    ws: Workspace, server: Scripted, source: Path
) -> None:
    estimator = Estimator(str(source), compute_target="local", entry_script="train.py", script_params={"--a": 1})
    Experiment(ws, "exp").submit(estimator, script_params={"--b": 2})
    assert sent(server)["arguments"] == ["--b", "2"]
    with pytest.raises(TrainingException):
        Experiment(ws, "exp").submit(estimator, pip_packages=["numpy"])


def test_an_estimator_without_a_target_has_the_size_of_a_machine(ws: Workspace, server: Scripted, source: Path) -> None:
    Experiment(ws, "exp").submit(Estimator(str(source), vm_size="STANDARD_D2_V2", entry_script="train.py"))
    assert sent(server)["resources"] == {"cpus": 2, "memory": 7 * 1024**3}


def test_a_container_is_asked_for_only_in_so_many_words(source: Path) -> None:
    estimator = Estimator(str(source), compute_target="local", entry_script="train.py", use_docker=True, shm_size="4g")
    environment = estimator.run_config.environment
    assert environment is not None
    assert (environment.docker.enabled, environment.docker.shm_size) == (True, "4g")


def test_estimators_of_frameworks_add_their_package(source: Path) -> None:
    learn = SKLearn(str(source), compute_target="local", entry_script="train.py", framework_version="1.5")
    assert [*learn.conda_dependencies.conda_packages] == ["scikit-learn=1.5"]
    torch = PyTorch(str(source), compute_target="local", entry_script="train.py", pip_packages=["pandas"])
    assert [*torch.conda_dependencies.pip_packages] == ["torch", "pandas"]


def test_files_of_an_estimator_lie_in_its_folder(source: Path, tmp_path: Path) -> None:
    (source / "r.txt").write_text("numpy\n")
    (tmp_path / "outside.txt").write_text("numpy\n")
    made = Estimator(str(source), compute_target="local", entry_script="train.py", pip_requirements_file="r.txt")
    assert [*made.conda_dependencies.pip_packages] == ["numpy"]
    with pytest.raises(TrainingException):
        Estimator(str(source), compute_target="local", pip_requirements_file="../outside.txt")


@pytest.mark.parametrize(
    ("options", "code"),
    [
        ({}, "target_missing"),
        ({"compute_target": "local", "node_count": 0}, "invalid_count"),
        ({"compute_target": "local", "node_count": 2}, "not_available"),
        ({"compute_target": "local", "resume_from": "r"}, "not_available"),
        (
            {"compute_target": "local", "environment_definition": Environment("e"), "pip_packages": ["a"]},
            "two_environments",
        ),
        ({"compute_target": "local", "conda_dependencies_file": "c", "pip_packages": ["a"]}, "two_specifications"),
        ({"compute_target": "local", "user_managed": True, "pip_packages": ["a"]}, "user_managed_packages"),
    ],
)
def test_what_does_not_go_together_is_refused(source: Path, options: dict[str, Any], code: str) -> None:
    with pytest.raises(TrainingException) as caught:
        Estimator(str(source), entry_script="train.py", **options)
    assert caught.value.code == code
