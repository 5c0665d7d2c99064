"""Folders as snapshots."""

from pathlib import Path

import pytest

from cloche._errors import Invalid, NotFound
from cloche._files import DigestCache, requirements_text, take, take_one
from cloche._operations import environment_reference, model_reference, split_script
from cloche_shared.contracts.runs import RUNS_OWN


def folder(root: Path, **files: str) -> Path:
    for name, text in files.items():
        path = root / name.replace("__", "/").replace("_dot_", ".")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return root


def names(root: Path) -> list[str]:
    return [entry.path for entry in take(root, DigestCache()).manifest.files]


def test_a_snapshot_holds_every_file_sorted(tmp_path: Path) -> None:
    folder(tmp_path, b_dot_py="", a_dot_py="", data__x_dot_txt="")
    assert names(tmp_path) == ["a.py", "b.py", "data/x.txt"]


def test_the_same_files_give_the_same_digest(tmp_path: Path) -> None:
    one = take(folder(tmp_path / "one", x_dot_py="1"), DigestCache())
    two = take(folder(tmp_path / "two", x_dot_py="1"), DigestCache())
    assert one.digest == two.digest
    assert one.digest != take(folder(tmp_path / "two", x_dot_py="2"), DigestCache()).digest


def test_a_changed_file_is_read_again(tmp_path: Path) -> None:
    cache = DigestCache()
    first = take(folder(tmp_path, x_dot_py="1"), cache).digest
    assert take(folder(tmp_path, x_dot_py="22"), cache).digest != first


@pytest.mark.parametrize("name", [".clocheignore", ".amlignore", ".gitignore"])
def test_an_ignore_file_keeps_files_out(name: str, tmp_path: Path) -> None:
    folder(tmp_path, a_dot_py="", data__big_dot_bin="", data__keep_dot_txt="", notes_dot_log="")
    (tmp_path / name).write_text("*.log\ndata/*\n!data/keep.txt\n")
    assert names(tmp_path) == [name, "a.py", "data/keep.txt"]


def test_a_data_folder_with_its_keys_is_never_sent(tmp_path: Path) -> None:
    folder(tmp_path, a_dot_py="", home__token="secret", home__identity_dot_json="{}", home__cloche_dot_db="")
    folder(tmp_path, other__token="a word of a language model")
    assert names(tmp_path) == ["a.py", "other/token"]
    with pytest.raises(Invalid) as caught:
        take(tmp_path / "home", DigestCache())
    assert caught.value.code == "source_not_allowed"


def test_our_own_ignore_file_goes_before_the_others(tmp_path: Path) -> None:
    folder(tmp_path, a_dot_py="", b_dot_py="")
    (tmp_path / ".clocheignore").write_text(".*ignore\na.py\n")
    (tmp_path / ".gitignore").write_text("b.py\n")
    assert names(tmp_path) == ["b.py"]


def test_links_that_lead_out_are_followed_for_models_only(tmp_path: Path) -> None:
    folder(tmp_path / "cache", weights="w")
    folder(tmp_path / "model", config="c")
    (tmp_path / "model/weights").symlink_to(tmp_path / "cache/weights")
    assert names(tmp_path / "model") == ["config"]
    found = take(tmp_path / "model", DigestCache(), follow=True).manifest.files
    assert [entry.path for entry in found] == ["config", "weights"]


def test_a_runs_own_folders_stay_here_and_others_of_their_names_travel(tmp_path: Path) -> None:
    folder(tmp_path, x_dot_py="", outputs__model_dot_pkl="", logs__a_dot_txt="", data__outputs__y_dot_txt="")
    found = take(tmp_path, DigestCache(), RUNS_OWN).manifest.files
    assert [entry.path for entry in found] == ["data/outputs/y.txt", "x.py"]


def test_environments_and_version_control_never_travel(tmp_path: Path) -> None:
    folder(tmp_path, x_dot_py="", _dot_git__config="", _dot_venv__lib="", pkg____pycache____x_dot_pyc="", y_dot_pyc="")
    assert names(tmp_path) == ["x.py"]


def test_links_to_folders_are_not_followed(tmp_path: Path) -> None:
    folder(tmp_path, x_dot_py="")
    (tmp_path / "loop").symlink_to(tmp_path)
    assert names(tmp_path) == ["x.py"]


def test_a_missing_folder_is_named(tmp_path: Path) -> None:
    with pytest.raises(NotFound) as missing:
        take_one(tmp_path / "nowhere", DigestCache())
    assert missing.value.code == "source_not_found"
    assert "nowhere" in missing.value.what


def test_requirements_are_written_into_one_text(tmp_path: Path) -> None:
    folder(tmp_path, base_dot_txt="numpy==1.26.4\n", all_dot_txt="-r base.txt\nscipy\n")
    assert requirements_text(tmp_path / "all.txt").split() == ["numpy==1.26.4", "scipy"]
    with pytest.raises(NotFound) as missing:
        requirements_text(tmp_path / "none.txt")
    assert missing.value.code == "requirements_not_found"
    (tmp_path / "latin.txt").write_bytes(b"# \xe9\n")
    with pytest.raises(Invalid) as unread:
        requirements_text(tmp_path / "latin.txt")
    assert unread.value.code == "requirements_not_text"


def test_a_script_is_found_in_its_folder_or_below_the_source(tmp_path: Path) -> None:
    folder(tmp_path, src__train_dot_py="", other_dot_py="")
    assert split_script(tmp_path / "src/train.py", None) == (tmp_path / "src", "train.py")
    assert split_script("src/train.py", tmp_path) == (tmp_path, "src/train.py")
    with pytest.raises(Invalid) as outside:
        split_script(tmp_path / "other.py", tmp_path / "src")
    assert outside.value.code == "script_outside_source"


def test_references_are_read_as_people_write_them() -> None:
    assert environment_reference("e") == {"name": "e"}
    assert environment_reference("e:3") == {"name": "e", "version": "3"}
    assert environment_reference("e@prod") == {"name": "e", "label": "prod"}
    assert environment_reference("e:latest") == environment_reference("e@latest") == {"name": "e"}
    assert environment_reference({"name": "e", "definition": {}}) == {"name": "e", "definition": {}}
    assert model_reference("m:2") == {"name": "m", "version": "2"}


def test_a_script_that_is_a_link_keeps_its_name_and_its_folder(tmp_path: Path) -> None:
    folder(tmp_path, ok_dot_py="", other__far_dot_py="")
    (tmp_path / "lk.py").symlink_to("ok.py")
    (tmp_path / "away.py").symlink_to("other/far.py")
    assert split_script(tmp_path / "lk.py", None) == (tmp_path, "lk.py")
    assert split_script(tmp_path / "away.py", tmp_path) == (tmp_path, "away.py")
