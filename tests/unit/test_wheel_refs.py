"""Private wheels by name: what their metadata says, and how definitions refer to them."""

import tomllib

import pytest

from cloche_shared.contracts.definition import Definition, PythonSection, WheelRef
from cloche_shared.errors import Failed, Invalid
from cloche_shared.ports.resolver import OwnWheel
from cloche_shared.store.hashing import definition_hash
from cloche_shared.store.own_wheels import own_choices, with_own
from cloche_shared.store.pylock import choose
from cloche_shared.store.requirements import check_definition
from cloche_shared.store.wheel_refs import Identity, filename_of, referring

DIGEST = "sha256:" + "a" * 64
OTHER = "sha256:" + "b" * 64
LINUX = ("cp311-cp311-manylinux_2_17_x86_64", "cp311-cp311-manylinux2014_x86_64")
ADDRESS = f"https://cloche.example/api/v1/wheels/{DIGEST}/own_lib-1.0-py3-none-any.whl"
REF = WheelRef(digest=DIGEST, filename="own_lib-1.0-py3-none-any.whl")


@pytest.mark.parametrize(
    ("identity", "sent_as", "filename"),
    [
        (Identity("Own.Lib", "1.0", "", ("py3-none-any",)), "x.whl", "own_lib-1.0-py3-none-any.whl"),
        (Identity("own", "1.0+cu1", "2b", ("py3-none-any",)), "", "own-1.0+cu1-2b-py3-none-any.whl"),
        (
            Identity("own", "1.0", "", ("py2-none-any", "py3-none-any")),
            "own-2.0-py3-none-any.whl",
            "own-1.0-py2.py3-none-any.whl",
        ),
        (
            Identity("own", "1.0", "", LINUX),
            "own-1.0-cp311-cp311-linux_x86_64.whl",
            "own-1.0-cp311-cp311-manylinux2014_x86_64.manylinux_2_17_x86_64.whl",
        ),
        (
            Identity("own", "1.0", "", LINUX),
            "own-1.0-cp311-cp311-manylinux_2_17_x86_64.manylinux2014_x86_64.whl",
            "own-1.0-cp311-cp311-manylinux_2_17_x86_64.manylinux2014_x86_64.whl",
        ),
        (Identity("own", "01.0", "", ("py3-none-any",)), "../own-9-py3-none-any.whl", "own-1.0-py3-none-any.whl"),
    ],
)
def test_a_wheel_is_named_as_its_metadata_says(identity: Identity, sent_as: str, filename: str) -> None:
    assert filename_of(identity, sent_as) == filename


@pytest.mark.parametrize(
    "identity",
    [
        Identity("", "1.0", "", ("py3-none-any",)),
        Identity("../own", "1.0", "", ("py3-none-any",)),
        Identity("own", "one", "", ("py3-none-any",)),
        Identity("own", "1.0", "", ()),
        Identity("own", "1.0", "", ("py3-none",)),
        Identity("own", "1.0", "", ("py3-none-any/..",)),
        Identity("own", "1.0", "x/y", ("py3-none-any",)),
        Identity("own", "1.0", "", ("py3-none-any",) * 65),
        Identity("o" * 129, "1.0", "", ("py3-none-any",)),
    ],
)
def test_metadata_that_gives_no_file_name_is_refused(identity: Identity) -> None:
    with pytest.raises(Invalid) as refused:
        filename_of(identity, "own-1.0-py3-none-any.whl")
    assert refused.value.code == "invalid_wheel"


@pytest.mark.parametrize("line", [ADDRESS, f"own-lib @ {ADDRESS}", ADDRESS.replace("https", "http")])
def test_the_address_of_a_wheel_becomes_a_reference(line: str) -> None:
    found = check_definition(Definition(python=PythonSection(pip=("alpha", line))))
    assert (found.python.pip, found.python.wheels) == (("alpha",), (REF,))


def test_an_address_and_its_reference_are_one_definition_with_one_hash() -> None:
    written = check_definition(Definition(python=PythonSection(pip=(ADDRESS,), wheels=(REF,))))
    referred = Definition(python=PythonSection(wheels=(REF,)))
    assert written == referred
    assert definition_hash(written, platform="p") == definition_hash(referred, platform="p")
    assert "cloche.example" not in written.model_dump_json()


@pytest.mark.parametrize(
    "line",
    [
        ADDRESS.replace("https://", "https://user:word@"),
        ADDRESS.replace(DIGEST, "sha256:abc"),
        ADDRESS.replace("own_lib", "..%2Fown"),
        ADDRESS + "?signature=x",
        ADDRESS.removesuffix(".whl") + ".zip",
    ],
)
def test_other_addresses_are_no_references(line: str) -> None:
    found = referring(Definition(python=PythonSection(pip=(line,))))
    assert not found.python.wheels or "/" in found.python.wheels[0].filename


def test_what_else_is_asked_of_an_index_or_by_address_stays() -> None:
    definition = Definition(python=PythonSection(pip=("alpha @ https://a.example/alpha-1-py3-none-any.whl",)))
    assert referring(definition) is definition


# --- in a lock


def own(filename: str, digest: str = DIGEST) -> OwnWheel:
    return OwnWheel(filename, digest, 10, "")


def test_a_private_wheel_is_chosen_by_content_and_has_no_address() -> None:
    (choice,) = own_choices([own("Own_Lib-1.0-py3-none-any.whl")], ["py3-none-any"])
    assert (choice.name, choice.version, choice.hash, choice.size) == ("own-lib", "1.0", DIGEST, 10)
    assert choice.url == "./Own_Lib-1.0-py3-none-any.whl"


def test_a_wheel_for_another_python_is_refused() -> None:
    with pytest.raises(Failed) as refused:
        own_choices([own("own-1.0-cp38-cp38-win_amd64.whl")], ["cp311-cp311-linux_x86_64", "py3-none-any"])
    assert (refused.value.code, refused.value.extra["package"]) == ("wheel_not_compatible", "own")


def test_two_wheels_of_one_package_are_a_conflict() -> None:
    with pytest.raises(Failed) as refused:
        own_choices([own("own-1.0-py3-none-any.whl"), own("own-2.0-py3-none-any.whl", OTHER)])
    assert refused.value.code == "solver_conflict"


def test_a_lock_names_a_private_wheel_beside_it_in_the_standards_words() -> None:
    text = with_own('lock-version = "1.0"\ncreated-by = "uv"\n', own_choices([own("own-1.0-py3-none-any.whl")]))
    (package,) = tomllib.loads(text)["packages"]
    assert package["wheels"] == [
        {
            "name": "own-1.0-py3-none-any.whl",
            "path": "own-1.0-py3-none-any.whl",
            "size": 10,
            "hashes": {"sha256": "a" * 64},
        }
    ]
    with pytest.raises(KeyError):
        choose(text, ["py3-none-any"], PythonSection())
