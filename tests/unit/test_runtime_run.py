"""`Run`: what a script logs, and what it reads back."""

import io
import json
import math
import os
import threading
from pathlib import Path

import pytest

from cloche_runtime.run import Run


@pytest.fixture(autouse=True)
def _fresh_context(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Run, "_context", None)


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    (tmp_path / "uploads").mkdir()
    monkeypatch.setenv("CLOCHE_RUN_ID", "run-1")
    monkeypatch.setenv("CLOCHE_RUN_JOURNAL", str(tmp_path / "journal"))
    monkeypatch.setenv("CLOCHE_RUN_UPLOADS", str(tmp_path / "uploads"))
    return tmp_path


@pytest.fixture
def run(folder: Path) -> Run:
    return Run.get_context()


def lines(folder: Path) -> list[dict[str, object]]:
    found = [json.loads(line) for line in (folder / "journal").read_text().splitlines()]
    assert all(one.pop("v") == 1 and one.pop("t") > 0 for one in found)
    return found


class Scalar:
    """What numpy's scalars look like."""

    def item(self) -> float:
        return 0.5


def test_the_context_is_one_object_and_knows_its_run(run: Run) -> None:
    assert run is Run.get_context()
    assert run.id == "run-1"
    assert run.get_status() == "Running"


def test_values_are_journaled_as_they_were_logged(run: Run, folder: Path) -> None:
    run.log("loss", 0.5, step=3, description="d")
    run.log("name", "x")
    run.log("half", Scalar())  # type: ignore[arg-type]
    run.log_list("l", [1, 2])
    run.log_row("r", x=1, y=True)
    run.log_table("t", {"x": [1, 2]})
    assert lines(folder) == [
        {"op": "log", "name": "loss", "value": 0.5, "description": "d", "step": 3},
        {"op": "log", "name": "name", "value": "x"},
        {"op": "log", "name": "half", "value": 0.5},
        {"op": "log_list", "name": "l", "value": [1, 2]},
        {"op": "log_row", "name": "r", "value": {"x": 1, "y": True}},
        {"op": "log_table", "name": "t", "value": {"x": [1, 2]}},
    ]


def test_numbers_that_json_lacks_are_names(run: Run, folder: Path) -> None:
    for value in (math.nan, math.inf, -math.inf):
        run.log("m", value)
    assert [one["value"] for one in lines(folder)] == ["NaN", "Infinity", "-Infinity"]
    found = run.get_metrics("m")["m"]
    assert isinstance(found, list)
    assert math.isnan(found[0])
    assert found[1:] == [math.inf, -math.inf]


def test_metrics_read_back_as_azure_gives_them(run: Run) -> None:
    run.log("one", 1)
    run.log("more", 1)
    run.log("more", 2)
    run.log_list("list", [5])
    run.log_row("row", x=1, y=2)
    run.log_row("rows", x=1)
    run.log_row("rows", y=2)
    run.log_table("table", {"x": [1, 2], "y": [3, 4]})
    assert run.get_metrics() == {
        "one": 1,
        "more": [1, 2],
        "list": [5],
        "row": {"x": 1, "y": 2},
        "rows": {"x": [1, None], "y": [None, 2]},
        "table": {"x": [1, 2], "y": [3, 4]},
    }
    assert run.get_metrics("one") == {"one": 1}


@pytest.mark.parametrize("value", [[1, 2], (1,), {"a": 1}, {1}])
def test_a_list_is_refused_where_one_value_is_meant(run: Run, value: object) -> None:
    with pytest.raises(TypeError, match="log_list"):
        run.log("m", value)  # type: ignore[arg-type]


@pytest.mark.parametrize("value", [10**400, -(10**400)])
def test_a_number_that_cannot_be_kept_is_refused_and_not_lost(run: Run, value: int) -> None:
    with pytest.raises(ValueError, match="fit a float"):
        run.log("big", value)
    for kept in (10**30, 2**64 - 1, -(2**63)):
        run.log("large", kept)
    assert run.get_metrics() == {"large": [pytest.approx(1e30), 2**64 - 1, -(2**63)]}


def test_what_is_no_value_is_refused(run: Run) -> None:
    with pytest.raises(TypeError, match="not NoneType"):
        run.log("m", None)  # type: ignore[arg-type]
    with pytest.raises(TypeError, match="not object"):
        run.log_list("m", [object()])  # type: ignore[list-item]
    with pytest.raises(ValueError, match="1 to 255"):
        run.log("", 1)


def test_a_line_that_is_too_long_is_refused(run: Run) -> None:
    with pytest.raises(ValueError, match="may take 1048576 bytes"):
        run.log("m", "x" * 2_000_000)


def test_tags_change_and_properties_do_not(run: Run) -> None:
    run.tag("a", "1")
    run.tag("a", "2")
    run.set_tags({"b": None})
    run.add_properties({"p": "1"})
    with pytest.raises(ValueError, match="properties never change"):
        run.set_properties({"p": "2"})
    assert run.get_tags() == {"a": "2", "b": None}
    assert run.get_properties() == {"p": "1"}


def test_threads_do_not_mix_their_lines(run: Run, folder: Path) -> None:
    def write(value: str) -> None:
        for _ in range(50):
            run.log("m", value)

    threads = [threading.Thread(target=write, args=("x" * n,)) for n in range(8)]
    for one in threads:
        one.start()
    for one in threads:
        one.join()
    assert len(lines(folder)) == 400


def test_a_forked_process_writes_to_the_same_journal(run: Run, folder: Path) -> None:
    run.log("m", 1)
    child = os.fork()
    if child == 0:
        run.log("m", 2)
        os._exit(0)
    os.waitpid(child, 0)
    assert run.get_metrics() == {"m": [1, 2]}


def test_files_are_kept_under_their_names(run: Run, folder: Path, tmp_path: Path) -> None:
    source = tmp_path / "source"
    (source / "deep").mkdir(parents=True)
    (source / "deep" / "b").write_bytes(b"22")
    run.upload_file("plots/a", io.BytesIO(b"1"))
    run.upload_folder("all", str(source))
    assert (folder / "uploads" / "plots" / "a").read_bytes() == b"1"
    assert (folder / "uploads" / "all" / "deep" / "b").read_bytes() == b"22"
    assert [(one["op"], one["name"], one["size"]) for one in lines(folder)] == [
        ("upload", "plots/a", 1),
        ("upload", "all/deep/b", 2),
    ]


def test_a_name_that_is_taken_stays_as_it_is(run: Run, folder: Path) -> None:
    run.upload_file("a", io.BytesIO(b"1"))
    with pytest.raises(FileExistsError, match="choose another name"):
        run.upload_file("a", io.BytesIO(b"2"))
    assert os.listdir(folder / "uploads") == ["a"]  # noqa: PTH208 - names, as text


@pytest.mark.parametrize("name", ["", "/etc/passwd", "../x", "a/../../x", "a//b", "a\0b", "..\\x", "x" * 2000, None])
def test_a_name_that_leads_elsewhere_is_refused(run: Run, name: str) -> None:
    with pytest.raises(ValueError, match="relative path"):
        run.upload_file(name, io.BytesIO(b""))


def test_how_a_run_ends_is_said_by_its_block(run: Run, folder: Path) -> None:
    with run:
        pass
    assert run.get_status() == "Completed"
    with pytest.raises(KeyError), run:
        raise KeyError("x")
    run.flush()
    assert lines(folder) == [
        {"op": "end", "status": "Completed"},
        {"op": "end", "status": "Failed", "details": "KeyError: 'x'"},
    ]


def test_off_line_everything_works_and_is_shown(capsys: pytest.CaptureFixture[str]) -> None:
    run = Run.get_context()
    run.log("a", 1)
    run.upload_file("x", io.BytesIO(b""))
    run.complete()
    run.flush()
    assert run.id.startswith("OfflineRun_")
    assert run.get_metrics() == {"a": 1}
    assert capsys.readouterr().out == "Attempted to log scalar metric a:\n1\nAttempted to upload file x\n"


def test_off_line_can_be_refused() -> None:
    with pytest.raises(RuntimeError, match="does not belong to a run"):
        Run.get_context(allow_offline=False)


def test_the_environment_is_told_by_variables(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CLOCHE_ENVIRONMENT_NAME", "quickstart")
    monkeypatch.setenv("CLOCHE_ENVIRONMENT_VERSION", "3")
    assert run.get_environment() == {"name": "quickstart", "version": "3"}
