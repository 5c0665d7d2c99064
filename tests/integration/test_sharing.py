"""Modes of a node's folders: private, unless a group is named that works in them too."""

import os
import stat
from pathlib import Path

from cloche_runner.adapters.attempt_files import LocalAttemptFiles
from cloche_shared.adapters.interpreters import Interpreters
from cloche_shared.adapters.local_node_files import LocalNodeFiles
from cloche_shared.adapters.memory_blobs import MemoryBlobs
from cloche_shared.adapters.sharing import PRIVATE, Sharing
from cloche_shared.contracts.files import FileEntry, Manifest


async def modes(tmp_path: Path, sharing: Sharing) -> dict[str, int]:
    """Return the mode of everything that an attempt is given, by its path in the node's folder."""
    umask = os.umask(0o077)
    try:
        blobs = MemoryBlobs()
        blob = await blobs.put_bytes(b"x")
        names = {"inner/run.sh": True, "main.py": False}
        entries = [FileEntry(path=name, digest=blob.digest, size=1, executable=runs) for name, runs in names.items()]
        files = LocalNodeFiles(tmp_path / "node", Interpreters(path=""), sharing=sharing)
        for _ in range(2):
            await files.checkout("run-1", Manifest(files=tuple(entries)), blobs)
            await LocalAttemptFiles(tmp_path / "node" / "attempts", sharing).prepare("run-1")
        await files.close()
    finally:
        os.umask(umask)
    found = (tmp_path / "node").rglob("*")
    return {one.relative_to(tmp_path / "node").as_posix(): stat.S_IMODE(one.stat().st_mode) for one in found}


async def test_without_a_group_everything_is_private(tmp_path: Path) -> None:
    assert await modes(tmp_path, PRIVATE) == {
        "work": 0o700,
        "work/run-1": 0o700,
        "work/run-1/inner": 0o700,
        "work/run-1/inner/run.sh": 0o700,
        "work/run-1/main.py": 0o600,
        "attempts": 0o700,
        "attempts/run-1": 0o700,
        "attempts/run-1/home": 0o700,
        "attempts/run-1/tmp": 0o700,
    }


async def test_a_group_may_write_to_what_is_handed_out_and_look_at_the_rest(tmp_path: Path) -> None:
    assert await modes(tmp_path, Sharing(os.getegid())) == {
        "work": 0o2750,
        "work/run-1": 0o2770,
        "work/run-1/inner": 0o2770,
        "work/run-1/inner/run.sh": 0o770,
        "work/run-1/main.py": 0o660,
        "attempts": 0o2750,
        "attempts/run-1": 0o2750,
        "attempts/run-1/journal.jsonl": 0o660,
        "attempts/run-1/uploads": 0o2770,
        "attempts/run-1/home": 0o2770,
        "attempts/run-1/tmp": 0o2770,
    }


async def test_what_strangers_left_is_removed_without_following_links(tmp_path: Path) -> None:
    files = LocalNodeFiles(tmp_path / "node", Interpreters(path=""), sharing=Sharing(os.getegid()))
    folder = await files.checkout("run-1", Manifest(files=()), MemoryBlobs())
    (tmp_path / "precious").mkdir()
    (tmp_path / "precious" / "file").touch()
    (folder / "link").symlink_to(tmp_path / "precious")
    await files.discard("run-1")
    await files.close()
    assert not folder.exists()
    assert (tmp_path / "precious" / "file").exists()


async def test_uploads_of_strangers_are_taken_without_following_links(tmp_path: Path) -> None:
    attempts = LocalAttemptFiles(tmp_path / "attempts", Sharing(os.getegid()))
    paths = await attempts.prepare("run-1")
    (tmp_path / "secret").write_text("secret")
    (paths.uploads / "in").mkdir()
    (paths.uploads / "in" / "kept.txt").write_text("kept")
    (paths.uploads / "in" / "half.0123abcd.part").write_text("half")
    (paths.uploads / "link.txt").symlink_to(tmp_path / "secret")
    (paths.uploads / "folder").symlink_to(tmp_path)
    os.mkfifo(paths.uploads / "pipe")
    assert [one.path for one in await attempts.uploads("run-1", MemoryBlobs())] == ["in/kept.txt"]
