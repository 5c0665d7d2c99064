import pytest
from hypothesis import given
from hypothesis import strategies as st

from cloche_shared.definitions.conda import ConfusedError, canonical_channel, canonical_spec, is_pinned, name_of


@pytest.mark.parametrize(
    ("written", "form"),
    [
        ("numpy", "numpy"),
        (" NumPy ", "numpy"),
        ("numpy *", "numpy"),
        ("numpy=1.26", "numpy=1.26.*"),
        ("numpy = 1.26", "numpy=1.26.*"),
        ("numpy 1.26.*", "numpy=1.26.*"),
        ("numpy=1.26.*", "numpy=1.26.*"),
        ("numpy==1.26.*", "numpy=1.26.*"),
        ("numpy[version='1.26.*']", "numpy=1.26.*"),
        ("numpy 1.26*", "numpy=1.26.*"),
        ("numpy==1.26", "numpy==1.26"),
        ("numpy 1.26", "numpy==1.26"),
        ("numpy<2, >=1.26", "numpy<2,>=1.26"),
        ("numpy >=1.26,<2", "numpy<2,>=1.26"),
        ('numpy[version=">=1.26,<2"]', "numpy<2,>=1.26"),
        ("numpy 1.26|1.25", "numpy==1.25|==1.26"),
        ("numpy=1.26=py311_0", "numpy==1.26=py311_0"),
        ("numpy 1.26 py311*", "numpy==1.26=py311*"),
        ("numpy * mkl*", "numpy==*=mkl*"),
        ("numpy[version='1.26', build='py311_0']", "numpy==1.26=py311_0"),
        ("conda-forge::numpy=1.26", "conda-forge::numpy=1.26.*"),
        ("numpy[channel=conda-forge]", "conda-forge::numpy"),
        ("https://C.example.org/main/::numpy", "https://c.example.org/main::numpy"),
        ("_libgcc_mutex=0.1=main", "_libgcc_mutex==0.1=main"),
        ("python~=3.11", "python~=3.11"),
        ("x!=1.0", "x!=1.0"),
    ],
)
def test_a_specification_has_one_form(written: str, form: str) -> None:
    assert canonical_spec(written) == form
    assert canonical_spec(form) == form


@pytest.mark.parametrize(
    "written",
    [
        "",
        "=1",
        "-n",
        "a b c d",
        "a[",
        "a[url=x]",
        "a[version]",
        "a=>1",
        "a (1)",
        "a;b",
        "a\nb==1",
        "a >=1,,",
        "a::b::c d",
    ],
)
def test_what_is_not_understood_is_refused(written: str) -> None:
    with pytest.raises(ConfusedError):
        canonical_spec(written)


@given(st.text(max_size=40))
def test_any_text_has_a_form_that_stays_or_is_refused(text: str) -> None:
    try:
        form = canonical_spec(text)
    except ConfusedError:
        return
    assert canonical_spec(form) == form


@pytest.mark.parametrize(
    ("written", "form"),
    [
        ("conda-forge", "conda-forge"),
        ("conda-forge/label/dev/", "conda-forge/label/dev"),
        ("HTTPS://Conda.Example.org/a/", "HTTPS://conda.example.org/a"),
        ("http://127.0.0.1:8080/channel", "http://127.0.0.1:8080/channel"),
    ],
)
def test_a_channel_has_one_form(written: str, form: str) -> None:
    assert canonical_channel(written).lower() == form.lower()


@pytest.mark.parametrize(
    "written",
    ["", "file:///x", "../x", "a/../b", "https://u:p@c.example.org", "https://", "a b", "$(x)", "https://x:0/"],
)
def test_what_is_no_channel_is_refused(written: str) -> None:
    with pytest.raises(ConfusedError):
        canonical_channel(written)


def test_names_and_pins_are_seen() -> None:
    assert name_of("conda-forge::numpy==1.26=py311_0") == "numpy"
    assert is_pinned("numpy==1.26")
    assert is_pinned("numpy==1.26=py311_0")
    assert not any(map(is_pinned, ("numpy", "numpy=1.26.*", "numpy==1|==2", "numpy<2,>=1")))
