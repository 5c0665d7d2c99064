"""Environments: registered, versioned, labelled, archived, deleted; and what reaches runs and workers."""

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from cloche import Client, ClocheError
from tests.e2e.packages import ThreadedIndex
from tests.e2e.steps import SCORE, Names, Scripts, completed, deployed, done, log_of, submit
from tests.e2e.topology import Topology


@pytest.mark.main_job
def test_the_command_line_registers_a_requirements_file(topology: Topology, tmp_path: Path, unique: Names) -> None:
    (tmp_path / "requirements.txt").write_text("-r more.txt\nRequests >= 2.0\n")
    (tmp_path / "more.txt").write_text("# a comment\nNumPy==2.1.*\n")
    name = unique("env")
    made = topology.cli("env", "register", name, "-r", tmp_path / "requirements.txt", "--json").document
    assert (made["version"], made["created"]) == ("1", True)
    assert made["definition_hash"].startswith("e1:")
    shown = topology.cli("env", "show", name, "--json").document
    assert shown["definition"]["python"]["pip"] == ["numpy==2.1.*", "requests>=2.0"]


def test_the_sdk_registers_what_the_command_line_registered_as_the_same_version(
    topology: Topology, client: Client, tmp_path: Path, unique: Names
) -> None:
    (tmp_path / "requirements.txt").write_text("requests>=2.0\n")
    name = unique("env")
    first = client.environments.register(name, requirements_file=tmp_path / "requirements.txt")
    again = topology.cli("env", "register", name, "-r", tmp_path / "requirements.txt", "--json").document
    assert first.version == again["version"] == "1"
    assert again["created"] is False


def test_rest_answers_201_for_a_new_version_and_200_for_a_known_one(topology: Topology, unique: Names) -> None:
    body = {"name": unique("env"), "definition": {"python": {"pip": ["requests"]}}}
    with topology.rest() as rest:
        made, again = rest.post("/api/v1/environments", json=body), rest.post("/api/v1/environments", json=body)
    assert (made.status_code, again.status_code) == (201, 200)
    assert made.json()["version"] == again.json()["version"] == "1"


@pytest.mark.main_job
def test_64_concurrent_registrations_of_one_definition_make_one_version(topology: Topology, unique: Names) -> None:
    body = {"name": unique("env"), "definition": {"python": {"pip": ["requests"]}}}
    with topology.rest() as rest, ThreadPoolExecutor(64) as pool:
        answers = list(pool.map(lambda _: rest.post("/api/v1/environments", json=body), range(64)))
        versions = rest.get(f"/api/v1/environments/{body['name']}/versions").json()["items"]
    assert {answer.json()["version"] for answer in answers} == {"1"}
    assert sorted(answer.status_code for answer in answers) == [200] * 63 + [201]
    assert len(versions) == 1


def test_64_concurrent_registrations_of_different_definitions_make_versions_without_gaps(
    topology: Topology, unique: Names
) -> None:
    name = unique("env")

    def register(number: int) -> str:
        body = {"name": name, "definition": {"python": {"pip": [f"requests=={number}"]}}}
        return str(rest.post("/api/v1/environments", json=body).json()["version"])

    with topology.rest() as rest, ThreadPoolExecutor(64) as pool:
        versions = list(pool.map(register, range(64)))
    assert sorted(map(int, versions)) == list(range(1, 65))


def test_a_b_a_makes_three_versions_of_two_hashes(client: Client, unique: Names) -> None:
    name = unique("env")
    made = [client.environments.register(name, requirements=text) for text in ("requests", "numpy", "requests")]
    assert [one.version for one in made] == ["1", "2", "3"]
    assert made[0].definition_hash == made[2].definition_hash != made[1].definition_hash
    assert [one.version for one in client.environments.versions(name)] == ["3", "2", "1"]


def test_variables_make_a_version_but_not_another_hash(client: Client, unique: Names) -> None:
    name = unique("env")
    bare = client.environments.register(name)
    with_variables = client.environments.register(name, variables={"COLOUR": "green"})
    assert with_variables.version == "2"
    assert bare.definition_hash == with_variables.definition_hash


def test_a_label_names_a_version_until_it_is_moved_or_taken_away(
    topology: Topology, client: Client, unique: Names
) -> None:
    name = unique("env")
    client.environments.register(name, requirements="requests==1")
    client.environments.register(name, requirements="requests==2")
    topology.cli("env", "label", name, "prod", "1")
    assert client.environments.get(name, label="prod").version == "1"
    client.environments.label(name, "prod", 2)
    assert topology.cli("env", "show", f"{name}@prod", "--json").document["version"] == "2"
    topology.cli("env", "unlabel", name, "prod")
    with pytest.raises(ClocheError) as caught:
        client.environments.get(name, label="prod")
    assert caught.value.code == "label_not_found"


def test_an_archived_environment_leaves_the_list_and_still_works(
    client: Client, unique: Names, script: Scripts
) -> None:
    name = unique("env")
    client.environments.register(name)
    client.environments.archive(name)
    assert name not in [one.name for one in client.environments.list()]
    assert completed(client, script("print('still here')"), environment=name).status == "Completed"
    client.environments.restore(name)
    assert name in [one.name for one in client.environments.list()]


def test_a_deleted_environment_refuses_new_references(client: Client, unique: Names, script: Scripts) -> None:
    name = unique("env")
    client.environments.register(name)
    client.environments.delete(name)
    ended = done(client, submit(client, script("print('never')"), environment=name))
    assert ended.status == "Failed"
    assert ended.problem is not None
    assert ended.problem.code == "environment_deleted"


@pytest.mark.main_job
def test_a_run_with_an_inline_definition_registers_it_in_the_same_call(
    client: Client, unique: Names, script: Scripts
) -> None:
    name = unique("inline")
    inline = {"name": name, "definition": {"variables": {"FROM": "inline"}}}
    code = script("import os; print('from', os.environ['FROM'])")
    first, second = (completed(client, code, environment=inline) for _ in range(2))
    assert first.environment is not None
    assert second.environment is not None
    assert (first.environment.name, first.environment.version) == (inline["name"], "1")
    assert second.environment.version == "1"
    assert "from inline" in log_of(client, first)
    assert client.environments.get(name).version == "1"


def test_a_service_with_an_inline_definition_registers_it_in_the_same_call(
    client: Client, unique: Names, script: Scripts
) -> None:
    inline = {"name": unique("inline"), "definition": {"variables": {"GREETING": "inline"}}}
    found = deployed(client, unique("svc"), script(SCORE, "score.py"), environment=inline)
    assert found.environment is not None
    assert (found.environment.name, found.environment.version) == (inline["name"], "1")
    assert found.score(1) == {"greeting": "inline", "got": 1}
    found.delete()


def test_without_an_environment_the_default_one_is_registered_and_named(topology: Topology, script: Scripts) -> None:
    code = script("print('default')")
    said = topology.cli("submit", code, "--cpus", "0.1", "--memory", "64MiB", "--wait", "--json")
    taken = said.document["environment"]
    assert taken["name"] == "cloche-default"
    assert f"cloche-default:{taken['version']}" in said.err
    assert topology.cli("env", "show", "cloche-default", "--json").document["version"] == taken["version"]


def test_variables_of_the_environment_reach_runs_and_scoring_workers(
    client: Client, unique: Names, script: Scripts
) -> None:
    name = unique("env")
    client.environments.register(name, variables={"GREETING": "bonjour", "BOTH": "environment"})
    code = script("import os; print(os.environ['GREETING'], os.environ['BOTH'])")
    ended = completed(client, code, environment=name, variables={"BOTH": "run"})
    assert "bonjour run" in log_of(client, ended)
    found = deployed(client, unique("svc"), script(SCORE, "score.py"), environment=name)
    assert found.score({"a": 1}) == {"greeting": "bonjour", "got": {"a": 1}}
    found.delete()


@pytest.mark.main_job
def test_packages_of_the_environment_can_be_imported(
    client: Client, unique: Names, script: Scripts, index: ThreadedIndex
) -> None:
    package = unique("pkg")
    client.environments.register(name := unique("env"), requirements=index.add(package, "1.5"))
    module = package.replace("-", "_")
    ended = completed(client, script(f"import {module}; print('version', {module}.VERSION)"), environment=name)
    assert "version 1.5" in log_of(client, ended)
    assert str(ended.model_dump()["lock_digest"]).startswith("sha256:")


def test_an_environment_over_64_kib_goes_the_whole_way(client: Client, unique: Names, script: Scripts) -> None:
    name = unique("env")
    variables = {f"LARGE_{number}": str(number % 10) * 5_000 for number in range(20)}
    first = client.environments.register(name, variables=variables)
    again = client.environments.register(name, variables=variables)
    assert (again.version, again.model_dump()["created"]) == (first.version, False)
    code = script("import os; print(sum(len(v) for k, v in os.environ.items() if k.startswith('LARGE_')))")
    assert "100000" in log_of(client, completed(client, code, environment=name))
    definition = {"variables": {**variables, "LARGE_X": "12345"}}
    inline = client.runs.submit(code, environment={"name": unique("env"), "definition": definition})
    assert "100005" in log_of(client, done(client, inline))
