"""Workspaces, targets, datastores and datasets: found, named, refused."""

import hashlib
import json
from pathlib import Path

import pytest

from cloche._calls import Answer, Call
from cloche.core import Dataset, Datastore, Environment, Keyvault, Workspace
from cloche.core import list as chosen_list
from cloche.core.compute import AksCompute, AmlCompute, ComputeTarget, DockerCompute, NodeGroup, ProcessCompute
from cloche.core.workspace import project_of
from cloche.exceptions import (
    AuthenticationException,
    AzureMLException,
    ComputeTargetException,
    UserErrorException,
    WorkspaceException,
)
from tests.unit.core.scripted import Scripted, page


def test_a_name_means_a_project() -> None:
    assert [project_of(name) for name in ("workspace_name", "My-WS", "a")] == ["workspace-name", "my-ws", "a"]
    for name in ("", "-a", "a/b", "a" * 64):
        with pytest.raises(WorkspaceException):
            project_of(name)


def test_without_a_token_there_is_no_workspace(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("CLOCHE_TOKEN", raising=False)
    with pytest.raises(AuthenticationException) as caught:
        Workspace(url="http://127.0.0.1:9", home=tmp_path)
    assert caught.value.code == "no_token"


def test_a_config_file_names_the_workspace(tmp_path: Path, ws: Workspace, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[tuple[object, ...]] = []
    monkeypatch.setattr(Workspace, "__init__", lambda _self, *names, **where: asked.append((*names, where)))
    ws.name, ws.subscription_id = "team", "s1"
    ws.write_config(tmp_path)
    assert "token" not in (tmp_path / ".azureml" / "config.json").read_text()
    below = tmp_path / "deep" / "er"
    below.mkdir(parents=True)
    monkeypatch.chdir(below)
    Workspace.from_config(token="t")
    Workspace.from_config(tmp_path)
    assert asked[0] == ("s1", "", "team", None, {"url": "http://127.0.0.1:9", "token": "t"})
    assert asked[1][2] == "team"


def test_a_config_file_that_is_meant_must_be_there_and_readable(tmp_path: Path) -> None:
    with pytest.raises(UserErrorException) as caught:
        Workspace.from_config(tmp_path)
    assert caught.value.code == "config_not_found"
    (tmp_path / "config.json").write_text("[]")
    with pytest.raises(UserErrorException) as caught:
        Workspace.from_config(tmp_path / "config.json")
    assert caught.value.code == "invalid_config"


def test_list_means_environments_for_a_workspace_and_the_builtin_for_all_else(ws: Workspace, server: Scripted) -> None:
    environment = {"name": "e", "version": "2", "definition": {"python": {"pip": ["numpy"]}}}
    server.answers["GET /environments"] = page(environment)
    ws.name = "workspace_name"
    for of in ("workspace_name", ws):
        assert [(one.name, one.version) for one in chosen_list(of)] == [("e", "2")]
    assert chosen_list("abc") == ["a", "b", "c"]
    assert chosen_list(range(2)) == [0, 1]
    assert chosen_list() == []


def test_what_a_workspace_has_is_by_name(ws: Workspace, server: Scripted) -> None:
    server.answers["GET /environments"] = page({"name": "e", "version": "1", "definition": {}})
    server.answers["GET /runs"] = page({"id": "r", "status": "Completed", "experiment": "x"})
    server.answers["GET /models"] = page({"name": "m", "version": "1"})
    server.answers["GET /services"] = page({"name": "s", "status": "Healthy"})
    kinds = (ws.environments, ws.experiments, ws.models, ws.webservices, ws.datastores, ws.images, ws.datasets)
    assert [sorted(one) for one in kinds] == [["e"], ["x"], ["m"], ["s"], ["workspaceblobstore"], [], []]


def test_secrets_and_identities_of_azure_are_refused(ws: Workspace) -> None:
    with pytest.raises(UserErrorException):
        ws.get_default_keyvault()
    with pytest.raises(UserErrorException):
        Keyvault()
    with pytest.raises(UserErrorException):
        Workspace(auth=object(), url="http://127.0.0.1:9", token="t")


# --- targets


def test_a_target_is_made_listed_changed_and_deleted(ws: Workspace, tmp_path: Path) -> None:
    target = ComputeTarget.create(ws, "small", ProcessCompute.provisioning_configuration(cpus=0.5))
    target.wait_for_completion(show_output=True)
    assert type(ComputeTarget(ws, "small")) is ProcessCompute
    assert target.get_status().serialize()["currentNodeCount"] == 1
    target.update(cpus=1.0)
    assert ComputeTarget(ws, "small").configuration.cpus == 1.0
    assert [*ws.compute_targets] == ["small"]
    kept = next((tmp_path / "home" / "core").rglob("names.json"))
    assert kept.stat().st_mode & 0o077 == 0
    target.delete()
    with pytest.raises(ComputeTargetException) as caught:
        ComputeTarget(ws, "small")
    assert caught.value.code == "target_not_found"


def test_a_machine_that_is_not_known_is_refused_with_those_that_are(ws: Workspace) -> None:
    with pytest.raises(ComputeTargetException) as caught:
        AmlCompute.provisioning_configuration(vm_size="STANDARD_X")
    assert "STANDARD_NC6" in caught.value.todo
    assert {"name": "STANDARD_NC6", "vCPUs": 6, "memoryGB": 56, "gpus": 1} in AmlCompute.supported_vmsizes(ws)


@pytest.mark.parametrize(
    ("kind", "code"),
    [(DockerCompute, "not_available"), (NodeGroup, "not_available"), (AksCompute, "kubernetes_not_available")],
)
def test_targets_that_cannot_be_had_say_what_is_missing(kind: type[DockerCompute], code: str) -> None:
    with pytest.raises(ComputeTargetException) as caught:
        kind.provisioning_configuration()
    assert caught.value.code == code


@pytest.mark.parametrize("name", ["local", "1a", "a b", ""])
def test_what_cannot_be_a_name_is_refused(ws: Workspace, name: str) -> None:
    with pytest.raises(AzureMLException) as caught:
        ComputeTarget.create(ws, name, ProcessCompute.provisioning_configuration())
    assert caught.value.code == "invalid_name"


# --- datastores


def test_files_go_into_a_datastore_and_come_back(ws: Workspace, tmp_path: Path) -> None:
    (tmp_path / "src" / "a").mkdir(parents=True)
    (tmp_path / "src" / "a" / "one.txt").write_text("1")
    store = ws.get_default_datastore()
    reference = store.upload(tmp_path / "src", target_path="in")
    with reference.local() as found:
        assert (found / "a" / "one.txt").read_text() == "1"
    with pytest.raises(FileExistsError):
        store.upload(tmp_path / "src", target_path="in")
    store.upload(tmp_path / "src", target_path="in", overwrite=True)
    assert store.download(tmp_path / "got", prefix="in") == 1
    assert (tmp_path / "got" / "in" / "a" / "one.txt").read_text() == "1"
    assert store.download(tmp_path / "got") == 0


def test_another_datastore_may_be_the_default_one(ws: Workspace, tmp_path: Path) -> None:
    (tmp_path / "data").mkdir()
    Datastore.register_folder(ws, "mine", tmp_path / "data").set_as_default()
    assert ws.get_default_datastore().name == "mine"
    ws.set_default_datastore("workspaceblobstore")
    assert ws.get_default_datastore().name == "workspaceblobstore"
    Datastore.get(ws, "mine").unregister()
    assert [*ws.datastores] == ["workspaceblobstore"]
    with pytest.raises(UserErrorException) as caught:
        Datastore.get(ws, "mine")
    assert caught.value.code == "datastore_not_found"


@pytest.mark.parametrize("path", ["../..", "a/../../b", "/../x"])
def test_a_reference_stays_in_its_datastore(ws: Workspace, path: str) -> None:
    with pytest.raises(UserErrorException) as caught, ws.get_default_datastore().path(path).local():
        pass
    assert caught.value.code == "unsafe_path"


def test_a_reference_has_the_known_name_and_text(ws: Workspace) -> None:
    store = ws.get_default_datastore()
    assert str(store.as_mount()) == "$AZUREML_DATAREFERENCE_workspaceblobstore"
    below = store.path("a").path("b", "my-name").as_download("here")
    assert (below.path_on_datastore, below.data_reference_name, below.mode, below.place) == (
        "a/b", "my_name", "download", "here",
    )  # fmt: skip
    assert store.path("a").data_reference_name != store.path("a").data_reference_name
    for wanted in (store.as_upload, Datastore.register_azure_blob_container):
        with pytest.raises(UserErrorException):
            wanted()


def test_a_dataset_is_a_path_of_a_datastore_or_of_this_machine(ws: Workspace, tmp_path: Path) -> None:
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "one.csv").write_text("1")
    here = Dataset.File.from_files(str(tmp_path / "data"))
    assert here.to_path() == ["/one.csv"]
    assert here.download(tmp_path / "got") == [str(tmp_path / "got" / "one.csv")]
    with pytest.raises(FileExistsError):
        here.download(tmp_path / "got")
    store = Datastore.register_folder(ws, "rows", tmp_path / "data")
    named = Dataset.File.from_files((store, "one.csv")).as_named_input("training").as_mount()
    assert str(named) == "$AZUREML_DATAREFERENCE_training"
    for wrong in ("nowhere.csv", 3):
        with pytest.raises(UserErrorException):
            Dataset.File.from_files(wrong)
    with pytest.raises(UserErrorException):
        Dataset.Tabular.from_delimited_files("x")
    with pytest.raises(UserErrorException):
        Dataset.get_by_name(ws, "x")


def test_names_are_kept_apart_by_project(ws: Workspace, server: Scripted, tmp_path: Path) -> None:
    def version(_call: Call) -> Answer:
        return Answer(200, {}, json.dumps({"installation": "i2"}).encode())

    ComputeTarget.create(ws, "small", ProcessCompute.provisioning_configuration())
    server.answers["GET /version"] = version
    other = Workspace(url="http://127.0.0.1:9", token="t", home=tmp_path / "home")
    other.client.close()
    other.client._transport = server  # type: ignore[assignment] # the part of it that is used
    assert [*other.compute_targets] == []


# --- private wheels


def test_a_private_wheel_is_uploaded_once_unless_that_is_meant(ws: Workspace, server: Scripted, tmp_path: Path) -> None:
    file = tmp_path / "my-custom.whl"
    file.write_bytes(b"wheel")
    digest = f"sha256:{hashlib.sha256(b'wheel').hexdigest()}"
    path = f"/api/v1/wheels/{digest}/my_custom-1.0-py3-none-any.whl"
    wheel = {"filename": "my_custom-1.0-py3-none-any.whl", "digest": digest, "digests": [digest], "path": path}
    server.answers |= {
        "GET /wheels": page(),
        "POST /files/wheels/missing": {"missing": []},
        "POST /wheels": wheel,
    }
    assert Environment.add_private_pip_wheel(ws, file) == f"http://127.0.0.1:9{path}"
    server.answers["GET /wheels"] = page(wheel)
    with pytest.raises(UserErrorException) as caught:
        Environment.add_private_pip_wheel(ws, str(file))
    assert caught.value.code == "wheel_exists"
    assert Environment.add_private_pip_wheel(ws, file, exist_ok=True).endswith(path)
    with pytest.raises(UserErrorException) as caught:
        Environment.add_private_pip_wheel(ws, tmp_path / "nowhere.whl")
    assert caught.value.code == "wheel_not_found"
