"""The log's sink: a descriptor that takes nothing, or only a part, never fails who logs."""

import os
import resource
import signal
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import pytest

from cloche_shared.adapters.log_sink import LogSink

LIMIT = 100


@pytest.fixture
def little_room() -> Iterator[None]:
    """Let no file of this process grow beyond a few bytes, as on a full disk."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (LIMIT, before[1]))
    yield
    resource.setrlimit(resource.RLIMIT_FSIZE, before)
    signal.signal(signal.SIGXFSZ, handler)


@pytest.fixture
def file(tmp_path: Path) -> Iterator[int]:
    descriptor = os.open(tmp_path / "log", os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    yield descriptor
    os.close(descriptor)


@pytest.mark.usefixtures("little_room")
def test_lines_that_do_not_fit_are_counted_and_told_when_there_is_room(file: int, tmp_path: Path) -> None:
    sink = LogSink(partial(os.write, file))
    sink.tell = lambda lost: f"lost {lost}\n".encode()
    sink(b"first\n")
    for _ in range(3):
        sink(b"x" * 80 + b"\n")
    os.truncate(file, 0)
    sink(b"room again\n")
    sink(b"last\n")
    lines = (tmp_path / "log").read_bytes().splitlines()
    assert [line for line in lines if line] == [b"lost 2", b"room again", b"last"]


@pytest.mark.usefixtures("little_room")
def test_a_torn_line_is_ended_before_the_next(file: int, tmp_path: Path) -> None:
    sink = LogSink(partial(os.write, file))
    sink.tell = lambda lost: f"lost {lost}\n".encode()
    sink(b"a" * 60 + b"\n")
    sink(b"b" * 60 + b"\n")
    resource.setrlimit(resource.RLIMIT_FSIZE, (10 * LIMIT, resource.getrlimit(resource.RLIMIT_FSIZE)[1]))
    sink(b"whole\n")
    lines = (tmp_path / "log").read_bytes().splitlines()
    assert lines == [b"a" * 60, b"b" * 39, b"lost 1", b"whole"]


def test_a_closed_pipe_fails_nobody() -> None:
    reading, writing = os.pipe()
    os.close(reading)
    sink = LogSink(partial(os.write, writing))
    sink(b"nobody reads\n")
    os.close(writing)
