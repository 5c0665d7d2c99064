"""Definitions as files: checked, imported, exported, compared, cloned; and environments that are in use."""

import json
from pathlib import Path

import pytest

from cloche import Client, ClocheError
from tests.e2e.steps import Names, Scripts, completed, reaches, submit
from tests.e2e.topology import Topology, eventually

CONDA = """\
name: {name}
channels: [conda-forge]
dependencies:
- python={python}
- pip
- pip:
  - --extra-index-url https://packages.example.org/simple
  - Requests >= 2.0
variables: {{LEVEL: 3}}
"""


def test_a_check_points_at_lines_and_registers_nothing(topology: Topology, tmp_path: Path, unique: Names) -> None:
    name = unique("env")
    file = tmp_path / "cloche.yaml"
    file.write_text(f"name: {name}\npython:\n  version: '3.11'\n  pip:\n  - numpy\n  - -e .\napt: [git]\n")
    ended = topology.cli("env", "check", file, "--json", code=1)
    found = [(one["severity"], one["code"], one["line"]) for one in ended.document["problems"]]
    assert found == [("error", "requirement_option", 6), ("error", "apt_not_available", 7), ("warning", "unpinned", 5)]
    topology.cli("env", "show", name, code=3)
    file.write_text("python:\n  version: '3.11'\n  pip: [numpy==2.1.3]\n")
    assert topology.cli("env", "check", file, "--strict", "--json").document["valid"] is True


def test_a_file_that_is_no_definition_is_refused_with_its_line(topology: Topology, tmp_path: Path) -> None:
    file = tmp_path / "cloche.yaml"
    file.write_text("python:\n  pips: [a]\n")
    ended = topology.cli("env", "check", file, "--json", code=2)
    error = json.loads(ended.err)["error"]
    assert error["code"] == "unknown_field"
    assert "Line 2" in error["why"]


@pytest.mark.parametrize("kind", ["cloche", "conda", "azure-v1"])
def test_what_is_exported_and_imported_again_keeps_its_hash(
    topology: Topology, client: Client, tmp_path: Path, unique: Names, kind: str
) -> None:
    name, copy = unique("env"), unique("copy")
    (tmp_path / "conda.yaml").write_text(CONDA.format(name=name, python="3.11"))
    made = topology.cli("env", "import", tmp_path / "conda.yaml", "--json")
    assert "channel" in made.err
    topology.cli("env", "export", name, "--format", kind, "-o", tmp_path / "out")
    [file, *_] = sorted((tmp_path / "out").iterdir())
    again = topology.cli("env", "import", file, "--name", copy, "--json").document
    first = made.document
    assert again["definition_hash"] == first["definition_hash"]
    assert client.environments.diff(copy, base=1, base_name=name).changes == []


def test_versions_are_compared_cloned_and_told_of(topology: Topology, client: Client, unique: Names) -> None:
    name, copy = unique("env"), unique("copy")
    client.environments.register(name, requirements="numpy==1.26.4\n")
    client.environments.register(name, requirements="numpy==2.1.3\n")
    found = topology.cli("env", "diff", name, "--json").document
    assert [(one["pointer"], one["before"], one["after"]) for one in found["changes"]] == [
        ("/python/pip/numpy", "numpy==1.26.4", "numpy==2.1.3")
    ]
    topology.cli("env", "clone", f"{name}:1", copy)
    assert client.environments.diff(copy, base=1, base_name=name).same_hash
    told = topology.cli("env", "history", name, "--json").document
    assert [entry["facts"][0]["version"] for entry in told] == ["1", "2"]


def test_an_environment_in_use_is_kept_until_its_run_ended(
    topology: Topology, client: Client, unique: Names, script: Scripts
) -> None:
    name = unique("env")
    client.environments.register(name)
    run = submit(client, script("import time; time.sleep(600)"), environment=name)
    used = eventually(lambda: client.environments.uses(name), "the run uses it")
    assert [(one["kind"], one["id"]) for one in used] == [("run", run.id)]
    with pytest.raises(ClocheError) as caught:
        client.environments.delete(name)
    assert (caught.value.code, caught.value.extra["uses"][0]["id"]) == ("environment_in_use", run.id)
    reaches(client, run, "Running")
    client.runs.cancel(run.id)
    eventually(lambda: not client.environments.uses(name), "nothing uses it")
    eventually(lambda: client.environments.uses(name, ended=True), "it is history")
    topology.cli("env", "delete", name, "--yes")


def test_what_a_conda_file_says_reaches_a_run(
    topology: Topology, client: Client, tmp_path: Path, unique: Names, script: Scripts
) -> None:
    name = unique("env")
    version = client.environments.register(name).model_dump()["python"]
    text = f"name: {name}\ndependencies: [python={version}]\nvariables: {{LEVEL: 3}}\n"
    (tmp_path / "environment.yml").write_text(text)
    client.environments.register_file(name, tmp_path / "environment.yml")
    run = completed(client, script("import os; assert os.environ['LEVEL'] == '3'"), environment=name)
    assert run.environment is not None
    assert run.environment.version == "2"
