"""Runs, models and services of `cloche.core`, as their server answers."""

from pathlib import Path
from typing import Any

import orjson
import pytest

from cloche._calls import Answer
from cloche._views import Model as View
from cloche.core import Environment, Experiment, Image, Model, Run, Webservice, Workspace, get_run
from cloche.core.model import InferenceConfig
from cloche.core.webservice import AciWebservice, AksWebservice, LocalWebservice
from cloche.exceptions import (
    ActivityFailedException,
    AzureMLException,
    ModelNotFoundException,
    ModelPathNotFoundException,
    RunEnvironmentException,
    UserErrorException,
    WebserviceException,
)
from tests.unit.core.scripted import ENDED, Scripted, page, problem

MODEL = {"name": "m", "version": "2", "tags": {"a": "b", "property.p": "q", "model_framework": "ScikitLearn"}}
SERVICE: dict[str, Any] = {
    "name": "svc",
    "status": "Healthy",
    "scoring_uri": "http://h/api/v1/services/svc/score",
    "models": [{"name": "m", "version": "2"}],
    "tags": {"a": "b", "property.p": "q"},
}


@pytest.fixture
def run(ws: Workspace, server: Scripted) -> Run:
    server.answers |= {
        "GET /runs/r1": {**ENDED, "environment": {"name": "e", "version": "1"}, "script": "train.py", "node": "n1"},
        "GET /runs/r1/outputs": {"files": [{"path": "outputs/model.pkl"}, {"path": "outputs/deep/a.txt"}]},
        "GET /runs/r1/log": b"hello\n",
        "GET /runs/r1/metrics": {"metrics": {"x": 1, "y": [1, 2]}},
        "GET /runs/r1/outputs/outputs/model.pkl": b"weights",
        "GET /runs/r1/outputs/outputs/deep/a.txt": b"a",
    }
    return Run(Experiment(ws, "exp"), "r1")


def test_a_run_is_found_by_its_id(ws: Workspace, run: Run) -> None:
    assert Run.get(ws, "r1").experiment.name == "exp"
    assert get_run(run.experiment, "r1").id == "r1"
    with pytest.raises(AzureMLException):
        Run.get(ws, "r2")


def test_what_is_known_of_a_run_has_the_known_names(run: Run) -> None:
    details = run.get_details()
    assert (details["runId"], details["status"], details["target"]) == ("r1", "Completed", "n1")
    assert run.get_tags() == {"a": "b"}
    assert run.get_metrics("y") == {"y": [1, 2]}
    assert run.get_metrics(recursive=True) == {"r1": {"x": 1, "y": [1, 2]}}
    assert (run.get_snapshot_id(), run.get_children(), run.get_properties()) == ("sha256:1", [], {})
    assert run.get_details_with_logs()["logFiles"] == {"azureml-logs/70_driver_log.txt": "hello\n"}


def test_a_run_that_failed_raises_with_its_reason_unless_that_is_not_wanted(run: Run, server: Scripted) -> None:
    failed = {"id": "r1", "status": "Failed", "problem": {"code": "script_failed", "message": "It ended with 1."}}
    server.answers["GET /runs/r1"] = failed
    with pytest.raises(ActivityFailedException) as caught:
        run.wait_for_completion()
    assert (caught.value.code, "It ended with 1." in caught.value.message) == ("script_failed", True)
    details = run.wait_for_completion(raise_on_error=False)
    assert details["error"] == {"error": {"code": "script_failed", "message": "It ended with 1."}}


def test_files_of_a_run_are_listed_and_fetched(run: Run, tmp_path: Path) -> None:
    assert run.get_file_names() == ["azureml-logs/70_driver_log.txt", "outputs/model.pkl", "outputs/deep/a.txt"]
    run.download_file("outputs/model.pkl")
    assert Path("model.pkl").read_bytes() == b"weights"
    run.download_file("outputs/model.pkl", tmp_path)
    run.download_files("outputs", tmp_path / "all", append_prefix=False)
    assert (tmp_path / "all" / "deep" / "a.txt").read_bytes() == b"a"
    assert Path(run.get_all_logs(tmp_path)[0]).read_text() == "hello\n"
    with pytest.raises(UserErrorException):
        run.download_files("outputs", tmp_path, output_paths=["one"])


def test_only_its_script_says_what_a_run_logs(run: Run) -> None:
    for name in ("log", "tag", "upload_file", "complete"):
        with pytest.raises(UserErrorException) as caught:
            getattr(run, name)("a", 1)
        assert caught.value.code == "not_available"


def test_runs_of_an_experiment_are_those_with_its_name_and_tags(ws: Workspace, server: Scripted) -> None:
    other = {"id": "r2", "status": "Running", "experiment": "other"}
    server.answers["GET /runs"] = page(ENDED, other)
    experiment = Experiment(ws, "exp")
    assert [one.id for one in experiment.get_runs()] == ["r1"]
    assert [one.id for one in experiment.get_runs(tags={"a": "b"})] == ["r1"]
    assert [one.id for one in experiment.get_runs(tags="c")] == []
    assert [one.name for one in Experiment.list(ws)] == ["exp", "other"]
    for name in ("", "a b", "-a"):
        with pytest.raises(UserErrorException):
            Experiment(ws, name)


def test_outside_a_run_there_is_a_context_only_if_that_is_allowed(monkeypatch: pytest.MonkeyPatch) -> None:
    from cloche_runtime.run import Run as Inside  # noqa: PLC0415 - its memory is what is changed

    monkeypatch.setattr(Inside, "_context", None)
    monkeypatch.delenv("CLOCHE_RUN_ID", raising=False)
    with pytest.raises(RunEnvironmentException):
        Run.get_context(allow_offline=False)
    assert Run.get_context().id.startswith("OfflineRun_")
    monkeypatch.setattr(Inside, "_context", None)


# --- models


def test_a_model_is_made_of_what_a_run_left(run: Run, server: Scripted) -> None:
    server.answers["POST /models"] = MODEL
    model = run.register_model("m", "outputs/model.pkl", tags={"a": "b"}, properties={"p": "q"}, model_framework="Onnx")
    assert server.body("POST", "/models")["from_run"] == {"run_id": "r1", "path": "outputs/model.pkl"}
    said = {"a": "b", "property.p": "q", "model_framework": "Onnx"}
    assert server.body("POST", "/models")["tags"] == said
    assert (model.id, model.version, model.tags, model.properties) == ("m:2", 2, {"a": "b"}, {"p": "q"})
    assert model.model_framework == "ScikitLearn"
    run.register_model("m", "outputs/deep/")
    with pytest.raises(ModelPathNotFoundException) as caught:
        run.register_model("m", "outputs/nothing")
    assert "outputs/model.pkl" in caught.value.message


def test_models_are_found_listed_and_fetched(ws: Workspace, server: Scripted, tmp_path: Path) -> None:
    server.answers |= {
        "GET /models/m": {**MODEL, "files": [{"path": "model.pkl"}]},
        "GET /models": page(MODEL),
        "GET /models/m/versions": page(MODEL, {**MODEL, "version": "1", "tags": {}}),
        "GET /models/m/files/model.pkl": b"weights",
    }
    model = Model(ws, id="m:2")
    assert model.download(tmp_path / "got") == str(tmp_path / "got" / "model.pkl")
    with pytest.raises(WebserviceException):
        model.download(tmp_path / "got")
    assert [one.version for one in Model.list(ws)] == [2, 1]
    assert [one.version for one in Model.list(ws, latest=True)] == [2]
    assert [one.version for one in Model.list(ws, "m", tags=[["a", "b"]], properties=["p"])] == [2]
    assert Path(Model.get_model_path("m", _workspace=ws)).read_bytes() == b"weights"
    with pytest.raises(WebserviceException):
        Model(ws, "nowhere")
    with pytest.raises(ModelNotFoundException):
        Model.get_model_path("nowhere", _workspace=ws)
    with pytest.raises(WebserviceException):
        Model.register(ws, tmp_path, "m", model_framework_version="1")
    with pytest.raises(FileNotFoundError):
        Model.register(ws, tmp_path / "nowhere", "m")


# --- services


@pytest.fixture
def score(tmp_path: Path) -> Path:
    (tmp_path / "score.py").write_text("def init(): pass\ndef run(data): return data\n")
    return tmp_path / "score.py"


@pytest.mark.parametrize(
    ("name", "text", "code"),
    [
        ("nowhere.py", None, "script_not_found"),
        ("score.txt", "", "invalid_script"),
        ("1score.py", "", "invalid_script"),
        ("score.py", "def run(:", "invalid_script"),
    ],
)
def test_a_scoring_script_is_looked_at_early(tmp_path: Path, name: str, text: str | None, code: str) -> None:
    if text is not None:
        (tmp_path / name).write_text(text)
    with pytest.raises(WebserviceException) as caught:
        InferenceConfig(tmp_path / name)
    assert caught.value.code == code


@pytest.mark.parametrize("options", [{"runtime": "spark-py"}, {"enable_gpu": True}, {"base_image": "ubuntu"}])
def test_what_an_inference_config_cannot_have_is_refused(score: Path, options: dict[str, Any]) -> None:
    with pytest.raises(WebserviceException):
        InferenceConfig(score, **options)


def test_a_service_gets_its_script_alone_its_models_and_its_size(ws: Workspace, server: Scripted, score: Path) -> None:
    server.answers |= {"POST /services": SERVICE, "GET /services/svc": SERVICE}
    config = AciWebservice.deploy_configuration(cpu_cores=1, memory_gb=1, tags={"a": "b"}, properties={"p": "q"})
    model = Model._of(ws, View.model_validate(MODEL))
    service = Model.deploy(ws, "svc", [model, "other:1"], InferenceConfig(score), config)
    body = server.body("POST", "/services")
    assert (body["entry_script"], body["name"]) == ("score.py", "svc")
    assert body["models"] == [{"name": "m", "version": "2"}, {"name": "other", "version": "1"}]
    assert body["resources"] == {"cpus": 1, "memory": 1024**3}
    assert body["tags"] == {"a": "b", "property.p": "q"}
    assert (service.state, service.tags, service.properties) == ("Healthy", {"a": "b"}, {"p": "q"})
    assert service.swagger_uri == "http://h/api/v1/services/svc/swagger.json"


def test_a_service_is_scored_with_its_first_key(ws: Workspace, server: Scripted) -> None:
    server.answers |= {
        "GET /services/svc": SERVICE,
        "GET /services/svc/keys": {"primary": "k1", "secondary": "k2"},
        "POST /services/svc/score": {"got": 1},
        "GET /services/svc/log": b"one\ntwo\n",
        "DELETE /services/svc": problem(404, "service_not_found"),
    }
    service = Webservice(ws, "svc")
    service.wait_for_deployment(show_output=True)
    assert service.run('{"data": 1}') == {"got": 1}
    scored = next(call for call in server.asked if call.path.endswith("/score"))
    assert (scored.headers["authorization"], scored.content) == ("Bearer k1", b'{"data": 1}')
    assert service.get_keys() == ("k1", "k2")
    assert service.get_logs(num_lines=1) == "two"
    service.delete()
    with pytest.raises(WebserviceException):
        service.regen_key("third")


def test_a_service_that_failed_says_why(ws: Workspace, server: Scripted) -> None:
    error = {"code": "init_failed", "message": "init() raised."}
    server.answers["GET /services/svc"] = {**SERVICE, "status": "Failed", "error": error}
    with pytest.raises(WebserviceException) as caught:
        Webservice(ws, "svc").wait_for_deployment()
    assert caught.value.code == "init_failed"
    assert "init() raised." in caught.value.message


def test_an_update_is_a_new_revision_with_the_same_models(ws: Workspace, server: Scripted, score: Path) -> None:
    server.answers |= {"GET /services/svc": SERVICE, "PUT /services/svc": SERVICE}
    service = Webservice(ws, "svc")
    service.update(inference_config=InferenceConfig(score), description="new")
    body = server.body("PUT", "/services/svc")
    assert (body["models"], body["description"]) == ([{"name": "m", "version": "2"}], "new")
    with pytest.raises(WebserviceException):
        service.update(tags={"a": "b"})


def test_services_are_listed_by_model_and_tag(ws: Workspace, server: Scripted) -> None:
    server.answers["GET /services"] = page(SERVICE)
    assert [one.name for one in Webservice.list(ws, model_name="m", tags=["a"])] == ["svc"]
    assert Webservice.list(ws, model_id="m:1") == []
    assert Webservice.list(ws, tags=[["a", "c"]]) == []


@pytest.mark.parametrize(
    ("make", "options", "code"),
    [
        (AciWebservice, {"auth_enabled": False}, "not_available"),
        (AciWebservice, {"ssl_enabled": True}, "not_available"),
        (AciWebservice, {"cpu_cores": 0}, "invalid_number"),
        (LocalWebservice, {"port": 80}, "not_available"),
        (LocalWebservice, {"port": 70_000}, "invalid_port"),
        (AksWebservice, {}, "kubernetes_not_available"),
    ],
)
def test_what_a_deployment_cannot_have_is_refused(make: Any, options: dict[str, Any], code: str) -> None:
    with pytest.raises(WebserviceException) as caught:
        make.deploy_configuration(**options)
    assert caught.value.code == code


def test_images_of_models_are_not_made() -> None:
    for make in (Image.create, Model.package, Model.profile, Webservice.deploy_from_image):
        with pytest.raises(WebserviceException):
            make()


def test_builds_are_told_in_the_known_words(
    ws: Workspace, server: Scripted, capsys: pytest.CaptureFixture[str]
) -> None:
    registered = {"name": "e", "version": "1", "definition": {}, "definition_hash": "e1:" + "ab" * 32}
    server.answers |= {
        "POST /environments": lambda _call: Answer(201, {}, orjson.dumps(registered)),
        "GET /environments/e": registered,
        "POST /builds": {"id": "b", "status": "Completed"},
        "GET /builds/b/log": b"event: line\ndata: solved\n\nevent: end\ndata: {}\n\n",
        "GET /builds/b/lock": b"lock",
        "GET /builds": page({"id": "b", "status": "Completed", "definition_hash": registered["definition_hash"]}),
    }
    build = Environment("e").build(ws)
    assert (build.status, build.succeeded, build.lock) == ("Succeeded", True, "lock")
    details = Environment("e").get_image_details(ws)
    assert (details.image_exist, details.repository) == (False, "cloche/cloche_" + "ab" * 16)
    assert details["ingredients"] == {"dockerfile": None}
    build.wait_for_completion(show_output=False)
    server.answers["POST /builds"] = {
        "id": "b",
        "status": "Failed",
        "problem": {"code": "package_not_found", "message": "There is no x."},
    }
    with pytest.raises(UserErrorException) as caught:
        Environment("e").build(ws).wait_for_completion(show_output=False)
    assert caught.value.code == "package_not_found"
