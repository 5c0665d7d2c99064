"""`cloche.core.Environment` and its sections: what they say, refuse, write and read."""

import json
from pathlib import Path
from typing import Any

import pytest

from cloche.core import Environment, Run, Workspace, _process
from cloche.core.environment import CondaDependencies, RSection, SparkPackage
from cloche.exceptions import AzureMLException, UserErrorException
from cloche_shared.contracts.definition import Definition
from tests.unit.core.scripted import Scripted


def said(environment: Environment) -> dict[str, Any]:
    return environment._definition().model_dump(mode="json", exclude_defaults=True)


def test_a_fresh_environment_says_the_example_variable_and_nothing_else() -> None:
    assert said(Environment("a")) == {"variables": {"EXAMPLE_ENV_VAR": "EXAMPLE_VALUE"}}


def test_the_articles_first_sample_asks_for_one_package_of_conda_and_one_of_pip() -> None:
    dependencies = CondaDependencies()
    dependencies.add_conda_package("scikit-learn")
    dependencies.add_pip_package("pillow==5.4.1")
    environment = Environment(name="myenv")
    environment.python.conda_dependencies = dependencies
    section = environment._definition().python
    assert (section.pip, section.version) == (("pillow==5.4.1",), None)
    assert section.conda is not None
    assert (section.conda.packages, section.conda.channels) == (("scikit-learn",), ("conda-forge",))


@pytest.mark.parametrize("section", ["", "python", "docker", "spark", "databricks"])
def test_an_unknown_attribute_raises(section: str) -> None:
    owner: Any = Environment("a")
    owner = getattr(owner, section) if section else owner
    with pytest.raises(AttributeError):
        owner.condadependencies = 1


def test_a_name_is_a_text_that_says_something() -> None:
    with pytest.raises(TypeError):
        Environment(3)  # type: ignore[arg-type] # what users may do
    with pytest.raises(UserErrorException):
        Environment("")


def test_sections_become_the_definition() -> None:
    environment = Environment("a")
    environment.environment_variables = {"A": "1"}
    environment.docker.enabled = True
    environment.docker.base_image = "ubuntu:24.04"
    environment.docker.shm_size = "4g"
    environment.docker.arguments = ["--cpus", "2"]
    environment.docker.base_image_registry.address = "registry.example"
    environment.spark.packages = [SparkPackage("com.example", "spark", "1.0")]
    environment.inferencing_stack_version = "latest"
    environment.apt_packages = ["git"]
    environment.build_variables = {"CFLAGS": "-O2"}
    environment.tags = {"team": "pricing"}
    environment.description = "for prices"
    found = said(environment)
    assert found["docker"]["base_image"] == "ubuntu:24.04"
    assert found["docker"]["arguments"] == {"cpus": "2"}
    assert found["docker"]["shm_size"] == "4g"
    assert found["spark"]["packages"] == [{"group": "com.example", "artifact": "spark", "version": "1.0"}]
    assert (found["apt"], found["build_variables"], found["tags"]) == (["git"], {"CFLAGS": "-O2"}, {"team": "pricing"})


def test_the_flag_for_gpus_is_said_and_not_beside_an_image() -> None:
    environment = Environment("a")
    environment.docker.gpu_support = True
    assert said(environment)["docker"] == {"gpu_support": True}
    environment.docker.base_image = "ubuntu:24.04"
    with pytest.raises(UserErrorException) as caught:
        environment._definition()
    assert caught.value.code == "gpu_image_twice"


def test_of_image_dockerfile_and_context_the_last_one_holds(tmp_path: Path) -> None:
    docker: Any = Environment("a").docker
    docker.base_image = "ubuntu:24.04"
    docker.base_dockerfile = "FROM debian:13\n"
    assert (docker.base_image, docker.base_dockerfile) == (None, "FROM debian:13\n")
    (tmp_path / "Dockerfile").write_text("FROM fedora\n")
    docker.base_dockerfile = str(tmp_path / "Dockerfile")
    assert docker.base_dockerfile == "FROM fedora\n"
    with (tmp_path / "Dockerfile").open() as file:
        docker.base_dockerfile = file
    docker.base_image = "ubuntu:22.04"
    assert docker.base_dockerfile is None
    with pytest.raises(UserErrorException):
        docker.base_dockerfile = str(tmp_path / "nowhere")


def test_what_no_definition_can_say_is_refused_by_name() -> None:
    for change in ("r", "password", "volumes"):
        environment = Environment("a")
        if change == "r":
            environment.r = RSection()
        elif change == "password":
            environment.docker.base_image_registry.password = "secret"
        else:
            environment.docker.shared_volumes = False
        with pytest.raises(UserErrorException) as caught:
            environment._definition()
        assert caught.value.code == "not_available"


def test_a_user_managed_environment_names_its_interpreter_and_no_packages() -> None:
    environment = Environment("a")
    environment.python.user_managed_dependencies = True
    environment.python.interpreter_path = "/opt/python/bin/python"
    assert said(environment)["python"] == {"user_managed": True, "interpreter_path": "/opt/python/bin/python"}


def test_the_address_of_a_private_wheel_becomes_a_reference_to_its_content() -> None:
    environment = Environment("a")
    digest = "sha256:" + "a" * 64
    address = f"http://127.0.0.1:8571/api/v1/wheels/{digest}/my_custom-1.0-py3-none-any.whl"
    environment.python.conda_dependencies.add_pip_package("numpy")
    environment.python.conda_dependencies.add_pip_package(address)
    section = environment._definition().python
    assert section.pip == ("numpy",)
    assert [one.model_dump() for one in section.wheels] == [
        {"digest": digest, "filename": "my_custom-1.0-py3-none-any.whl"}
    ]
    assert address in [*environment.python.conda_dependencies.pip_packages]
    again = Environment._of("a", environment._definition())
    assert again._definition() == environment._definition()


def test_an_environment_that_was_fetched_is_named_by_its_version_until_it_changes(
    ws: Workspace, server: Scripted
) -> None:
    definition = Definition.model_validate_json('{"python": {"pip": ["numpy"]}, "variables": {"A": "1"}}')
    environment = Environment._of("a", definition, "3")
    environment._kept = "3", environment._definition()
    assert environment._definition() == definition
    assert environment._reference(ws) == "a:3"
    environment.python.conda_dependencies.add_pip_package("pandas")
    server.answers["POST /environments"] = {"name": "a", "version": "4", "definition": {}}
    assert environment._reference(ws) == "a:4"
    assert server.body("POST", "/environments")["definition"]["python"]["pip"] == ["numpy", "pandas"]


def test_a_clone_has_another_name_and_no_version() -> None:
    environment = Environment("a")
    environment.version = "3"
    environment.python.conda_dependencies.add_pip_package("numpy")
    copy = environment.clone("b")
    copy.python.conda_dependencies.add_pip_package("pandas")
    assert (copy.name, copy.version) == ("b", None)
    assert [*environment.python.conda_dependencies.pip_packages] == ["numpy"]
    with pytest.raises(UserErrorException):
        environment.clone("")


def test_its_text_is_the_known_one_and_its_repr_is_json() -> None:
    environment = Environment("a")
    assert str(environment) == "Environment(Name: a,\nVersion: None)"
    assert json.loads(repr(environment))["environmentVariables"] == {"EXAMPLE_ENV_VAR": "EXAMPLE_VALUE"}


# --- files


def test_a_folder_that_was_saved_is_read_as_it_was(tmp_path: Path) -> None:
    environment = Environment("a")
    environment.python.conda_dependencies.add_conda_package("numpy=1.26")
    environment.python.conda_dependencies.set_python_version("3.11")
    environment.docker.base_dockerfile = "FROM ubuntu\n"
    environment.docker.enabled = True
    environment.tags = {"a": "b"}
    environment.save_to_directory(tmp_path / "saved")
    names = sorted(path.name for path in (tmp_path / "saved").iterdir())
    assert names == ["BaseDockerfile", "azureml_environment.json", "conda_dependencies.yml"]
    document = json.loads((tmp_path / "saved" / "azureml_environment.json").read_text())
    assert "condaDependencies" not in document["python"]
    assert Environment.load_from_directory(tmp_path / "saved")._definition() == environment._definition()
    with pytest.raises(FileExistsError):
        environment.save_to_directory(tmp_path / "saved")
    environment.docker.base_image = "ubuntu:24.04"
    environment.save_to_directory(tmp_path / "saved", overwrite=True)
    assert not (tmp_path / "saved" / "BaseDockerfile").exists()


def test_a_folder_without_the_document_is_not_found(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        Environment.load_from_directory(tmp_path)
    (tmp_path / "azureml_environment.json").write_text("[]")
    with pytest.raises(UserErrorException) as caught:
        Environment.load_from_directory(tmp_path)
    assert caught.value.code == "invalid_azure"


def test_a_conda_specification_is_taken_with_its_variables(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    text = "dependencies: [python=3.11, numpy, {pip: [azureml-defaults, pandas]}]\nvariables: {A: 1}\n"
    (tmp_path / "c.yml").write_text(text)
    environment = Environment.from_conda_specification("a", tmp_path / "c.yml")
    assert environment.environment_variables["A"] == "1"
    assert said(environment)["python"]["version"] == "3.11"
    assert "azureml-defaults is kept" in caplog.text
    with pytest.raises(FileNotFoundError):
        Environment.from_conda_specification("a", tmp_path / "nowhere.yml")
    (tmp_path / "c.yml").write_text("dependencys: []\n")
    with pytest.raises(UserErrorException) as caught:
        Environment.from_conda_specification("a", tmp_path / "c.yml")
    assert caught.value.code == "invalid_conda_spec"


def test_pip_requirements_are_taken_with_their_options_and_without_comments(tmp_path: Path) -> None:
    (tmp_path / "r.txt").write_text("# comment\n--index-url https://example.org/simple\n\nnumpy\n-r more.txt\n")
    (tmp_path / "more.txt").write_text("pandas>=2\n")
    environment = Environment.from_pip_requirements("a", tmp_path / "r.txt")
    section = environment._definition().python
    assert section.pip == ("numpy", "pandas>=2")
    assert section.pip_options.index_url == "https://example.org/simple"
    with pytest.raises(FileNotFoundError):
        Environment.from_pip_requirements("a", tmp_path / "nowhere.txt")


def test_an_image_or_dockerfile_without_packages_runs_its_own_python(tmp_path: Path) -> None:
    alone = Environment.from_docker_image("a", "ubuntu:24.04")
    assert alone.python.user_managed_dependencies
    (tmp_path / "r.txt").write_text("numpy\n")
    on_top = Environment.from_dockerfile("a", "FROM ubuntu\n", pip_requirements=str(tmp_path / "r.txt"))
    assert not on_top.python.user_managed_dependencies
    assert said(on_top)["docker"]["dockerfile"] == "FROM ubuntu\n"
    with pytest.raises(UserErrorException):
        Environment.from_docker_image("a", "ubuntu", conda_specification="x", pip_requirements="y")


def test_a_conda_environment_of_this_machine_is_read_without_conda(tmp_path: Path) -> None:
    (tmp_path / "conda-meta").mkdir()
    for name, version in (("python", "3.11.7"), ("numpy", "1.26.4")):
        record = {"name": name, "version": version, "channel": "conda-forge", "subdir": ""}
        (tmp_path / "conda-meta" / f"{name}.json").write_text(json.dumps(record))
    environment = Environment.from_existing_conda_environment("a", str(tmp_path))
    assert said(environment)["python"]["version"] == "3.11.7"
    assert "EXAMPLE_ENV_VAR" in environment.environment_variables
    with pytest.raises(UserErrorException) as caught:
        Environment.from_existing_conda_environment("a", str(tmp_path / "nowhere"))
    assert caught.value.code == "conda_environment_not_found"


def test_the_run_of_no_process_has_no_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_process._Last, "run", None)
    with pytest.raises(AzureMLException) as caught:
        Run.get_environment()
    assert caught.value.code == "no_run"


def test_inside_a_run_its_environment_is_known_by_name_and_version(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CLOCHE_RUN_ID", "r1")
    monkeypatch.setenv("CLOCHE_ENVIRONMENT_NAME", "train")
    monkeypatch.setenv("CLOCHE_ENVIRONMENT_VERSION", "4")
    found = Run.get_environment()
    assert (found.name, found.version) == ("train", "4")


def test_an_error_has_the_four_known_parts_and_a_stable_code() -> None:
    with pytest.raises(UserErrorException) as caught:
        Environment("a").clone("")
    text = str(caught.value)
    assert [text.index(part) for part in ("UserErrorException:", "Message:", "InnerException", "ErrorResponse")]
    assert json.loads(text[text.index("{") :])["error"]["code"] == "UserError"
    assert caught.value.code == "invalid_name"
    assert "A copy needs a name." in caught.value.message
