"""A corpus of requirement lines that must never get through, each with the code that it gets."""

import json
from pathlib import Path
from typing import Any

import pytest

from cloche_shared.contracts.definition import Definition, PipOptions, PythonSection
from cloche_shared.errors import Invalid
from cloche_shared.store.requirements import MAX_LENGTH, check_definition, parse_requirements

CORPUS: list[tuple[str, str]] = json.loads(Path(__file__).with_name("corpus").joinpath("requirements.json").read_text())


@pytest.mark.parametrize(("line", "code"), CORPUS, ids=lambda text: ascii(text)[:80])
def test_a_line_of_a_requirements_file_is_refused_with_its_code(line: str, code: str) -> None:
    with pytest.raises(Invalid) as caught:
        parse_requirements(f"good==1.0\n{line}\n")
    violation = caught.value.violations[0]
    assert (violation.code, violation.pointer) == (code, "/requirements/2")
    assert "password" not in str(caught.value)


SHORT = [(line, code) for line, code in CORPUS if len(line) <= MAX_LENGTH]


@pytest.mark.parametrize(("line", "code"), SHORT, ids=lambda text: ascii(text)[:80])
def test_the_same_line_in_a_definition_is_refused_too(line: str, code: str) -> None:
    with pytest.raises(Invalid) as caught:
        check_definition(Definition(python=PythonSection(pip=("good==1.0", line))))
    assert caught.value.violations[0].pointer == "/python/pip/1"
    assert caught.value.code in {code, "requirement_option", "invalid_requirement"}


@pytest.mark.parametrize(
    "end", ["\\\n-r other.txt", " \\\n --install-option=x", "\r\n-r other.txt", "\n\ufeff-r other.txt"]
)
def test_a_continued_line_hides_no_option(end: str) -> None:
    with pytest.raises(Invalid):
        parse_requirements(f"good==1.0{end}\n")


@pytest.mark.parametrize(
    ("options", "pointer"),
    [
        ({"no_binary": ("--find-links",)}, "no_binary/0"),
        ({"only_binary": ("good", "../x")}, "only_binary/1"),
        ({"only_binary": ("",)}, "only_binary/0"),
    ],
    ids=repr,
)
def test_an_option_in_a_definition_is_checked_like_one_in_a_file(options: dict[str, Any], pointer: str) -> None:
    with pytest.raises(Invalid) as caught:
        check_definition(Definition(python=PythonSection(pip_options=PipOptions(**options))))
    violation = caught.value.violations[0]
    assert (violation.code, violation.pointer) == ("requirement_option", f"/python/pip_options/{pointer}")


@pytest.mark.parametrize("line", ["--extra-index-url https://example.com/{}", "--no-binary package{}"])
def test_an_option_has_a_bounded_number_of_values(line: str) -> None:
    with pytest.raises(Invalid) as caught:
        parse_requirements("\n".join(line.format(number) for number in range(300)))
    assert caught.value.code == "requirement_option"


def test_a_file_that_is_too_long_is_refused_and_not_cut_off() -> None:
    with pytest.raises(Invalid) as caught:
        parse_requirements("#\n" * 20_001 + "numpy\n")
    assert "20000 lines" in caught.value.why


def test_a_file_of_many_bad_lines_is_told_of_in_bounded_words() -> None:
    with pytest.raises(Invalid) as caught:
        parse_requirements("-e .\n" * 10_000)
    assert len(caught.value.violations) <= 100
