"""Every name that people import from Azure ML's SDK v1 can be imported here."""

import ast
import importlib
import re
from pathlib import Path

import pytest

PAGE = Path(__file__).parent.parent.parent.parent / "docs" / "how-to" / "coming-from-azure.md"

NAMES = {
    "core": "Workspace Experiment Run ScriptRun ScriptRunConfig Environment Datastore Dataset Model Webservice Image "
    "ComputeTarget RunConfiguration ContainerRegistry Keyvault get_run VERSION",
    "core.environment": "Environment PythonSection DockerSection SparkSection DatabricksSection RSection "
    "CondaDependencies DEFAULT_CPU_IMAGE DEFAULT_GPU_IMAGE DockerBuildContext DockerImageDetails ImageBuildDetails "
    "EnvironmentReference SparkPackage RCranPackage RGitHubPackage",
    "core.conda_dependencies": "CondaDependencies CONDA_FILE_NAME",
    "core.container_registry": "ContainerRegistry RegistryIdentity",
    "core.runconfig": "RunConfiguration DockerConfiguration MpiConfiguration TensorflowConfiguration "
    "PyTorchConfiguration HistoryConfiguration DataReferenceConfiguration EnvironmentDefinition DEFAULT_CPU_IMAGE "
    "DEFAULT_GPU_IMAGE CondaDependencies",
    "core.workspace": "Workspace",
    "core.experiment": "Experiment",
    "core.run": "Run ScriptRun get_run",
    "core.model": "Model InferenceConfig ModelPackage Dataset",
    "core.compute": "ComputeTarget AmlCompute AksCompute",
    "core.compute_target": "ComputeTargetException",
    "core.datastore": "Datastore",
    "core.script_run_config": "ScriptRunConfig",
    "core.webservice": "Webservice AciWebservice AksWebservice LocalWebservice",
    "core.image": "Image ContainerImage",
    "train.estimator": "Estimator",
    "train.sklearn": "SKLearn",
    "train.dnn": "TensorFlow PyTorch Chainer",
    "contrib.services.aml_request": "AMLRequest rawhttp",
    "contrib.services.aml_response": "AMLResponse",
    "exceptions": "AzureMLException UserErrorException WebserviceException ModelNotFoundException "
    "ModelPathNotFoundException RunConfigurationException RunEnvironmentException ExperimentExecutionException "
    "ActivityFailedException SnapshotException TrainingException ComputeTargetException AuthenticationException "
    "WorkspaceException",
}


@pytest.mark.parametrize(("module", "names"), NAMES.items())
def test_a_known_name_is_here(module: str, names: str) -> None:
    found = importlib.import_module(f"cloche.{module}")
    assert [name for name in names.split() if not hasattr(found, name)] == []


@pytest.mark.parametrize("module", [name for name in NAMES if name != "core"])
def test_what_a_module_offers_is_there_and_documented(module: str) -> None:
    found = importlib.import_module(f"cloche.{module}")
    for name in found.__all__:
        one = getattr(found, name)
        assert not isinstance(one, type) or one.__doc__, name


def test_a_name_that_there_is_not_is_an_attribute_error() -> None:
    import cloche.core  # noqa: PLC0415 - the test is about the module

    with pytest.raises(AttributeError):
        _ = cloche.core.Pipeline


@pytest.mark.parametrize("block", re.findall(r"```python\n(.*?)```", PAGE.read_text(), re.DOTALL))
def test_what_the_page_for_newcomers_imports_is_there(block: str) -> None:
    for node in ast.walk(ast.parse(block)):
        if isinstance(node, ast.ImportFrom):
            module = importlib.import_module(str(node.module))
            assert [one.name for one in node.names if not hasattr(module, one.name)] == []
