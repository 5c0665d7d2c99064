"""What is decided about conda without conda: places, messages, locks, replaced prefixes."""

import json

import pytest

from cloche_builder.conda import CondaTools, asks_conda, conda_resolution, wish_of
from cloche_builder.domain.names import is_public
from cloche_shared.adapters.local_node_files.relocating import Replaced, entry_points, relocated
from cloche_shared.contracts.definition import Artefact, CondaSection, Definition, PythonSection
from cloche_shared.definitions.rules import Where, checked
from cloche_shared.errors import Failed, Invalid
from cloche_shared.ports.conda import CondaRecord, CondaSolver, CondaWish
from cloche_shared.ports.resolver import Distribution, Say
from cloche_shared.store.conda_errors import check_specs, solve_error, spec_name
from cloche_shared.store.conda_places import channel_urls, subdir_of, with_user
from cloche_shared.store.ground import ground_clash, without_ground
from cloche_shared.store.pixi_lock import pixi_lock

OLD = "/build/place" + "_hold" * 20


class Nothing:
    """A channel without packages."""

    async def solve(self, wish: CondaWish, say: Say) -> tuple[CondaRecord, ...]:
        return ()

    async def distributions(self, artefacts: object, blobs: object) -> tuple[Distribution, ...]:
        return ()


def tools(solver: CondaSolver | None = None) -> CondaTools:
    return CondaTools(solver or Nothing(), "linux-x86_64", ("__unix=0=0",))


def defined(*packages: str, version: str | None = None, channels: tuple[str, ...] = ("conda-forge",)) -> Definition:
    return Definition(python=PythonSection(version=version, conda=CondaSection(packages=packages, channels=channels)))


def test_channels_by_name_lie_below_the_alias_and_each_counts_once() -> None:
    wanted = ("conda-forge", "https://conda.anaconda.org/conda-forge/", "nvidia/label/cuda-12", "defaults")

    assert channel_urls(wanted) == (
        "https://conda.anaconda.org/conda-forge",
        "https://conda.anaconda.org/nvidia/label/cuda-12",
        "https://repo.anaconda.com/pkgs/main",
        "https://repo.anaconda.com/pkgs/r",
    )
    assert channel_urls(("mine",), "https://mirror.example.org/") == ("https://mirror.example.org/mine",)


@pytest.mark.parametrize("channel", ["", "../x", "a b", "ftp://x/y", "-c"])
def test_what_is_no_channel_is_refused(channel: str) -> None:
    with pytest.raises(Failed, match="no conda channel"):
        channel_urls((channel,))


@pytest.mark.parametrize(
    ("platform", "subdir"),
    [
        ("linux-x86_64", "linux-64"),
        ("linux-aarch64", "linux-aarch64"),
        ("macosx-14_0-arm64", "osx-arm64"),
        ("darwin-x86_64", "osx-64"),
    ],
)
def test_platforms_have_condas_names(platform: str, subdir: str) -> None:
    assert subdir_of(platform) == subdir


def test_a_platform_that_conda_does_not_know_is_told() -> None:
    with pytest.raises(Failed) as caught:
        subdir_of("plan9-mips")
    assert caught.value.code == "platform_not_supported"


def test_credentials_go_to_files_on_their_channels_host_alone() -> None:
    channels = ("https://me:pw@a.example.org/c",)

    assert with_user("https://A.example.org/c/x.conda", channels) == "https://me:pw@A.example.org/c/x.conda"
    assert with_user("https://b.example.org/x.conda", channels) == "https://b.example.org/x.conda"
    assert with_user("https://you@a.example.org/x.conda", channels) == "https://you@a.example.org/x.conda"


@pytest.mark.parametrize(
    "spec", ["numpy", "numpy=1.26.*", "conda-forge::blas>=2,<3", "x==1.0=py36_0", "a >=1|<0.5", "__glibc"]
)
def test_plain_specs_pass(spec: str) -> None:
    check_specs([spec])


@pytest.mark.parametrize("spec", ["", "a[url=x]", "./a.conda", "a\nb", "a;b", "a" * 2000, "git+https://x", "a`b`"])
def test_other_specs_are_refused(spec: str) -> None:
    with pytest.raises(Failed) as caught:
        check_specs([spec])
    assert caught.value.code == "invalid_conda_spec"


def test_a_spec_has_the_name_of_its_package() -> None:
    assert [spec_name(one) for one in ("NumPy>=1", "conda-forge::a.b_c-d=1", "https://x/y::z")] == [
        "numpy",
        "a.b_c-d",
        "z",
    ]


@pytest.mark.parametrize(
    ("kind", "text", "code"),
    [
        ("SolverError", "No candidates were found for nothing *.", "package_not_found"),
        ("SolverError", "No candidates were found for python 3.7.*.", "python_not_available"),
        ("SolverError", "x * would require\n  __cuda >=12, for which no candidates were found.", "wrong_platform"),
        ("SolverError", "The following packages are incompatible\n x and y", "solver_conflict"),
        ("GatewayError", "HTTP status client error (403 Forbidden) for url (http://u:p@h/x)", "index_auth"),
        ("GatewayError", "could not find subdir 'noarch' in channel 'http://u:p@h/c/'", "channel_not_found"),
        ("GatewayError", "error sending request for url (http://u:p@h/x)", "unreachable"),
        ("GatewayError", "HTTP status server error (503 Later) for url (http://u:p@h/x)", "unreachable"),
        ("GatewayError", "failed to write: No space left on device (os error 28)", "disk_full"),
        ("PanicException", "http://u:p@h/ fell over", "conda_failed"),
    ],
)
def test_what_conda_says_has_a_code_and_holds_no_secret(kind: str, text: str, code: str) -> None:
    failed = solve_error(kind, text, ["x", "y"])

    assert failed.code == code
    assert "u:p" not in f"{failed.what}{failed.why}{failed.todo}"
    assert failed.todo


def test_text_and_binaries_get_the_prefix_in_their_own_ways() -> None:
    text = Replaced("etc/x", "text", OLD, [])
    binary = Replaced("lib/x", "binary", OLD, [])
    data = f"a{OLD}/b:{OLD}/c\0rest\0".encode()
    made = relocated(data, binary, "/new")

    assert relocated(f"x={OLD}/y".encode(), text, "/new") == b"x=/new/y"
    assert made.startswith(b"a/new/b:/new/c\0")
    assert made.endswith(b"\0rest\0")
    assert len(made) == len(data)


def test_a_path_that_does_not_fit_into_a_binary_is_told() -> None:
    with pytest.raises(Failed) as caught:
        relocated(b"/short/x\0", Replaced("lib/x", "binary", "/short", []), "/a/longer/one")
    assert caught.value.code == "path_too_long"
    assert relocated(b"nothing", Replaced("lib/x", "binary", "/short", []), "/a/longer/one") == b"nothing"


def test_a_first_line_that_is_too_long_finds_its_interpreter_by_name() -> None:
    file = Replaced("bin/x", "text", OLD, [])
    script = f"#!{OLD}/bin/python -E\nprint()\n".encode()

    assert relocated(script, file, "/new") == b"#!/new/bin/python -E\nprint()\n"
    assert relocated(script, file, "/" + "n" * 200) == b"#!/usr/bin/env python -E\nprint()\n"


def test_entry_points_are_read_and_others_refused() -> None:
    (found,) = entry_points(["tool = pack.age:main.sub"])
    assert (found.name, found.module, found.attr, found.section) == ("tool", "pack.age", "main.sub", "console")
    for line in ("tool", "../x = a:b", "x = a b:c", "x = a:b; import os"):
        with pytest.raises(ValueError, match=r".+"):
            list(entry_points([line]))


def test_pip_is_told_which_side_wants_what() -> None:
    lines = ["Because only numpy<2 is available and you require numpy>=2, your requirements are unsatisfiable."]
    failed = ground_clash(lines, ["numpy>=2", "other"], [Distribution("numpy", "1.26.4", "numpy-base")])

    assert failed is not None
    assert (failed.code, failed.extra) == ("solver_conflict", {"package": "numpy", "requirements": ["numpy>=2"]})
    assert "numpy-base" in failed.todo
    assert ground_clash(lines, ["numpy>=2"], [Distribution("num", "1.0", "num")]) is None
    assert ground_clash(["error: compiler"], ["numpy>=2"], [Distribution("numpy", "1.26.4", "numpy")]) is None


def test_what_conda_brings_is_taken_out_of_pips_lock() -> None:
    pylock = (
        'lock-version = "1.0"\n\n[[packages]]\nname = "a"\nversion = "1"\n\n[[packages]]\nname = "B_c"\nversion = "2"\n'
    )

    assert without_ground(pylock, {"b-c"}) == 'lock-version = "1.0"\n\n[[packages]]\nname = "a"\nversion = "1"\n'


def test_python_is_asked_by_the_definitions_version_unless_a_range_is_named() -> None:
    assert wish_of(defined("numpy", version="3.11"), tools()).specs == ("python=3.11.*", "numpy")
    assert wish_of(defined("python>=3.8", "numpy", version="3.11"), tools()).specs == ("python>=3.8", "numpy")
    assert wish_of(defined("python-dateutil"), tools()).specs == ("python", "python-dateutil")


def test_conda_is_asked_where_packages_or_channels_are_named() -> None:
    assert asks_conda(defined("numpy"))
    assert asks_conda(defined(channels=("mine",)))
    assert not asks_conda(defined())
    assert not asks_conda(Definition())


def test_a_solution_without_python_is_no_environment() -> None:
    with pytest.raises(Failed) as caught:
        conda_resolution((), wish_of(defined("numpy"), tools()), "linux-x86_64")
    assert caught.value.code == "python_not_available"


@pytest.mark.parametrize(("channels", "public"), [(("conda-forge",), True), (("conda-forge", "mine"), False)])
def test_only_packages_of_public_channels_are_everybodys(channels: tuple[str, ...], public: bool) -> None:
    index = "https://pypi.org/simple"

    assert is_public(defined("numpy", channels=channels), (index,), index, ("conda-forge",)) is public


def test_a_lock_of_both_names_every_file_without_credentials() -> None:
    record = CondaRecord(
        "a",
        "1",
        "0",
        "noarch",
        "https://h/c",
        "a-1-0.conda",
        "https://u:p@h/c/noarch/a-1-0.conda",
        None,
        3,
        depends=("b >=1",),
    )
    digest = "sha256:" + "a" * 64
    conda = Artefact(
        kind="conda",
        name="a",
        version="1",
        filename="a-1-0.conda",
        url="https://h/c/noarch/a-1-0.conda",
        digest=digest,
        size=3,
    )
    wheel = Artefact(
        kind="wheel", name="w", version="2", filename="w.whl", url="https://i/w.whl", digest=digest, size=4
    )
    text = pixi_lock(("https://u:p@h/c",), ("https://u:p@i/simple",), "linux-64", (record,), (conda, wheel))

    assert "u:p" not in text
    assert text.startswith("version: 6\n")
    assert f'- conda: {json.dumps(conda.url)}\n  sha256: "{"a" * 64}"' in text
    assert '  depends:\n  - "b >=1"\n' in text
    assert f'- pypi: {json.dumps(wheel.url)}\n  name: "w"\n' in text


@pytest.mark.parametrize(
    ("channel", "indexes", "channels", "allowed"),
    [
        ("conda-forge", None, None, True),
        ("https://mirror.example.org/c", None, ("https://mirror.example.org/c/",), True),
        ("conda-forge", None, ("mine",), False),
        ("conda-forge", ("https://index.example.org/simple",), None, False),
        ("conda-forge", ("https://index.example.org/simple",), ("conda-forge",), True),
        ("http://169.254.169.254/latest", None, None, False),
    ],
)
def test_only_channels_that_the_operator_allows_are_taken(
    channel: str, indexes: tuple[str, ...] | None, channels: tuple[str, ...] | None, allowed: bool
) -> None:
    where = Where("linux-x86_64", indexes, channels)
    if allowed:
        assert checked(defined("numpy", channels=(channel,)), where).python.conda is not None
        return
    with pytest.raises(Invalid) as caught:
        checked(defined("numpy", channels=(channel,)), where)
    assert [(one.pointer, one.code) for one in caught.value.violations] == [
        ("/python/conda/channels/0", "channel_not_allowed")
    ]
