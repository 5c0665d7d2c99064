"""A file on its way to an object store: complete and as it was, or never complete."""

import io
from collections.abc import Iterator
from concurrent.futures import Executor, ThreadPoolExecutor

import pytest

from cloche_shared.adapters.upload_stream import BrokenOffError, CheckedFile, blob_of
from cloche_shared.errors import Invalid
from cloche_shared.ports.blobs import Blob

CONTENT = bytes(range(256)) * 40


@pytest.fixture
def beside() -> Iterator[Executor]:
    with ThreadPoolExecutor(1) as found:
        yield found


def test_a_file_is_read_whole_in_pieces_of_any_size(beside: Executor) -> None:
    file = CheckedFile(io.BytesIO(CONTENT), blob_of(io.BytesIO(CONTENT)), beside)
    assert b"".join(iter(lambda: file.read(1000), b"")) == CONTENT


@pytest.mark.parametrize("now", [CONTENT[:-1] + b"!", CONTENT[:-1], b"!" + CONTENT])
def test_the_last_piece_of_a_file_that_changed_is_not_handed_out(beside: Executor, now: bytes) -> None:
    file = CheckedFile(io.BytesIO(now), blob_of(io.BytesIO(CONTENT)), beside)
    seen: list[bytes] = []
    with pytest.raises(Invalid) as failed:
        seen.extend(iter(lambda: file.read(1000), b""))
    assert failed.value.code == "digest_mismatch"
    assert sum(map(len, seen)) < len(CONTENT)


def test_a_file_that_was_given_up_is_read_no_further(beside: Executor) -> None:
    file = CheckedFile(io.BytesIO(CONTENT), Blob("sha256:" + "0" * 64, len(CONTENT)), beside)
    file.read(10)
    file.abort()
    with pytest.raises(BrokenOffError):
        file.read(10)
