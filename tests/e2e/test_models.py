"""Models: registered from runs and files, versioned, with their lineage, downloaded."""

from pathlib import Path

import pytest

from cloche import Client, ClocheError
from tests.e2e.steps import Names, Scripts, completed
from tests.e2e.topology import Topology

TRAIN = """
from pathlib import Path
Path("outputs/model").mkdir(parents=True)
Path("outputs/model/weights.txt").write_text("weights")
Path("outputs/model/deep").mkdir()
Path("outputs/model/deep/more.txt").write_text("more")
"""


@pytest.mark.main_job
def test_a_model_from_a_run_knows_run_and_environment(
    topology: Topology, client: Client, unique: Names, script: Scripts
) -> None:
    client.environments.register(env := unique("env"))
    run = completed(client, script(TRAIN), environment=env)
    name = unique("model")
    made = topology.cli(
        "model", "register", name, "--from-run", run.id, "--path", "outputs/model", "--tag", "stage=test", "--json"
    ).document
    assert (made["version"], made["run_id"]) == ("1", run.id)
    assert (made["environment_name"], made["environment_version"]) == (env, "1")
    assert made["tags"] == {"stage": "test"}


@pytest.mark.main_job
def test_the_files_of_a_model_are_downloaded_as_they_were(
    topology: Topology, client: Client, unique: Names, script: Scripts, tmp_path: Path
) -> None:
    run = completed(client, script(TRAIN))
    name = unique("model")
    client.models.register(name, from_run=run.id, path="outputs/model")
    topology.cli("model", "download", name, "--to", tmp_path)
    found = {str(file.relative_to(tmp_path)): file.read_text() for file in tmp_path.rglob("*.txt")}
    assert {path.removeprefix("model/"): text for path, text in found.items()} == {
        "weights.txt": "weights",
        "deep/more.txt": "more",
    }


def test_a_model_is_registered_from_local_files(client: Client, unique: Names, tmp_path: Path) -> None:
    (tmp_path / "model.bin").write_bytes(b"\0\1\2" * 1000)
    name = unique("model")
    made = client.models.register(name, path=tmp_path / "model.bin", tags={"a": "b"}, description="a model")
    assert (made.version, made.size, made.run_id, made.tags) == ("1", 3000, "", {"a": "b"})
    (path,) = client.models.download(name, None, tmp_path / "got")
    assert path.read_bytes() == b"\0\1\2" * 1000


def test_each_registration_of_a_model_is_a_version(client: Client, unique: Names, tmp_path: Path) -> None:
    name, file = unique("model"), tmp_path / "model.txt"
    for text in ("one", "two", "one"):
        file.write_text(text)
        client.models.register(name, path=file)
    assert [one.version for one in client.models.versions(name)] == ["3", "2", "1"]
    (path,) = client.models.download(name, 2, tmp_path / "got")
    assert path.read_text() == "two"
    assert client.models.get(name).version == "3"
    assert client.models.get(name, 1).version == "1"


@pytest.mark.main_job
def test_a_run_gets_the_models_that_it_names(client: Client, unique: Names, script: Scripts, tmp_path: Path) -> None:
    name = unique("model")
    (tmp_path / "model.txt").write_text("given")
    client.models.register(name, path=tmp_path / "model.txt")
    run = completed(client, script("print('fine')"), models=[f"{name}:1"])
    assert run.status == "Completed"


def test_a_deleted_model_refuses_new_references(client: Client, unique: Names, tmp_path: Path) -> None:
    name = unique("model")
    (tmp_path / "model.txt").write_text("gone")
    client.models.register(name, path=tmp_path / "model.txt")
    client.models.delete(name)
    with pytest.raises(ClocheError) as caught:
        client.models.register(name, path=tmp_path / "model.txt")
    assert caught.value.code == "model_deleted"
    assert name not in [one.name for one in client.models.list()]
