"""Files and folders of this machine as definitions: found, bounded, never outside the folder."""

import json
from pathlib import Path

import pytest

from cloche._errors import Invalid, NotFound
from cloche._imports import read_conda_environment, read_file
from cloche._life import diff


def conda(prefix: Path) -> Path:
    """Make what an environment of conda has of records."""
    (prefix / "conda-meta").mkdir(parents=True)
    forge = {"channel": "https://conda.anaconda.org/conda-forge/linux-64", "subdir": "linux-64"}
    for name, version in (("python", "3.11.7"), ("numpy", "1.26.4")):
        record = {"name": name, "version": version, **forge}
        (prefix / "conda-meta" / f"{name}-{version}-0.json").write_text(json.dumps(record))
    for name, installer in (("numpy", "conda"), ("Requests", "pip")):
        info = prefix / "lib" / "python3.11" / "site-packages" / f"{name}-2.0.dist-info"
        info.mkdir(parents=True)
        (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: 2.0\n")
        (info / "INSTALLER").write_text(f"{installer}\n")
    return prefix


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    for name in ("CONDA_PREFIX", "CONDA_ROOT", "MAMBA_ROOT_PREFIX", "CONDA_EXE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    return tmp_path


def said(named: str) -> tuple[str | None, tuple[str, ...]]:
    section = read_conda_environment(named).definition.python
    return section.version, section.pip


def test_a_conda_environment_is_found_by_folder_and_by_name(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    expected = ("3.11.7", ("requests==2.0",))
    prefix = conda(home / "somewhere" / "mine")
    assert said(str(prefix)) == expected
    (home / ".conda").mkdir()
    (home / ".conda" / "environments.txt").write_text(f"{prefix}\n")
    assert said("mine") == expected
    conda(home / "root" / "envs" / "other")
    monkeypatch.setenv("MAMBA_ROOT_PREFIX", str(home / "root"))
    assert said("other") == expected


def test_an_environment_that_is_not_here_names_those_that_are(home: Path) -> None:
    (home / ".conda").mkdir()
    (home / ".conda" / "environments.txt").write_text("/opt/envs/known\n")
    with pytest.raises(NotFound) as caught:
        read_conda_environment("mine")
    assert (caught.value.code, "known" in str(caught.value)) == ("conda_environment_not_found", True)


def test_a_folder_of_azure_needs_no_second_file(tmp_path: Path) -> None:
    (tmp_path / "azureml_environment.json").write_text('{"name": "a", "environmentVariables": {"A": "1"}}')
    found = read_file(tmp_path)
    assert (found.name, found.definition.variables) == ("a", {"A": "1"})


def test_a_file_names_none_outside_its_folder(tmp_path: Path) -> None:
    (tmp_path / "secret.yml").write_text("dependencies: [a]")
    (tmp_path / "in").mkdir()
    for number, target in enumerate(("../secret.yml", str(tmp_path / "secret.yml"))):
        file = tmp_path / "in" / f"{number}.yaml"
        file.write_text(f"image: a:1\nconda_file: {target}\n")
        with pytest.raises(Invalid) as caught:
            read_file(file)
        assert caught.value.code == "file_outside"


def test_a_link_leads_to_no_file_outside_either(tmp_path: Path) -> None:
    (tmp_path / "secret.yml").write_text("dependencies: [a]")
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "link.yml").symlink_to(tmp_path / "secret.yml")
    (tmp_path / "in" / "env.yaml").write_text("image: a:1\nconda_file: link.yml\n")
    with pytest.raises(Invalid) as caught:
        read_file(tmp_path / "in" / "env.yaml")
    assert caught.value.code == "file_outside"


@pytest.mark.parametrize(("content", "code"), [(b"\xff\xfe", "file_not_text"), (None, "file_not_found")])
def test_a_file_that_cannot_be_read_is_named(tmp_path: Path, content: bytes | None, code: str) -> None:
    file = tmp_path / "requirements.txt"
    if content is not None:
        file.write_bytes(content)
    with pytest.raises((Invalid, NotFound)) as caught:
        read_file(file)
    assert caught.value.code == code


def test_a_difference_begins_with_what_was_declared() -> None:
    operation = diff("a", "2", "1", None)
    assert next(operation).path == "/api/v1/environments/a/diff"  # type: ignore[union-attr]
