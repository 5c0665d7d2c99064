"""A node is a folder with an id, held by one process of each service."""

import stat
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from cloche_shared.adapters.node_folder import held_node
from cloche_shared.errors import Conflict, Invalid


@pytest.fixture
def data() -> Iterator[Path]:
    """A data folder with a short path, whatever the test run's own is."""
    with tempfile.TemporaryDirectory(dir="/tmp") as folder:
        yield Path(folder) / "data"


def test_two_services_may_drive_one_node(data: Path) -> None:
    with held_node(data, "n1", "runner") as first, held_node(data, "n1", "deployer") as second:
        assert first.root == second.root
        assert first.processes != second.processes


def test_a_second_process_of_a_service_is_refused_until_the_first_let_go(data: Path) -> None:
    with held_node(data, "n1", "runner"), pytest.raises(Conflict) as caught, held_node(data, "n1", "runner"):
        pass
    assert caught.value.code == "already_running"
    with held_node(data, "n1", "runner"):
        pass


def test_a_folder_belongs_to_one_node_for_ever(data: Path) -> None:
    with held_node(data, "n1", "runner"):
        pass
    with pytest.raises(Conflict, match="'n1'") as caught, held_node(data, "n2", "runner"):
        pass
    assert caught.value.code == "node_id_differs"


def test_nobody_else_may_look_into_the_folder(data: Path) -> None:
    with held_node(data, "n1", "runner") as node:
        assert {stat.S_IMODE(folder.stat().st_mode) for folder in (node.root, node.sockets)} == {0o700}


def test_a_path_that_leaves_no_room_for_sockets_is_refused(data: Path) -> None:
    with pytest.raises(Invalid) as caught, held_node(data / ("x" * 80), "n1", "runner"):
        pass
    assert caught.value.code == "path_too_long"
