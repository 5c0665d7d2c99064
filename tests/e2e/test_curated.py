"""Curated environments, as a newcomer meets them."""

from cloche import Client
from tests.e2e.steps import Names, Scripts, completed, log_of
from tests.e2e.topology import Topology


def test_a_curated_environment_is_listed_used_as_it_is_and_cloned(
    topology: Topology, client: Client, unique: Names, script: Scripts
) -> None:
    listed = topology.cli("env", "list", "--curated", "--json").document
    assert [one["name"] for one in listed] == ["Cloche-Minimal", "Cloche-Sklearn"]
    run = completed(client, script("print('it ran')"), environment="Cloche-Minimal")
    assert run.environment is not None
    assert (run.environment.name, run.environment.version) == ("Cloche-Minimal", "1")
    assert "it ran" in log_of(client, run)
    copy = client.environments.clone("Cloche-Minimal", unique("env"))
    assert copy.definition_hash == run.environment.definition_hash
