"""What a type checker must see on `cloche.core`; `make check` reads this, nothing runs it."""

from typing import assert_type

from cloche.core import Environment, Experiment, Model, ScriptRunConfig, Workspace
from cloche.core.environment import CondaDependencies, ImageBuildDetails
from cloche.core.model import InferenceConfig
from cloche.core.run import ScriptRun
from cloche.core.webservice import AciWebservice, Webservice
from cloche.train.estimator import Estimator


def notebook() -> None:
    ws = Workspace.from_config()
    assert_type(ws, Workspace)
    environment = Environment("a")
    environment.python.conda_dependencies = CondaDependencies.create(pip_packages=["numpy"])
    environment.python.conda_dependencies = 3  # type: ignore[assignment] # no dependencies
    environment.condadependencies = 3  # type: ignore[attr-defined] # a name that there is not
    assert_type(environment.register(ws), Environment)
    assert_type(environment.build(), ImageBuildDetails)
    assert_type(Environment.list(ws), dict[str, Environment])
    run = Experiment(workspace=ws, name="e").submit(ScriptRunConfig(".", "train.py"))
    assert_type(run, ScriptRun)
    assert_type(run.get_environment(), Environment)
    assert_type(run.get_file_names(), list[str])
    model = run.register_model("m", "outputs/m.pkl")
    assert_type(model, Model)
    assert_type(model.version, int)
    config = AciWebservice.deploy_configuration(cpu_cores=1, memory_gb=1)
    assert_type(Model.deploy(ws, "s", [model], InferenceConfig("score.py"), config), Webservice)
    Estimator("proj", entry_script="train.py", compute_target="local", packages=["a"])  # type: ignore[call-arg] # the same
