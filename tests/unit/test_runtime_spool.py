"""Masking and capping a log."""

import random
from pathlib import Path

import pytest

from cloche_runtime.spool import Redactor, Spool


def masked(secrets: list[str], parts: list[bytes]) -> bytes:
    redactor = Redactor(secrets)
    return b"".join([redactor.feed(one) for one in parts]) + redactor.end()


@pytest.mark.parametrize("size", [1, 2, 3, 7, 50])
def test_a_secret_is_masked_wherever_the_chunks_are_cut(size: int) -> None:
    text = b"a token-123 b token-12 c token-123token-123"
    parts = [text[at : at + size] for at in range(0, len(text), size)]
    assert masked(["token-123"], parts) == b"a *** b token-12 c ******"


def test_the_longer_of_two_secrets_is_masked_whole() -> None:
    assert masked(["abc", "abcdef"], [b"xab", b"cd", b"ef abc abcd"]) == b"x*** *** ***d"


def test_without_secrets_nothing_is_held_back() -> None:
    assert Redactor(["", ""]).feed(b"abc") == b"abc"


def test_what_may_be_a_secret_is_held_back_until_it_is_none() -> None:
    redactor = Redactor(["secret"])
    assert redactor.feed(b"my sec") == b"my "
    assert redactor.feed(b"ond") == b"second"


def test_no_secret_passes_in_any_of_many_cuts() -> None:
    choice = random.Random(7)
    for _ in range(300):
        text = b"".join(choice.choice([b"ab", b"aab", b"b", b"secret-aab"]) for _ in range(30))
        cuts = sorted(choice.sample(range(len(text)), 5))
        parts = [text[a:b] for a, b in zip([0, *cuts], [*cuts, len(text)], strict=True)]
        assert b"aab" not in masked(["aab", "secret-aab"], parts)


def test_a_spool_keeps_its_limit_and_counts_the_rest(tmp_path: Path) -> None:
    spool = Spool(str(tmp_path / "log"), 10, [])
    for _ in range(4):
        spool.feed(b"12345678")
    spool.end()
    spool.close()
    text = (tmp_path / "log").read_bytes()
    assert text.startswith(b"1234567812\n[cloche: log truncated here, its limit is 10 bytes]\n")
    assert text.endswith(b"\n[cloche: 22 bytes of the log were dropped]\n")
    assert (spool.dropped, spool.size) == (22, len(text))


def test_a_spool_never_follows_a_link(tmp_path: Path) -> None:
    (tmp_path / "log").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(OSError, match="symbolic links"):
        Spool(str(tmp_path / "log"), 10, [])


def test_a_full_disk_costs_the_log_and_not_the_program() -> None:
    spool = Spool("/dev/full", 1000, [])
    spool.feed(b"12345678")
    spool.end()
    spool.close()
    assert (spool.size, spool.dropped) == (0, 8)
