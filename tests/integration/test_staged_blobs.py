"""Blobs of another machine as files of this one."""

from pathlib import Path

import pytest

from cloche_shared.adapters.file_blobs import FileBlobs
from cloche_shared.adapters.memory_blobs import MemoryBlobs
from cloche_shared.adapters.staged_blobs import YOUNGEST, Staging
from cloche_shared.errors import NotFound


async def test_a_blob_elsewhere_becomes_a_file_here_that_goes_with_its_owner(tmp_path: Path) -> None:
    blobs = MemoryBlobs()
    blob = await blobs.put_bytes(b"hello")
    with Staging(tmp_path / "staged") as staging:
        path = Path(await staging.stage(blobs, blob.digest))
        assert path.read_bytes() == b"hello"
        assert await staging.stage(blobs, blob.digest) == str(path)
    assert not path.exists()


async def test_a_blob_that_is_here_is_not_copied(tmp_path: Path) -> None:
    blobs = FileBlobs(tmp_path / "blobs")
    blob = await blobs.put_bytes(b"hello")
    with Staging(tmp_path / "staged") as staging:
        assert await staging.stage(blobs, blob.digest) == str(await blobs.file(blob.digest))


async def test_what_a_crash_left_is_gone_at_the_next_start(tmp_path: Path) -> None:
    (tmp_path / "staged").mkdir()
    (tmp_path / "staged" / "left").write_bytes(b"x")
    with Staging(tmp_path / "staged"):
        assert list((tmp_path / "staged").iterdir()) == []


async def test_an_absent_blob_leaves_nothing(tmp_path: Path) -> None:
    with Staging(tmp_path / "staged") as staging:
        with pytest.raises(NotFound):
            await staging.stage(MemoryBlobs(), "sha256:" + "0" * 64)
        assert list((tmp_path / "staged").iterdir()) == []


async def test_what_was_asked_for_longest_ago_makes_room(tmp_path: Path) -> None:
    blobs = MemoryBlobs()
    with Staging(tmp_path / "staged", most_bytes=10) as staging:
        made = [
            Path(await staging.stage(blobs, (await blobs.put_bytes(b"%08d" % n)).digest)) for n in range(YOUNGEST + 2)
        ]
        # the two oldest made room; those that may be read now stayed
        assert [path.exists() for path in made] == [False, False, *[True] * YOUNGEST]
