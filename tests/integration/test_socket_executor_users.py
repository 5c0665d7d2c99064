"""A node that services and executor share, each as a user of its own, in a container of its own."""

import asyncio
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from cloche_shared.adapters.memory_resolver import Package, wheel_bytes
from cloche_shared.adapters.socket_executor import SocketExecutor
from cloche_shared.adapters.socket_executor.handover import Handover
from cloche_shared.errors import Unavailable
from tests.integration.executor_processes import Executors, as_user, needs_root, sh, volume

EXECUTOR, SERVICE, STRANGER, GROUP = 64001, 64002, 64003, 64000
STEPS = Path(__file__).with_name("shared_node.py")

pytestmark = needs_root


@dataclass
class Node:
    folder: Path
    executors: Executors

    def as_service(self, step: str) -> dict[str, object]:
        """Do one of the steps as the service's user."""
        argv = [sys.executable, str(STEPS), step, str(self.folder / "node"), str(self.executors.socket)]
        done = subprocess.run(
            [*as_user(SERVICE, GROUP, self.folder / "scratch"), *argv],
            capture_output=True,
            text=True,
            timeout=50,
            check=False,
            cwd="/",
        )
        assert done.returncode == 0, done.stderr
        found = json.loads(done.stdout)
        assert found.pop("uid") == SERVICE
        return dict(found)


@pytest.fixture
def node() -> Iterator[Node]:
    owners = [("executor", EXECUTOR), ("node", SERVICE), ("scratch", 0)]
    with volume(GROUP, *owners) as folder:
        (folder / "alpha-1.0-py3-none-any.whl").write_bytes(
            wheel_bytes(Package("alpha", "1.0", files={"alpha.py": ""}))
        )
        (folder / "alpha-1.0-py3-none-any.whl").chmod(0o644)
        clients = [f"--client={owner}={SERVICE}" for owner in ("runner", "deployer")]
        more = ["--group", str(GROUP), "--share", str(folder / "node"), *clients]
        executors = Executors(folder / "executor", more)
        executors.before = as_user(EXECUTOR, GROUP, folder / "scratch", contained=True)
        executors.start()
        yield Node(folder, executors)
        executors.close()


async def test_a_run_of_another_user_leaves_what_the_service_can_take_and_remove(node: Node) -> None:
    found = await asyncio.to_thread(node.as_service, "run")
    denied = "Permission denied"
    assert found == {
        "ended": "exited",
        "code": 0,
        "log": [
            f"{EXECUTOR} {GROUP} alpha True",
            f"{denied} {denied}",
            f"{denied} {denied}",
            f"{denied} {denied}",
            f"True {denied}",
            f"Read-only file system {denied} done",
        ],
        "outputs": ["outputs/deep/er/file.txt", "outputs/private.txt", "outputs/shut/file.txt"],
        "uploads": ["upload.txt"],
        "journal": "{}\n",
        "given": "given and more",
        "open": [],
        "reused": True,
        "left": [],
    }


async def test_a_scoring_worker_of_another_user_is_reached_by_the_group_alone(node: Node) -> None:
    found = await asyncio.to_thread(node.as_service, "score")
    assert found == {"owner": EXECUTOR, "gid": GROUP, "mode": 0o660, "ended": "canceled"}


async def test_the_socket_is_for_the_group_and_only_for_known_users(node: Node) -> None:
    status = node.executors.socket.stat()
    assert (status.st_uid, status.st_gid, status.st_mode & 0o777) == (EXECUTOR, GROUP, 0o660)
    stranger = SocketExecutor(node.executors.socket, "runner")  # root may pass every mode, but is not named
    with pytest.raises(Unavailable, match="User 0 is not among those that it was told to trust"):
        await stranger.start(sh("exit"))
    await stranger.close()


async def test_users_outside_the_group_see_nothing(node: Node) -> None:
    await asyncio.to_thread(node.as_service, "run")
    argv = ["setpriv", f"--reuid={STRANGER}", f"--regid={STRANGER}", "--clear-groups", "ls", str(node.folder / "node")]
    looked = await asyncio.to_thread(subprocess.run, argv, capture_output=True, text=True, check=False)
    assert "Permission denied" in looked.stderr


def test_only_what_is_ours_below_the_shared_folder_is_handed_over(tmp_path: Path) -> None:
    shared, other = tmp_path / "shared", tmp_path / "other"
    for folder in (shared, other):
        (folder / "in").mkdir(parents=True)
        (folder / "in" / "file").touch(mode=0o600)
        (folder / "in").chmod(0o1700)
    (shared / "in" / "foreign").touch(mode=0o600)
    os.chown(shared / "in" / "foreign", STRANGER, STRANGER)
    (shared / "in" / "link").symlink_to(other / "in")
    (shared / "in" / "set").touch()
    (shared / "in" / "set").chmod(0o6777)
    Handover(shared, GROUP).open_up([shared / "in", other / "in", shared / ".." / "other" / "in"])
    modes = {one: (one.stat().st_mode & 0o7777, one.stat().st_gid) for one in (shared / "in").iterdir()}
    assert modes[shared / "in" / "file"] == (0o640, GROUP)
    assert modes[shared / "in" / "foreign"] == (0o600, STRANGER)
    assert modes[shared / "in" / "set"] == (0o775, GROUP)
    assert (shared / "in").stat().st_mode & 0o7777 == 0o2770
    assert (other / "in").stat().st_mode & 0o7777 == 0o1700
    assert (other / "in" / "file").stat().st_mode & 0o7777 == 0o600
