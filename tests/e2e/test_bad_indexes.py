"""Package indexes that may not be named."""

from collections.abc import Callable

import pytest

from cloche import Client, ClocheError

ADDRESS = "https://user:hunter2@packages.example/simple"
DEFINITION = {"python": {"pip_options": {"index_url": ADDRESS}}}


@pytest.mark.parametrize(
    "ask",
    [
        lambda client, name: client.environments.register(name, definition=DEFINITION),
        lambda client, name: client.environments.register(name, requirements=f"--index-url {ADDRESS}\n"),
        lambda client, name: client.builds.start({"name": name, "definition": DEFINITION}),
    ],
    ids=["definition", "requirements", "inline"],
)
def test_credentials_in_an_index_are_refused_before_anything_is_recorded(
    ask: Callable[[Client, str], object], client: Client, unique: Callable[[str], str]
) -> None:
    with pytest.raises(ClocheError) as refused:
        ask(client, unique("env"))
    assert refused.value.code == "credentials_in_url"
    assert "hunter2" not in str(refused.value)
    told = [event.model_dump_json() for event in client.events(follow=False, from_start=True)]
    assert "hunter2" not in "".join(told)


def test_addresses_of_the_machine_room_are_never_asked(client: Client, unique: Callable[[str], str]) -> None:
    with pytest.raises(ClocheError) as refused:
        client.environments.register(unique("env"), requirements="-i http://169.254.169.254/latest\n")
    assert refused.value.code == "index_not_allowed"
