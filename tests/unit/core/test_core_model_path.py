"""Where scripts find a model's files, as `Model.get_model_path` says in a scoring service."""

from pathlib import Path

import pytest

from cloche_runtime.model import Model


@pytest.fixture
def models(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder of models of a service, with two versions of one model."""
    monkeypatch.chdir(tmp_path)
    root = tmp_path / "somewhere" / "azureml-models"
    for version, name in (("2", "old.pkl"), ("10", "model.pkl")):
        (root / "mymodel" / version).mkdir(parents=True)
        (root / "mymodel" / version / name).touch()
    return root


@pytest.mark.parametrize("told", ["", "mymodel/10"])
def test_the_newest_version_is_meant_unless_one_is_named(
    models: Path, monkeypatch: pytest.MonkeyPatch, told: str
) -> None:
    monkeypatch.setenv("AZUREML_MODEL_DIR", str(models / told))
    assert Model.get_model_path("mymodel") == str(models / "mymodel" / "10" / "model.pkl")
    assert Model.get_model_path("mymodel", 2) == str(models / "mymodel" / "2" / "old.pkl")
    for name, version in (("mymodel", 3), ("other", None)):
        with pytest.raises(FileNotFoundError):
            Model.get_model_path(name, version)


def test_a_model_of_several_files_is_their_folder(models: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AZUREML_MODEL_DIR", str(models))
    (models / "mymodel" / "10" / "more.txt").touch()
    assert Model.get_model_path("mymodel") == str(models / "mymodel" / "10")


def test_elsewhere_a_file_or_folder_of_the_name_is_meant(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("AZUREML_MODEL_DIR", raising=False)
    (tmp_path / "azureml-models" / "m" / "1").mkdir(parents=True)
    (tmp_path / "azureml-models" / "m" / "1" / "m.pkl").touch()
    (tmp_path / "local").touch()
    assert Path(Model.get_model_path("m")).name == "m.pkl"
    assert Model.get_model_path("local") == "local"
