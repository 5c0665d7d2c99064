"""`CondaDependencies`: canonical names, replacement, options, files."""

from pathlib import Path

import pytest

from cloche.core.conda_dependencies import CondaDependencies
from cloche.exceptions import UserErrorException
from cloche.formats.conda_yaml import read_conda


def test_fresh_dependencies_ask_for_nothing() -> None:
    made = CondaDependencies()
    assert ([*made.conda_packages], [*made.pip_packages], made.get_python_version()) == ([], [], None)
    assert [*made.conda_channels] == ["conda-forge"]
    assert made.get_default_number_of_packages() == (0, 0)


@pytest.mark.parametrize(
    ("first", "second"),
    [
        ("Pillow==6", "pillow==7"),
        ("zope.interface", "zope-interface>=5"),
        ("numpy [fast]", "numpy; python_version > '3'"),
        ("https://example.org/simple/my_custom-1.0-py3-none-any.whl", "my-custom==2"),
        ("demo @ https://example.org/demo-1-py3-none-any.whl", "demo"),
    ],
)
def test_a_package_of_pip_that_is_added_again_replaces_the_first(first: str, second: str) -> None:
    made = CondaDependencies()
    made.add_pip_package(first)
    made.add_pip_package("other")
    made.add_pip_package(second)
    assert [*made.pip_packages] == ["other", second]
    made.remove_pip_package(first)
    assert [*made.pip_packages] == ["other"]


def test_a_package_of_conda_that_is_added_again_replaces_the_first_in_place() -> None:
    made = CondaDependencies.create(conda_packages=["numpy=1.25", "scipy"])
    made.add_conda_package("NumPy>=1.26")
    assert [*made.conda_packages] == ["NumPy>=1.26", "scipy"]
    made.remove_conda_package("numpy")
    assert [*made.conda_packages] == ["scipy"]


def test_python_is_chosen_in_one_place() -> None:
    made = CondaDependencies.create(conda_packages=["scipy"], python_version="3.11")
    made.add_conda_package("python=3.12")
    assert (made.get_python_version(), [*made.conda_packages]) == ("3.12", ["python=3.12", "scipy"])
    with pytest.raises(UserErrorException):
        made.remove_conda_package("python")


def test_a_package_that_begins_with_python_is_not_python() -> None:
    made = CondaDependencies()
    made.add_conda_package("python-dateutil")
    assert made.get_python_version() is None


@pytest.mark.parametrize("package", ["-i https://example.org", " ", "--pre"])
def test_an_option_is_no_package(package: str) -> None:
    with pytest.raises(UserErrorException):
        CondaDependencies().add_pip_package(package)


def test_what_is_no_package_of_conda_is_refused() -> None:
    with pytest.raises(UserErrorException) as caught:
        CondaDependencies().add_conda_package("numpy[]=?")
    assert caught.value.code == "invalid_conda_spec"


def test_options_are_replaced_by_their_keyword_and_further_indexes_are_kept() -> None:
    made = CondaDependencies.create(pip_indexurl="https://one.example/simple", pip_packages=["numpy"])
    made.set_pip_index_url("--index-url https://two.example/simple")
    made.set_pip_option("--extra-index-url https://three.example/simple")
    made.set_pip_option("--extra-index-url https://four.example/simple")
    assert "--index-url https://two.example/simple" in [*made.pip_options]
    assert len([*made.pip_options]) == 3
    made.remove_pip_option("--extra-index-url")
    assert [*made.pip_options] == ["--index-url https://two.example/simple"]
    with pytest.raises(UserErrorException):
        made.set_pip_option("pre")


def test_lines_of_requirements_replace_all() -> None:
    made = CondaDependencies.create(pip_packages=["numpy"])
    made.set_pip_requirements(["# comment", "", "pandas", "--pre"])
    assert ([*made.pip_packages], [*made.pip_options]) == (["pandas"], ["--pre"])


def test_channels_are_kept_in_order_and_once() -> None:
    made = CondaDependencies()
    made.add_channel("bioconda")
    made.add_channel("conda-forge")
    assert [*made.conda_channels] == ["conda-forge", "bioconda"]
    made.remove_channel("conda-forge")
    assert [*made.conda_channels] == ["bioconda"]


@pytest.mark.parametrize(("kind", "package"), [("cpu", "tensorflow==2.1"), ("gpu", "tensorflow-gpu==2.1")])
def test_tensorflow_is_asked_for_by_kind(kind: str, package: str) -> None:
    made = CondaDependencies()
    made.add_tensorflow_pip_package(kind, "2.1")
    made.add_tensorflow_conda_package(kind)
    made.add_cntk_package()
    assert [*made.pip_packages] == [package, "cntk"]
    with pytest.raises(UserErrorException):
        made.add_cntk_package("tpu")


def test_what_is_said_of_one_package_comes_together() -> None:
    merged = CondaDependencies.merge_requirements(["numpy>=1", "Numpy<2", "pandas", "scipy", "scipy>1"])
    assert merged == ["numpy>=1,<2", "pandas", "scipy>1"]


def test_a_file_that_was_saved_says_the_same(tmp_path: Path) -> None:
    made = CondaDependencies.create(conda_packages=["numpy"], pip_packages=["pandas"], python_version="3.11")
    made.save(tmp_path / "c.yml")
    assert CondaDependencies(tmp_path / "c.yml") == made
    assert read_conda(made.serialize_to_string()).definition.python.pip == ("pandas",)
    assert made.save_to_file(str(tmp_path)) == "conda_dependencies.yml"
    assert (tmp_path / "conda_dependencies.yml").is_file()
    with pytest.raises(UserErrorException):
        made.save(tmp_path)


def test_iterating_is_over_copies() -> None:
    made = CondaDependencies.create(pip_packages=["a", "b"])
    for package in made.pip_packages:
        made.remove_pip_package(package)
    assert [*made.pip_packages] == []
