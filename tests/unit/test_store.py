import pytest
from packaging.tags import Tag

from cloche_shared.contracts.definition import PipOptions, PythonSection
from cloche_shared.contracts.files import FileEntry, Manifest
from cloche_shared.errors import Failed, Invalid, TooLarge
from cloche_shared.store.paths import check_manifest, check_path, colliding
from cloche_shared.store.pylock import choose
from cloche_shared.store.together import together
from cloche_shared.store.uv_errors import build_error, resolve_error, without_secrets

DIGEST = "sha256:" + "0" * 64
TAGS = [str(Tag(*tag)) for tag in (("cp311", "cp311", "linux_x86_64"), ("cp311", "abi3", "linux_x86_64"))] + [
    "py3-none-any"
]


def wheel(name: str, number: str = "1") -> str:
    return f'{{ url = "https://files.example.org/{name}", size = 5, hashes = {{ sha256 = "{number * 64}" }} }}'


def lock(*wheels: str, sdist: str = "") -> str:
    source = f"sdist = {sdist}\n" if sdist else ""
    return f'lock-version = "1.0"\n[[packages]]\nname = "a"\nversion = "1"\n{source}wheels = [{", ".join(wheels)}]\n'


PURE = wheel("a-1-py3-none-any.whl")
NATIVE = wheel("a-1-cp311-cp311-linux_x86_64.whl", "2")
NEWER_BUILD = wheel("a-1-7-cp311-cp311-linux_x86_64.whl", "3")
STABLE = wheel("a-1-cp38-abi3-linux_x86_64.whl", "4")
FOREIGN = wheel("a-1-cp311-cp311-win_amd64.whl", "5")
SDIST = wheel("a-1.tar.gz", "6")


@pytest.mark.parametrize(
    ("text", "section", "filename"),
    [
        (lock(PURE, NATIVE), PythonSection(), "a-1-cp311-cp311-linux_x86_64.whl"),
        (lock(NATIVE, NEWER_BUILD), PythonSection(), "a-1-7-cp311-cp311-linux_x86_64.whl"),
        (lock(FOREIGN, PURE, sdist=SDIST), PythonSection(), "a-1-py3-none-any.whl"),
        (lock(FOREIGN, sdist=SDIST), PythonSection(), "a-1.tar.gz"),
        (lock(PURE, sdist=SDIST), PythonSection(pip_options=PipOptions(no_binary=("a",))), "a-1.tar.gz"),
        (lock(PURE, NATIVE), PythonSection(pip=(f"a==1 --hash=sha256:{'1' * 64}",)), "a-1-py3-none-any.whl"),
    ],
)
def test_the_best_file_is_chosen(text: str, section: PythonSection, filename: str) -> None:
    (choice,) = choose(text, TAGS, section)
    assert choice.filename == filename
    assert choice.kind == ("sdist" if filename.endswith(".tar.gz") else "wheel")
    assert choice.size == 5


@pytest.mark.parametrize(
    ("text", "section", "code"),
    [
        (lock(FOREIGN), PythonSection(), "package_not_found"),
        (
            lock(FOREIGN, sdist=SDIST),
            PythonSection(pip_options=PipOptions(only_binary=(":all:",))),
            "package_not_found",
        ),
        (lock(PURE), PythonSection(pip=(f"a --hash=sha256:{'9' * 64}",)), "hash_missing"),
        (lock(PURE), PythonSection(pip=("a",), pip_options=PipOptions(require_hashes=True)), "hash_missing"),
    ],
)
def test_no_usable_file_is_said_with_the_package(text: str, section: PythonSection, code: str) -> None:
    with pytest.raises(Failed) as caught:
        choose(text, TAGS, section)
    assert caught.value.code == code
    assert caught.value.extra["package"] == "a"


def test_credentials_go_only_to_the_hosts_that_they_are_for() -> None:
    (choice,) = choose(lock(PURE), TAGS, PythonSection(), ["https://u:p@files.example.org/simple"])
    assert choice.url.startswith("https://u:p@files.example.org/")
    (other,) = choose(lock(PURE), TAGS, PythonSection(), ["https://u:p@index.example.org/simple"])
    assert other.url.startswith("https://files.example.org/")


@pytest.mark.parametrize(
    ("line", "code"),
    [
        ("error: No space left on device (os error 28)", "disk_full"),
        (
            "hint: could not be queried due to a lack of valid authentication credentials (401 Unauthorized)",
            "index_auth",
        ),
        ("error: Failed to fetch: `https://x/`\n  Caused by: tcp connect error", "unreachable"),
        ("error: Request failed\n  cause: invalid peer certificate: UnknownIssuer", "index_certificate"),
        ("  \u00d7 Failed to build `foo==1.0`\n  ╰─▶ Call to backend failed", "compile_error"),
        ("Because nope was not found in the package registry and you require nope", "package_not_found"),
        ("error: something entirely new", "solver_conflict"),
    ],
)
def test_what_uv_says_becomes_a_code_and_a_remedy(line: str, code: str) -> None:
    error = resolve_error(line.split("\n"), ["foo"])
    assert error.code == code
    assert error.todo


def test_an_index_of_a_private_authority_is_told_with_its_cause_and_the_cure_that_works_here() -> None:
    said = [
        "error: Failed to fetch: https://index.example/simple/foo/",
        "  cause: error sending request for url (https://index.example/simple/foo/)",
        "  cause: client error (Connect)",
        "  cause: invalid peer certificate: UnknownIssuer",
        "hint: Consider enabling use of system TLS certificates with the `--system-certs` command-line flag",
    ]
    error = resolve_error(said, ["foo"])
    assert error.what == "The certificate of the package index is not trusted: UnknownIssuer."
    assert "SSL_CERT_FILE" in error.todo
    assert "--system-certs" not in error.why
    assert "https://index.example/simple/foo/" in error.why


def test_a_full_disk_while_compiling_is_no_fault_of_the_package() -> None:
    assert build_error(["cc: error: No space left on device"], "foo", "1").code == "disk_full"
    assert build_error(["cc: error"], "foo", "1").extra == {"package": "foo"}


def test_of_a_compilers_output_the_lines_that_name_the_fault_are_shown() -> None:
    noise = [f"gcc -c part{number}.c" for number in range(40)]
    error = build_error([*noise, "  a.c:1:10: fatal error: nowhere.h: No such file", *noise], "foo", "1.0")
    assert error.what == "The package foo 1.0 could not be compiled."
    assert error.why == "a.c:1:10: fatal error: nowhere.h: No such file"
    assert build_error(noise, "foo", "1.0").why.count("\n") == 2


def test_secrets_in_addresses_are_taken_out() -> None:
    assert without_secrets("fetch https://me:s3cret@host/x and http://t@h") == "fetch https://host/x and http://h"


@pytest.mark.parametrize(
    "path",
    ["", "/a", "a/", "a//b", "./a", "a/../b", "..", "a\\b", "a\0b", "a\nb", "C:/a", "c:a", "x" * 300, "d/" * 40 + "x"],
)
def test_paths_that_could_leave_their_tree_are_refused(path: str) -> None:
    with pytest.raises(Invalid) as caught:
        check_path(path)
    assert caught.value.code == "unsafe_path"


@pytest.mark.parametrize("path", ["a", "a/b.txt", ".hidden", "a b/\u00e9.py", "...", "d/" * 31 + "x"])
def test_plain_paths_are_fine(path: str) -> None:
    assert check_path(path) == path


def test_paths_that_collide_are_found() -> None:
    assert colliding(["a", "b/c", "A"]) == ["A"]
    assert colliding(["a", "a/b"]) == ["a/b"]
    assert colliding(["a/b", "a/c"]) == []


def test_a_manifest_is_checked_as_a_whole() -> None:
    def of(*paths: str) -> Manifest:
        return Manifest(files=tuple(FileEntry(path=path, digest=DIGEST, size=10) for path in paths))

    check_manifest(of("a", "b/c"))
    for bad in (of("a", "../b"), of("a", "A"), of("a", "a/b")):
        with pytest.raises(Invalid, match="cannot be used"):
            check_manifest(bad)
    with pytest.raises(TooLarge):
        check_manifest(of("a", "b"), max_bytes=19)


async def test_the_first_error_of_many_is_the_one_raised() -> None:
    async def fine() -> int:
        return 1

    async def wrong() -> int:
        raise Invalid("x", "wrong")

    assert await together([fine(), fine()]) == [1, 1]
    with pytest.raises(Invalid):
        await together([fine(), wrong(), fine()])
