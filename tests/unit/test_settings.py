"""Settings and where they come from."""

import pytest
from pydantic import SecretStr

from cloche_shared.errors import Invalid
from cloche_shared.settings import MASK, HttpSettings, Loaded, Section, load


class Runner(Section):
    slots: int = 2
    password: SecretStr = SecretStr("")
    indexes: tuple[str, ...] = ()


class Root(Section):
    http: HttpSettings = HttpSettings()
    runner: Runner = Runner()


def sources(loaded: Loaded[Root]) -> dict[str, str]:
    return {one.name: one.source for one in loaded.shown()}


def test_defaults_hold_when_nothing_is_set() -> None:
    loaded = load(Root, "", {"HOME": "/x", "CLOCHE_URL": "http://x", "CLOCHE_HOME": "/y"})
    assert loaded.value.http.port == 8571
    assert set(sources(loaded).values()) == {"default"}


def test_the_environment_wins_over_the_file_and_both_are_named() -> None:
    text = "[http]\nport = 1\nhosts = ['a']\n[runner]\nslots = 3\n"
    loaded = load(Root, text, {"CLOCHE_HTTP__PORT": "9000", "CLOCHE_RUNNER__INDEXES": '["https://a"]'})
    assert (loaded.value.http.port, loaded.value.runner.slots) == (9000, 3)
    assert loaded.value.runner.indexes == ("https://a",)
    assert sources(loaded)["http.port"] == "environment CLOCHE_HTTP__PORT"
    assert sources(loaded)["runner.slots"] == "config.toml"
    assert sources(loaded)["http.host"] == "default"


def test_secrets_are_masked_and_known_to_the_scrubber() -> None:
    loaded = load(Root, "", {"CLOCHE_RUNNER__PASSWORD": "hunter2hunter2"})
    assert {one.name: one.value for one in loaded.shown()}["runner.password"] == MASK
    assert loaded.secrets() == ["hunter2hunter2"]


@pytest.mark.parametrize(
    ("text", "environ", "closest"),
    [
        ("[http]\nprot = 1", {}, "http.port"),
        ("[runer]\nslots = 1", {}, "runner.slots"),
        ("", {"CLOCHE_RUNNER__SLOT": "1"}, "CLOCHE_RUNNER__SLOTS"),
    ],
)
def test_an_unknown_setting_names_the_closest(text: str, environ: dict[str, str], closest: str) -> None:
    with pytest.raises(Invalid) as caught:
        load(Root, text, environ)
    assert caught.value.code == "unknown_setting"
    assert closest in caught.value.todo


def test_a_value_that_does_not_fit_names_its_source_but_not_the_value() -> None:
    with pytest.raises(Invalid) as caught:
        load(Root, "", {"CLOCHE_RUNNER__SLOTS": "tw0-secret"})
    assert caught.value.code == "invalid_setting"
    assert "CLOCHE_RUNNER__SLOTS" in caught.value.why
    assert "tw0-secret" not in str(caught.value)


def test_a_file_that_is_not_toml_is_refused() -> None:
    with pytest.raises(Invalid) as caught:
        load(Root, "[http", {})
    assert caught.value.code == "malformed_config"
