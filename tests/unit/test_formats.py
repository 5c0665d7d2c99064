"""What each format of others says as a definition, what is told of the rest, and what is refused and where."""

import json
from collections.abc import Callable

import pytest

from cloche.formats.azure_v1 import MAIN, read_azure_v1
from cloche.formats.cloche_yaml import read_cloche
from cloche.formats.conda_meta import of_records
from cloche.formats.conda_yaml import read_conda
from cloche.formats.detect import FORMATS, format_of, read_as
from cloche.formats.docker_arguments import read_arguments
from cloche.formats.others import read_azure_v2, read_cog, read_python_env
from cloche.formats.reading import Imported
from cloche.formats.requirements_txt import write_requirements
from cloche.formats.toml_files import read_pylock, read_pyproject, read_uv_lock
from cloche.formats.yaml_text import read_yaml
from cloche_shared.contracts.definition import Definition, PythonSection
from cloche_shared.errors import Invalid

HASH = "a" * 64


def nothing(name: str) -> str:
    raise FileNotFoundError(name)


def files(**texts: str) -> Callable[[str], str]:
    return {name.replace("_txt", ".txt").replace("_yml", ".yml"): text for name, text in texts.items()}.__getitem__


def noted(found: Imported) -> list[str]:
    return [note.pointer for note in found.notes]


def refused(call: Callable[[], object]) -> tuple[str, str, str]:
    with pytest.raises(Invalid) as caught:
        call()
    first = caught.value.violations[0]
    return first.code, first.pointer, first.detail


# --- conda

CONDA = """\
name: project_environment
dependencies:
- python=3.6.2
- pip:
  - azureml-defaults
  - Pillow==5.4.1
- scikit-learn
channels:
- conda-forge
variables: {LEVEL: 3, FAST: true}
prefix: /opt/conda/envs/x
"""


def test_a_conda_file_says_packages_channels_and_variables() -> None:
    found = read_conda(CONDA)
    section = found.definition.python
    assert (found.name, section.version) == ("project_environment", "3.6.2")
    assert section.pip == ("azureml-defaults", "pillow==5.4.1")
    assert section.conda is not None
    assert (section.conda.packages, section.conda.channels) == (("scikit-learn",), ("conda-forge",))
    assert found.definition.variables == {"LEVEL": "3", "FAST": "true"}
    assert noted(found) == ["/prefix", "/pip"]


def test_a_conda_file_without_conda_packages_needs_no_conda() -> None:
    text = "channels: [conda-forge]\ndependencies: [python=3.11, 'pip<=23', {pip: [mlflow==2.9.0]}]\n"
    found = read_conda(text)
    assert found.definition == Definition(python=PythonSection(version="3.11", pip=("mlflow==2.9.0",)))
    assert noted(found) == ["/dependencies/1", "/channels"]


def test_a_range_of_pythons_stays_a_conda_package() -> None:
    section = read_conda("channels: [a]\ndependencies: ['python>=3.9']").definition.python
    assert section.version is None
    assert section.conda is not None
    assert section.conda.packages == ("python>=3.9",)


@pytest.mark.parametrize(
    ("text", "code", "pointer"),
    [
        ("- a", "invalid_conda_spec", ""),
        ("what: 1", "invalid_conda_spec", "/what"),
        ("dependencies: x", "invalid_conda_spec", "/dependencies"),
        ("dependencies:\n- a b c d", "invalid_conda_spec", "/dependencies/0"),
        ("dependencies:\n- {npm: [a]}", "invalid_conda_spec", "/dependencies/0"),
        ("dependencies:\n- {pip: [a]}\n- {pip: [b]}", "invalid_conda_spec", "/dependencies/1"),
        ("dependencies:\n- 7", "invalid_conda_spec", "/dependencies/0"),
        ("dependencies:\n- pip:\n  - good\n  - -e .", "requirement_option", "/dependencies/0/pip/1"),
        ("channels:\n- file:///etc", "invalid_channel", "/channels/0"),
        ("dependencies: [python=3.8, python=3.9]", "python_twice", "/dependencies/1"),
        ("variables: [a]", "invalid_conda_spec", "/variables"),
    ],
)
def test_what_is_wrong_in_a_conda_file_is_pointed_at(text: str, code: str, pointer: str) -> None:
    assert refused(lambda: read_conda(text))[:2] == (code, pointer)


def test_the_line_is_told() -> None:
    assert refused(lambda: read_conda("name: a\n\ndependencies:\n- a b c d\n"))[2].startswith("Line 4: ")


# --- YAML

BOMB = "a: &a [x, x]\nb: &b [*a, *a]\nc: [*b, *b]\n"


@pytest.mark.parametrize(
    ("text", "line"),
    [
        (BOMB, 2),
        ("a: 1\na: 2", 2),
        ("a: !!python/object/apply:os.system [id]", 1),
        ("!x a", 1),
        ("a:\n  <<: {b: 1}", 2),
        ("a: 1\n---\nb: 2", 2),
        ("{[a]: b}", 1),
        ("a: [", 1),
        ("a: \x00", 1),
        ("a\n\t- b: c: d", 2),
        ("[" * 40 + "]" * 40, 1),
        ("[" + "a," * 20_000 + "]", 1),
        ("a: " + "x" * 300_000, 1),
    ],
    ids=range(13),
)
def test_yaml_that_is_more_than_data_is_refused(text: str, line: int) -> None:
    assert refused(lambda: read_yaml(text))[:2] == ("invalid_yaml", f"/{line}")


def test_versions_stay_texts() -> None:
    assert read_yaml("a: 3.10\nb: 1\nc: yes\nd: 007\ne: 1e3\nf:\ng: '1'").data == {
        "a": "3.10",
        "b": 1,
        "c": "yes",
        "d": "007",
        "e": "1e3",
        "f": None,
        "g": "1",
    }


# --- our own


def test_a_misspelled_member_is_pointed_at_with_its_line() -> None:
    text = "name: a\npython:\n  version: 3.11\n  pips: [a]\n"
    code, pointer, detail = refused(lambda: read_cloche(text))
    assert (code, pointer) == ("unknown_field", "/python/pips")
    assert detail.startswith("Line 4: ")


def test_our_document_may_be_json() -> None:
    assert read_as("cloche", '{"python": {"version": "3.11"}}', nothing).definition.python.version == "3.11"


# --- TOML

PROJECT = """\
[project]
name = "train"
requires-python = "==3.11.*"
dependencies = ["NumPy>=1", "torch"]
[project.optional-dependencies]
plot = ["matplotlib"]
[dependency-groups]
test = ["pytest", {include-group = "lint"}]
lint = ["ruff"]
[[tool.uv.index]]
name = "pytorch"
url = "https://download.example.org/whl/cpu"
explicit = true
[[tool.uv.index]]
name = "ours"
url = "https://ours.example.org/simple"
default = true
[tool.uv.sources]
torch = {index = "pytorch"}
[tool.poetry]
name = "x"
"""


def test_a_project_says_its_dependencies_extras_groups_and_indexes() -> None:
    found = read_pyproject(PROJECT, extras=["plot"], groups=["test"])
    section = found.definition.python
    assert (found.name, section.version) == ("train", "3.11")
    assert section.pip == ("numpy>=1", "torch", "matplotlib", "pytest", "ruff")
    assert section.pip_options.index_url == "https://ours.example.org/simple"
    assert section.pip_options.package_indexes == {"torch": "https://download.example.org/whl/cpu"}
    assert noted(found) == ["/tool/poetry"]


def test_a_range_of_pythons_leaves_it_open_with_a_note() -> None:
    found = read_pyproject('[project]\nname="a"\nrequires-python=">=3.9"')
    assert found.definition.python.version is None
    assert noted(found) == ["/project/requires-python"]


@pytest.mark.parametrize(
    ("text", "code", "pointer"),
    [
        ("[project]\nx =\ny = 1", "invalid_pyproject", "/2"),
        ("[tool.poetry]", "invalid_pyproject", "/project"),
        ('[project]\ndependencies="a"', "invalid_pyproject", "/project/dependencies"),
        ('[project]\ndependencies=["a", "./b"]', "requirement_option", "/project/dependencies/1"),
        ('[project]\ndynamic=["dependencies"]', "invalid_pyproject", "/project/dynamic"),
        ('[project]\nrequires-python="new"', "python_invalid", "/project/requires-python"),
        ('[project]\n[tool.uv.sources]\na={git="https://x"}', "requirement_option", "/tool/uv/sources/a"),
    ],
)
def test_what_is_wrong_in_a_project_is_pointed_at(text: str, code: str, pointer: str) -> None:
    assert refused(lambda: read_pyproject(text))[:2] == (code, pointer)


def test_a_group_that_includes_itself_is_refused() -> None:
    text = '[project]\n[dependency-groups]\na=[{include-group="a"}]'
    assert refused(lambda: read_pyproject(text, groups=["a"]))[0] == "invalid_pyproject"


PYLOCK = f"""\
lock-version = "1.0"
requires-python = "==3.12.*"
[[packages]]
name = "numpy"
version = "2.1.3"
marker = "sys_platform == 'linux'"
wheels = [{{name = "a.whl", url = "https://x/a.whl", hashes = {{sha256 = "{HASH}"}}}}]
"""


def test_a_pylock_pins_with_hashes() -> None:
    section = read_pylock(PYLOCK).definition.python
    assert section.version == "3.12"
    assert section.pip == (f'numpy==2.1.3; sys_platform == "linux" --hash=sha256:{HASH}',)
    assert section.pip_options.require_hashes


UV_LOCK = f"""\
version = 1
requires-python = ">=3.11"
[[package]]
name = "train"
version = "0.1.0"
source = {{ virtual = "." }}
dependencies = [{{ name = "click" }}, {{ name = "uvloop", marker = "sys_platform == 'linux'" }}]
[package.dev-dependencies]
dev = [{{ name = "pytest" }}]
[[package]]
name = "click"
version = "8.1.0"
source = {{ registry = "https://pypi.org/simple" }}
dependencies = [{{ name = "colorama", marker = "sys_platform == 'win32'" }}]
wheels = [{{ url = "https://x/click.whl", hash = "sha256:{HASH}" }}]
[[package]]
name = "colorama"
version = "0.4.6"
source = {{ registry = "https://pypi.org/simple" }}
sdist = {{ url = "https://x/c.tar.gz", hash = "sha256:{HASH}" }}
[[package]]
name = "pytest"
version = "8.0"
source = {{ registry = "https://pypi.org/simple" }}
[[package]]
name = "uvloop"
version = "0.20"
source = {{ registry = "https://pypi.org/simple" }}
wheels = [{{ url = "https://x/u.whl", hash = "sha256:{HASH}" }}]
"""


def test_a_uv_lock_pins_what_the_project_needs_under_its_conditions() -> None:
    section = read_uv_lock(UV_LOCK).definition.python
    assert [line.partition(" --hash")[0] for line in section.pip] == [
        "click==8.1.0",
        'colorama==0.4.6; sys_platform == "win32"',
        'uvloop==0.20; sys_platform == "linux"',
    ]
    assert section.pip_options.require_hashes


@pytest.mark.parametrize(
    "source", ['vcs = {url = "https://x"}', 'directory = {path = "."}', 'archive = {url = "https://x"}']
)
def test_a_lock_of_what_no_index_has_is_refused(source: str) -> None:
    text = f'lock-version = "1.0"\n[[packages]]\nname = "a"\nversion = "1"\n{source}'
    assert refused(lambda: read_pylock(text))[0] == "requirement_option"


# --- Azure ML


def azure(**members: object) -> dict[str, str]:
    return {MAIN: json.dumps({"name": "x", **members})}


DEFAULTS: dict[str, object] = {
    "version": None,
    "environmentVariables": {"EXAMPLE_ENV_VAR": "EXAMPLE_VALUE"},
    "python": {"userManagedDependencies": False, "interpreterPath": "python", "baseCondaEnvironment": None},
    "docker": {
        "enabled": False,
        "baseImage": "mcr.microsoft.com/azureml/base:intelmpi2018.3-ubuntu16.04",
        "baseDockerfile": None,
        "sharedVolumes": True,
        "shmSize": "2g",
        "arguments": [],
        "baseImageRegistry": {"address": None, "username": None, "password": None},
    },
    "spark": {"repositories": [], "packages": [], "precachePackages": True},
    "databricks": {"mavenLibraries": [], "pypiLibraries": []},
    "inferencingStackVersion": None,
}


def test_the_defaults_of_azure_say_nothing_but_the_variable() -> None:
    found = read_azure_v1(azure(**DEFAULTS))
    assert found.definition == Definition(variables={"EXAMPLE_ENV_VAR": "EXAMPLE_VALUE"})
    assert noted(found) == ["/docker/baseImage"]


def test_names_are_read_in_any_case_and_what_is_ignored_is_told() -> None:
    members = {
        "Docker": {"Enabled": True, "BaseImage": "u:1", "BaseImageRegistry": {"Address": "r.io", "UserName": "canary"}},
        "R": {"rVersion": "4"},
        "assetId": "a",
        "else": 1,
    }
    found = read_azure_v1(azure(**members))
    docker = found.definition.docker
    assert docker is not None
    assert docker.enabled
    assert docker.registry is not None
    assert docker.registry.address == "r.io"
    assert "canary" not in found.definition.model_dump_json()
    assert noted(found) == ["/docker/baseImageRegistry", "/assetid", "/r", "/else"]


def test_conda_dependencies_may_stand_inside() -> None:
    members = {"python": {"condaDependencies": {"dependencies": ["python=3.8", {"pip": ["a==1"]}]}}}
    assert read_azure_v1(azure(**members)).definition.python.pip == ("a==1",)


@pytest.mark.parametrize(
    ("given", "code", "pointer"),
    [
        ({}, "invalid_azure", ""),
        ({MAIN: "{"}, "invalid_azure", "/1"),
        (azure(docker={"arguments": ["--privileged"]}), "argument_not_allowed", "/docker/arguments/0"),
        (azure(docker={"arguments": ["-v", "/:/host"]}), "argument_not_allowed", "/docker/arguments/0"),
        (azure(docker={"buildContext": {"location": "https://x"}}), "build_context_elsewhere", "/docker/buildContext"),
        (azure(docker={"baseImage": 7, "enabled": True}), "invalid_azure", "/docker/base_image"),
        (azure(python=[]) | {"conda_dependencies.yml": "x: 1"}, "invalid_conda_spec", "/x"),
    ],
)
def test_what_is_wrong_in_a_folder_of_azure_is_pointed_at(given: dict[str, str], code: str, pointer: str) -> None:
    assert refused(lambda: read_azure_v1(given))[:2] == (code, pointer)


def test_azures_yaml_names_image_and_conda_file() -> None:
    text = "$schema: https://azuremlschemas.azureedge.net/x.json\nname: a\nversion: 3\nimage: u:1\nconda_file: c.yml\n"
    found = read_azure_v2(text, {"c.yml": "dependencies: [python=3.9, {pip: [b==1]}]"}.__getitem__)
    assert found.definition.python.version == "3.9"
    assert found.definition.docker is not None
    assert found.definition.docker.base_image == "u:1"
    assert noted(found) == ["/version"]


def test_azures_yaml_without_packages_is_what_the_image_has() -> None:
    assert read_azure_v2("image: u:1", nothing).definition.python.user_managed


def test_azures_yaml_with_a_build_context_asks_for_an_upload() -> None:
    assert refused(lambda: read_azure_v2("build: {path: .}", nothing))[0] == "build_context_elsewhere"


# --- MLflow and Cog


def test_mlflows_python_env_reads_its_requirements() -> None:
    text = "python: 3.10.12\nbuild_dependencies: [pip==23]\ndependencies: ['-r requirements.txt']\n"
    found = read_python_env(text, files(requirements_txt="mlflow==2\n# words\nnumpy\n"))
    assert found.definition.python.version == "3.10.12"
    assert found.definition.python.pip == ("mlflow==2", "numpy")
    assert noted(found) == ["/build_dependencies"]


COG = """\
build:
  gpu: true
  cuda: "12.1"
  python_version: "3.11"
  python_packages: ["torch==2.1.0"]
  system_packages: [libgl1]
  run: ["curl x"]
environment: ["A=1=2"]
predict: predict.py:Predictor
"""


def test_a_cog_file_says_packages_and_system_packages() -> None:
    found = read_cog(COG, nothing)
    one = found.definition
    assert (one.python.version, one.python.pip, one.apt) == ("3.11", ("torch==2.1.0",), ("libgl1",))
    assert one.variables == {"A": "1=2"}
    assert one.docker is not None
    assert one.docker.gpu_support
    assert noted(found) == ["/predict", "/build/cuda", "/build/run"]


@pytest.mark.parametrize(
    ("text", "code", "pointer"),
    [
        ("what: 1", "invalid_cog", "/what"),
        ("build: {what: 1}", "invalid_cog", "/build/what"),
        ("build: {python_version: latest}", "invalid_cog", "/build/python_version"),
        ("build: {python_packages: [a], python_requirements: r.txt}", "invalid_cog", "/build/python_requirements"),
        ("environment: [A]", "invalid_cog", "/environment/0"),
    ],
)
def test_what_is_wrong_in_a_cog_file_is_pointed_at(text: str, code: str, pointer: str) -> None:
    assert refused(lambda: read_cog(text, nothing))[:2] == (code, pointer)


# --- what is here


def record(**members: str) -> str:
    return json.dumps(members)


def test_a_conda_environment_is_read_by_its_own_records() -> None:
    forge = "https://conda.anaconda.org/conda-forge/linux-64"
    records = [
        record(name="python", version="3.10.4", channel=forge, subdir="linux-64"),
        record(name="numpy", version="1.26.0", channel=forge, subdir="linux-64"),
    ]
    metadata = [
        ("pip\n", "Metadata-Version: 2.1\nName: Pillow\nVersion: 9.0\n\nName: not this\n"),
        ("conda\n", "Name: numpy\nVersion: 1.26.0\n"),
    ]
    section = of_records(records, metadata).definition.python
    assert (section.version, section.pip) == ("3.10.4", ("pillow==9.0",))
    assert section.conda is not None
    assert (section.conda.packages, section.conda.channels) == (("numpy==1.26.0",), ("conda-forge",))


@pytest.mark.parametrize("records", [[], ["{"], ["{}"]])
def test_what_is_no_conda_environment_is_refused(records: list[str]) -> None:
    assert refused(lambda: of_records(records, []))[0] == "invalid_conda_environment"


def test_arguments_of_docker_are_typed() -> None:
    arguments, shm_size = read_arguments(["--cpus=2", "-m 4G", "--ulimit", "nofile=1:2", "--shm-size=1g"], "")
    assert (arguments.cpus, arguments.memory, arguments.ulimits, shm_size) == ("2", "4g", {"nofile": "1:2"}, "1g")


@pytest.mark.parametrize("words", [["--cpus"], ["--cpus=many"], ["--ulimit=nofile"], ["--network=host"], ["image"]])
def test_other_arguments_are_refused(words: list[str]) -> None:
    assert refused(lambda: read_arguments(words, ""))[0] == "argument_not_allowed"


def test_what_a_requirements_file_cannot_say_is_told() -> None:
    one = read_cog(COG, nothing).definition
    told = [note.pointer for note in write_requirements(one).notes]
    assert told == ["/python/version", "/apt", "/docker", "/variables"]


@pytest.mark.parametrize(
    ("name", "text", "kind"),
    [
        ("requirements-dev.txt", "", "requirements"),
        ("environment.yml", "", "conda"),
        ("env.yaml", "dependencies: [a]", "conda"),
        ("env.yaml", "image: a", "azure-v2"),
        ("env.yaml", "python: 3.8\ndependencies: [a]", "python-env"),
        ("env.yaml", "python: {pip: [a]}", "cloche"),
        ("python_env.yaml", "", "python-env"),
        ("cog.yaml", "", "cog"),
        ("pyproject.toml", "", "pyproject"),
        ("pylock.gpu.toml", "", "pylock"),
        ("uv.lock", "", "uv-lock"),
        ("azureml_environment.json", "", "azure-v1"),
        ("definition.json", "", "cloche"),
    ],
)
def test_a_format_is_told_by_name_and_content(name: str, text: str, kind: str) -> None:
    assert format_of(name, text) == kind
    assert kind in FORMATS


def test_a_name_that_tells_nothing_is_refused() -> None:
    assert refused(lambda: format_of("Dockerfile", ""))[0] == "unknown_format"
