"""A log file that is held to a size, with one predecessor."""

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from cloche_shared.adapters.log_file import LogFile

LINE = b"x" * 99 + b"\n"


@pytest.fixture
def descriptor(tmp_path: Path) -> Iterator[int]:
    found = os.open(tmp_path / "cloche.log", os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
    yield found
    os.close(found)


def sizes(folder: Path) -> dict[str, int]:
    return {path.name: path.stat().st_size for path in sorted(folder.iterdir())}


def test_the_file_is_held_to_its_limit_with_one_predecessor(tmp_path: Path, descriptor: int) -> None:
    log = LogFile(tmp_path / "cloche.log", 1000, descriptor=descriptor)
    for _ in range(35):
        log.write(LINE)
    assert sizes(tmp_path) == {"cloche.log": 500, "cloche.log.1": 1000}
    assert (tmp_path / "cloche.log").stat().st_mode & 0o777 == 0o600


def test_a_file_that_was_full_before_is_set_aside_by_the_first_line(tmp_path: Path, descriptor: int) -> None:
    os.write(descriptor, LINE * 20)
    LogFile(tmp_path / "cloche.log", 1000, descriptor=descriptor).write(LINE)
    assert sizes(tmp_path) == {"cloche.log": 100, "cloche.log.1": 2000}


@pytest.mark.parametrize("limit", [0, 1000])
def test_what_is_not_our_file_is_left_alone(tmp_path: Path, limit: int) -> None:
    reading, writing = os.pipe()
    log = LogFile(tmp_path / "cloche.log", limit, descriptor=writing)
    for _ in range(20):
        log.write(LINE)
    os.close(writing)
    with os.fdopen(reading, "rb") as stream:
        assert stream.read() == LINE * 20
    assert sizes(tmp_path) == {}


def test_a_file_that_somebody_else_moved_is_left_when_it_is_full(tmp_path: Path, descriptor: int) -> None:
    log = LogFile(tmp_path / "cloche.log", 1000, descriptor=descriptor)
    log.write(LINE)
    (tmp_path / "cloche.log").rename(tmp_path / "theirs.log")
    (tmp_path / "cloche.log").write_bytes(b"new")
    for _ in range(14):
        log.write(LINE)
    assert sizes(tmp_path) == {"cloche.log": 503, "theirs.log": 1000}


def test_a_link_is_never_written_through(tmp_path: Path, descriptor: int) -> None:
    (tmp_path / "secret").write_bytes(b"")
    log = LogFile(tmp_path / "cloche.log", 100, descriptor=descriptor)
    log.write(LINE)
    (tmp_path / "cloche.log").unlink()
    (tmp_path / "cloche.log").symlink_to(tmp_path / "secret")
    for _ in range(3):
        log.write(LINE)
    assert (tmp_path / "secret").read_bytes() == b""
