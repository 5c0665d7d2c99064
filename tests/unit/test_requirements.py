import pytest
from hypothesis import given
from hypothesis import strategies as st
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from cloche_shared.contracts.definition import Definition, PipOptions, PythonSection
from cloche_shared.errors import Invalid
from cloche_shared.store.requirements import (
    check_definition,
    inline_includes,
    normalise_requirement,
    parse_requirements,
)

HASH = "sha256:" + "a" * 64


def code_of(text: str) -> str:
    with pytest.raises(Invalid) as caught:
        parse_requirements(text)
    assert caught.value.violations
    return caught.value.code


def test_a_file_becomes_canonical_requirements_and_typed_options() -> None:
    text = (
        "\ufeff# the top\r\n"
        "Scikit_Learn [b,A] >=1, <2 ; python_version<'3.12'  # why\r\n"
        f"numpy==1.0 \\\r\n    --hash={HASH}\r\n"
        "\r\n"
        "-i https://index.example.org/simple\r\n"
        "--extra-index-url=https://other.example.org/simple\r\n"
        "--pre\r\n"
        "--no-binary Foo_Bar,baz\r\n"
        "--only-binary :all:\r\n"
        "--require-hashes\r\n"
    )
    requirements, options = parse_requirements(text)
    assert requirements == (
        'scikit-learn[a,b]<2,>=1; python_version < "3.12"',
        f"numpy==1.0 --hash={HASH}",
    )
    assert options == PipOptions(
        index_url="https://index.example.org/simple",
        extra_index_urls=("https://other.example.org/simple",),
        pre=True,
        no_binary=("foo-bar", "baz"),
        only_binary=(":all:",),
        require_hashes=True,
    )


def test_a_wheel_may_be_named_by_its_address() -> None:
    line = "foo @ https://files.example.org/foo-1.0-py3-none-any.whl"
    assert parse_requirements(line)[0] == (line,)


@pytest.mark.parametrize(
    "line",
    [
        "-e .",
        "-r other.txt",
        "--requirement=other.txt",
        "-c constraints.txt",
        "--find-links https://x.example.org",
        "-f /tmp",
        "--trusted-host x",
        "--config-settings a=b",
        "foo --config-settings=a=b",
        "foo --global-option=x",
        "--global-option x",
        "--no-such-option",
        "-x",
        "-",
        "--",
        "--pre yes",
        "--index-url",
        "--index-url file:///etc",
        "--index-url ftp://x.example.org",
        "--index-url https://${TOKEN}@x.example.org",
        "git+https://example.org/x.git",
        "foo @ git+https://example.org/x.git",
        "foo @ file:///tmp/foo-1.0-py3-none-any.whl",
        "foo @ http://example.org/foo-1.0-py3-none-any.whl",
        "foo @ https://example.org/foo-1.0.tar.gz",
        "./local",
        "../local",
        "/etc/passwd",
        "local/folder",
        "C:\\wheels\\foo.whl",
        "https://example.org/foo-1.0-py3-none-any.whl",
        "foo\u2028--pre",
    ],
)
def test_what_is_not_on_the_list_is_refused_by_name(line: str) -> None:
    assert code_of(line) in {"requirement_option", "invalid_requirement"}
    if "\u2028" not in line:
        assert code_of(line) == "requirement_option"


@pytest.mark.parametrize(
    "line", ["foo=1", "foo==", "foo bar", "==1", "foo; nonsense", "foo[", "foo --hash=md5:1", "\0"]
)
def test_what_is_no_requirement_is_said(line: str) -> None:
    assert code_of(line) == "invalid_requirement"


@pytest.mark.parametrize(
    "host",
    ["127.0.0.1", "localhost", "10.0.0.1", "169.254.169.254", "[::1]", "2130706433", "0x7f.1", "intranet", "u:p@x.org"],
)
def test_addresses_of_wheels_name_public_hosts(host: str) -> None:
    assert code_of(f"foo @ https://{host}/foo-1.0-py3-none-any.whl") == "url_not_allowed"


def test_every_fault_is_listed_with_its_line() -> None:
    with pytest.raises(Invalid) as caught:
        parse_requirements("numpy\n-e .\n\nfoo=1\n")
    assert [(item.pointer, item.code) for item in caught.value.violations] == [
        ("/requirements/2", "requirement_option"),
        ("/requirements/4", "invalid_requirement"),
    ]
    assert "Line 2" in caught.value.violations[0].detail


def test_a_definition_is_checked_as_a_file_is() -> None:
    definition = Definition(python=PythonSection(pip=("NumPy", "numpy", "-e .")))
    with pytest.raises(Invalid) as caught:
        check_definition(definition)
    assert caught.value.violations[0].pointer == "/python/pip/2"
    fine = Definition(python=PythonSection(pip=("NumPy", "numpy")))
    assert check_definition(fine).python.pip == ("numpy",)


@pytest.mark.parametrize("line", ["numpy\n-e .", "numpy\r\n--pre", "numpy\\\n-r x", "numpy # x\n--pre", "-r x"])
def test_one_requirement_of_a_definition_cannot_be_two_lines(line: str) -> None:
    with pytest.raises(Invalid):
        check_definition(Definition(python=PythonSection(pip=(line,))))


def test_included_files_stand_in_their_place() -> None:
    files = {"req/a.txt": "x\n-r b.txt\ny", "req/b.txt": "z\n--requirement sub/c.txt  # c", "req/sub/c.txt": "w"}
    assert inline_includes("req/a.txt", files.__getitem__).split() == ["x", "z", "w", "y"]


@pytest.mark.parametrize("line", ["-r ../../secret.txt", "-r /etc/passwd", "-r a.txt"])
def test_files_elsewhere_and_loops_are_not_included(line: str) -> None:
    with pytest.raises(Invalid) as caught:
        inline_includes("req/a.txt", {"req/a.txt": line}.__getitem__)
    assert caught.value.code == "requirement_option"


@given(st.text(max_size=200))
def test_any_text_is_parsed_or_refused(text: str) -> None:
    try:
        requirements, _ = parse_requirements(text)
    except Invalid:
        return
    assert all(normalise_requirement(line) == line for line in requirements)


@given(
    st.from_regex(r"[A-Za-z0-9]([A-Za-z0-9._-]{0,5}[A-Za-z0-9])?", fullmatch=True),
    st.sampled_from(["", "==", "!=", "<=", ">=", "<", ">", "~="]),
    st.from_regex(r"[0-9]{1,3}(\.[0-9]{1,3}){1,3}", fullmatch=True),
)
def test_a_plain_line_reads_as_the_parser_reads_it(name: str, operator: str, version: str) -> None:
    line = f"{name}{operator}{version}" if operator else name
    parsed = Requirement(line)
    assert normalise_requirement(line) == f"{canonicalize_name(parsed.name)}{parsed.specifier}"
    # a space keeps it from being plain
    spaced = f"{name} {operator}{version}" if operator else f"{name} "
    assert normalise_requirement(spaced) == normalise_requirement(line)
