"""A corpus of requirement lines that must never get through, each with the code that it gets."""

import json
from pathlib import Path

import pytest

from cloche_shared.contracts.definition import Definition, PythonSection
from cloche_shared.errors import Invalid
from cloche_shared.store.requirements import check_definition, parse_requirements

CORPUS: list[tuple[str, str]] = json.loads(Path(__file__).with_name("corpus").joinpath("requirements.json").read_text())


@pytest.mark.parametrize(("line", "code"), CORPUS, ids=[ascii(line) for line, _ in CORPUS])
def test_a_line_of_a_requirements_file_is_refused_with_its_code(line: str, code: str) -> None:
    with pytest.raises(Invalid) as caught:
        parse_requirements(f"good==1.0\n{line}\n")
    violation = caught.value.violations[0]
    assert (violation.code, violation.pointer) == (code, "/requirements/2")
    assert "password" not in str(caught.value)


@pytest.mark.parametrize(("line", "code"), CORPUS, ids=[ascii(line) for line, _ in CORPUS])
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


def test_a_file_of_many_bad_lines_is_told_of_in_bounded_words() -> None:
    with pytest.raises(Invalid) as caught:
        parse_requirements("-e .\n" * 10_000)
    assert len(caught.value.violations) <= 100
