"""The program as a whole: its commands, their help, its reference page."""

import subprocess
import sys
from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

from cloche.cli import reference
from cloche.cli.main import MODULES, first_word, make_app

ROOT = Path(__file__).resolve().parents[2]


def call(*arguments: str) -> Result:
    return CliRunner().invoke(make_app(first_word(list(arguments))), list(arguments))


def test_the_reference_page_is_up_to_date() -> None:
    written = (ROOT / "docs" / "reference" / "cli.md").read_text()
    assert written == reference.page(), "run: python -m cloche.cli.reference > docs/reference/cli.md"


@pytest.mark.parametrize("word", MODULES)
def test_every_first_word_has_a_command_with_help(word: str) -> None:
    found = call(word, "--help")
    assert found.exit_code == 0
    assert found.output.startswith("Usage: cloche")


def test_every_command_and_option_is_explained() -> None:
    page = reference.page()
    assert "None" not in page
    assert ": \n" not in page
    for needed in (
        "cloche run why",
        "cloche env lock",
        "cloche service keys",
        "cloche events tail",
        "cloche build logs",
    ):
        assert f"## {needed}\n" in page


def test_every_command_takes_json() -> None:
    assert "--json" in call("env", "list", "--help").output
    assert "--json" in call("status", "--help").output


def test_an_unknown_command_is_wrong_usage_and_close_ones_are_named() -> None:
    found = call("env", "lits")
    assert found.exit_code == 2
    assert "list" in found.output


def test_a_bad_value_is_refused_before_anything_is_sent(tmp_path: Path) -> None:
    found = call("submit", "train.py", "--env", "no such name", "--home", str(tmp_path))
    assert found.exit_code == 2
    assert "invalid_reference" in found.output


def test_without_a_server_the_error_says_how_to_start_one(tmp_path: Path) -> None:
    found = call("env", "list", "--home", str(tmp_path))
    assert found.exit_code == 1
    assert "cloche up -d" in found.output
    assert "Traceback" not in found.output


def test_debug_shows_the_trace(tmp_path: Path) -> None:
    assert "Traceback" in call("env", "list", "--home", str(tmp_path), "--debug").output


def test_down_without_a_server_is_done(tmp_path: Path) -> None:
    found = call("down", "--home", str(tmp_path))
    assert found.exit_code == 0
    assert "does not run" in found.output


def test_status_without_a_server_is_a_failure(tmp_path: Path) -> None:
    found = call("status", "--home", str(tmp_path), "--json")
    assert found.exit_code == 1
    assert '"running":false' in found.output


def test_a_foreign_process_is_never_taken_for_the_server(tmp_path: Path) -> None:
    (tmp_path / "server.json").write_text('{"url": "http://127.0.0.1:1", "pid": 1, "token_file": "t"}')
    assert call("status", "--home", str(tmp_path)).exit_code == 1


def test_the_quick_commands_import_neither_parser_nor_client() -> None:
    heavy = {"typer", "pydantic", "httpx2", "rich"}
    code = f"import sys, cloche.cli.launch, cloche.cli.state; print(sorted({heavy} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


@pytest.mark.parametrize("kind", ["env", "model", "service"])
def test_nothing_is_deleted_where_nobody_can_be_asked(kind: str, tmp_path: Path) -> None:
    found = call(kind, "delete", "precious", "--home", str(tmp_path))
    assert found.exit_code == 2
    assert "not_confirmed" in found.output
    assert "--yes" in found.output


def test_a_version_without_packages_is_made_only_when_that_is_said(tmp_path: Path) -> None:
    found = call("env", "register", "name", "--python", "3.12", "--home", str(tmp_path))
    assert found.exit_code == 2
    assert "no_packages" in found.output
    assert "not_running" in call("env", "register", "name", "--empty", "--home", str(tmp_path)).output
