"""Which package indexes a definition may name."""

import pytest

from cloche_shared.contracts.definition import PipOptions
from cloche_shared.errors import Invalid
from cloche_shared.store.indexes import check_indexes


def refused(url: str, allowed: tuple[str, ...] | None = None) -> str:
    options = PipOptions.model_construct(index_url=url, extra_index_urls=())
    with pytest.raises(Invalid) as error:
        check_indexes(options, pointer="/python/pip_options", allowed=allowed)
    assert error.value.violations[0].pointer == "/python/pip_options/index_url"
    assert "hunter2" not in str(error.value)
    return error.value.code


@pytest.mark.parametrize(
    "url",
    [
        "https://packages.example/simple",
        "http://127.0.0.1:8080/simple/",
        "http://10.0.0.7/simple",
        "https://[2606:4700::1111]/simple",
    ],
)
def test_ordinary_indexes_may_be_named(url: str) -> None:
    check_indexes(PipOptions(index_url=url), pointer="")


@pytest.mark.parametrize(
    "url",
    [
        "http://2852039166/",
        "http://0xa9.0xfe.0xa9.0xfe/",
        "http://127.1/",
        "http://%31%36%39.254.169.254/",
        "http://\uff11\uff16\uff19.254.169.254/",
        "http://169.254.43518/",
        "https://a b/simple",
        "https://a/\tsimple",
        "https://a/${HOME}",
        "https://a\\b/",
        "ftp://a/",
        "https://:80/",
    ],
)
def test_what_is_no_address_is_refused(url: str) -> None:
    assert refused(url) == "invalid_index"


@pytest.mark.parametrize("url", ["https://bob:hunter2@packages.example/simple", "https://hunter2@packages.example/"])
def test_credentials_are_refused_and_not_repeated(url: str) -> None:
    assert refused(url) == "credentials_in_url"


@pytest.mark.parametrize(
    "url", ["http://169.254.169.254/", "http://[fe80::1]/", "http://[::ffff:169.254.169.254]/", "http://0.0.0.0/"]
)
def test_addresses_of_the_machine_room_are_refused(url: str) -> None:
    assert refused(url) == "index_not_allowed"


def test_an_operator_may_allow_certain_indexes_only() -> None:
    allowed = ("https://packages.example/simple/",)
    check_indexes(PipOptions(index_url="https://packages.example/simple"), pointer="", allowed=allowed)
    assert refused("https://elsewhere.example/simple", allowed) == "index_not_allowed"


def test_further_indexes_are_checked_too() -> None:
    options = PipOptions(extra_index_urls=("https://a.example/", "https://bob:hunter2@b.example/"))
    with pytest.raises(Invalid) as error:
        check_indexes(options, pointer="/o")
    assert error.value.violations[0].pointer == "/o/extra_index_urls/1"
