"""Corpora of names, paths, variables, JSON texts and terminal texts that must never get through."""

import json
import posixpath
import string
from unicodedata import normalize

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import TypeAdapter, ValidationError

from cloche.cli.text import Table, fields, visible
from cloche_shared.contracts.common import Name
from cloche_shared.contracts.definition import PipOptions
from cloche_shared.contracts.files import FileEntry, Manifest
from cloche_shared.errors import Invalid
from cloche_shared.http.strict_json import MAX_DEPTH, parse
from cloche_shared.store.paths import check_manifest, check_path, path_fault
from cloche_shared.store.requirements import parse_requirements
from cloche_shared.store.variables import check_variables, is_reserved

NAMES: TypeAdapter[str] = TypeAdapter(Name)
GOOD_NAME = set(string.ascii_letters + string.digits + "._-")
DIGEST = "sha256:" + "0" * 64

# --- names


@given(st.text(max_size=300))
def test_a_name_is_ascii_letters_digits_dots_underscores_and_dashes(text: str) -> None:
    good = 0 < len(text) <= 255 and set(text) <= GOOD_NAME and text[0] not in "._-"
    try:
        NAMES.validate_python(text, strict=True)
    except ValidationError:
        assert not good
    else:
        assert good
        assert posixpath.basename(posixpath.normpath(text)) == text


# --- paths

CLIMBERS = [
    *("..", "../a", "a/..", "a/../b", "a/./b", "./a", ".", "", "/", "//", "/a", "a//b", "a/", "C:a", "c:/a"),
    *("C:\\a", "\\a", "..\\a", "a\\..\\b", "\\\\host\\share", "/etc/passwd", "///etc/passwd"),
    *("a\x00", "a\nb", "a\rb", "\x1b[1m", "a\x7f", "a\ud800", "/".join("a" * 40)),
    *("x" * 256, "\u00e4" * 128, "a/" + "x" * 256, "x" * 1025),
]


@pytest.mark.parametrize("path", CLIMBERS, ids=ascii)
def test_a_path_that_could_leave_its_tree_is_refused(path: str) -> None:
    with pytest.raises(Invalid) as caught:
        check_path(path)
    assert caught.value.code == "unsafe_path"


@given(st.lists(st.sampled_from(["a", "..", ".", "", "b c", "\u00e4", "C:", "~", "-", "a\\b", "$HOME"]), max_size=6))
def test_a_path_that_is_taken_stays_below_any_folder(parts: list[str]) -> None:
    path = "/".join(parts)
    if path_fault(path) is None:
        assert posixpath.normpath(f"/root/{path}") == f"/root/{path}"


@pytest.mark.parametrize(
    "paths", [("a", "a"), ("A", "a"), ("a", "a/b"), ("A", "a/b"), ("\u00df", "ss"), ("a/B/c", "A/b/C")], ids=ascii
)
def test_two_files_never_meet_on_one_path(paths: tuple[str, str]) -> None:
    entries = tuple(FileEntry(path=path, digest=DIGEST, size=1) for path in paths)
    with pytest.raises(Invalid) as caught:
        check_manifest(Manifest(files=entries))
    assert caught.value.code == "unsafe_path"


# --- variables

RESERVED = [
    *("PATH", "Path", "LD_PRELOAD", "LD_LIBRARY_PATH", "ld_audit", "DYLD_INSERT_LIBRARIES", "PYTHONPATH", "PYTHONHOME"),
    *("PYTHONSTARTUP", "PYTHONUSERBASE", "DOCKER_HOST", "NVIDIA_VISIBLE_DEVICES", "CUDA_VISIBLE_DEVICES", "BASH_ENV"),
    *("CLOCHE_TOKEN", "CLOCHE_RUN_ID", "AZUREML_MODEL_DIR", "IFS", "ENV", "VIRTUAL_ENV"),
]


@pytest.mark.parametrize("name", RESERVED)
def test_a_variable_that_steers_the_process_is_reserved(name: str) -> None:
    assert is_reserved(name)
    with pytest.raises(Invalid) as caught:
        check_variables({"GOOD": "1", name: "x"})
    assert [(one.code, one.pointer) for one in caught.value.violations] == [("reserved_variable", f"/variables/{name}")]


@pytest.mark.parametrize(
    "name",
    ["", " ", "a b", "a-b", "1a", "a=b", "a\x00", "a\n", "\u00e4", "a.b", "$a", "a" * 129, "BASH_FUNC_x%%"],
    ids=ascii,
)
def test_a_variable_has_a_name(name: str) -> None:
    with pytest.raises(Invalid) as caught:
        check_variables({name: "x"})
    assert caught.value.code == "invalid_variable"


# --- JSON

BAD_JSON = [
    *(b"", b" ", b"{", b"[1,]", b"{'a':1}", b"{a:1}", b"// c\n1", b"01", b"+1", b".5", b"1.", b"0x1", b"1e", b"nul"),
    *(b"NaN", b"Infinity", b"-Infinity", b'"\\ud800"', b'"\\udc00\\ud800"', b'"\xff"', b'"\xc0\x80"', b'"a\nb"'),
    *(b'"\xed\xa0\x80"', b'{"a":1,"a":1}', b'{"a":{"b":1,"b":2}}', b'[{"a":1,"\\u0061":2}]', b"[" * 2000),
    *(b'{"a":' * 2000, b"1 2", b"\xef\xbb\xbf1"),
]


@pytest.mark.parametrize("raw", BAD_JSON, ids=lambda raw: repr(raw[:30]))
def test_json_that_is_none_or_ambiguous_is_malformed(raw: bytes) -> None:
    with pytest.raises(Invalid) as caught:
        parse(raw)
    assert caught.value.code == "malformed_json"


OVER = [
    *(b"[" * (MAX_DEPTH + 1) + b"]" * (MAX_DEPTH + 1), b"[" + b"0," * 10_000 + b"0]", b"9007199254740993"),
    *(b"-9007199254740993", b"1" * 400, b'{"a":' * 40 + b"1" + b"}" * 40),
]


@pytest.mark.parametrize("raw", OVER, ids=lambda raw: repr(raw[:30]))
def test_json_over_a_limit_is_refused(raw: bytes) -> None:
    with pytest.raises(Invalid) as caught:
        parse(raw)
    assert caught.value.code in {"invalid_field", "malformed_json"}


TEXTS = st.text().map(lambda text: normalize("NFC", text))
LEAVES = st.none() | st.booleans() | st.integers(-1000, 1000) | TEXTS
TREES = st.recursive(LEAVES, lambda inner: st.lists(inner, max_size=4) | st.dictionaries(TEXTS, inner, max_size=4))


@given(TREES)
def test_any_json_of_modest_size_is_read_as_it_was_written(value: object) -> None:
    assert parse(json.dumps(value).encode()) == value


# --- requirements


@given(st.text(max_size=80))
def test_any_text_is_read_or_refused_and_never_crashes(text: str) -> None:
    try:
        lines, options = parse_requirements(text)
    except Invalid as error:
        lines, options = (), PipOptions()
        codes = {one.code for one in error.violations}
    else:
        codes = {"requirement_option"}
    assert codes
    assert codes <= {"requirement_option", "invalid_requirement", "url_not_allowed"}
    assert not any(line.startswith("-") or "\n" in line or "\x00" in line for line in lines)
    assert options.index_url is None or options.index_url.startswith("http")


# --- terminals


@given(st.text())
def test_nothing_that_is_shown_moves_the_terminal(text: str) -> None:
    shown = visible(text)
    assert not any((ord(one) < 32 and one not in "\t\n") or 127 <= ord(one) < 160 for one in shown)
    assert all(one not in shown for one in "\u202a\u202e\u2066\u2069")


def test_a_cell_is_one_line_of_its_table_and_a_value_forges_no_field() -> None:
    table = Table(("id", "name"), [("1", "a\nforged  row"), ("2", "b")])
    assert len(table.lines()) == 3
    assert fields([("name", "a\nstatus  Completed"), ("status", "Failed")])[1].startswith("  ")
