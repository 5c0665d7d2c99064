"""Room that is kept on a disk, given up in pieces and taken back."""

from pathlib import Path

import pytest

from cloche_shared.adapters.disk_reserve import PIECE, DiskReserve
from cloche_shared.adapters.sqlite.schema import is_broken, is_full
from cloche_shared.ports.reserve import NoReserve

SIZE = 3 * PIECE + 100


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "reserve"


def test_room_is_really_taken_and_is_the_users_alone(file: Path) -> None:
    DiskReserve(file, SIZE).top_up()
    found = file.stat()
    assert (found.st_size, found.st_mode & 0o777) == (SIZE, 0o600)
    assert found.st_blocks * 512 >= SIZE


def test_it_is_given_up_piece_by_piece_until_nothing_is_left(file: Path) -> None:
    reserve = DiskReserve(file, SIZE)
    reserve.top_up()
    left = []
    while reserve.give_up():
        left.append(file.stat().st_size)
    assert left == [2 * PIECE + 100, PIECE + 100, 100, 0]
    reserve.take_back()
    assert file.stat().st_size == SIZE


def test_nothing_is_kept_where_others_would_lack_it(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    reserve = DiskReserve(file, SIZE)
    monkeypatch.setattr(reserve, "free", lambda: SIZE + PIECE)
    reserve.top_up()
    assert file.stat().st_size == PIECE
    assert not reserve.is_needed()
    monkeypatch.setattr(reserve, "free", lambda: 0)
    reserve.take_back()
    assert file.stat().st_size == PIECE
    assert reserve.is_needed()


def test_a_start_gives_up_what_it_needs(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    reserve = DiskReserve(file, SIZE)
    reserve.top_up()
    monkeypatch.setattr(reserve, "free", lambda: SIZE - file.stat().st_size)
    reserve.make_room(2 * PIECE)
    assert file.stat().st_size == PIECE + 100


def test_a_link_in_its_place_is_not_followed(file: Path) -> None:
    other = file.with_name("other")
    other.write_text("kept")
    file.symlink_to(other)
    reserve = DiskReserve(file, SIZE)
    reserve.top_up()
    assert not reserve.give_up()
    assert other.read_text() == "kept"


def test_without_a_reserve_nothing_is_given_up() -> None:
    none = NoReserve()
    none.take_back()
    assert not none.give_up()
    assert not none.is_needed()


def test_a_file_that_sqlite_cannot_grow_to_share_is_a_full_disk_and_no_broken_one() -> None:
    error = OSError()
    error.sqlite_errorcode = 4874  # type: ignore[attr-defined]
    assert is_full(error)
    assert not is_broken(error)
