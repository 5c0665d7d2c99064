"""Names of images and of system packages, by their public grammars."""

import re
from typing import Final

_PART: Final = r"[a-z0-9]+(?:(?:\.|_|__|-+)[a-z0-9]+)*"
_DOMAIN: Final = r"(?:[A-Za-z0-9](?:[A-Za-z0-9-]*[A-Za-z0-9])?)(?:\.[A-Za-z0-9](?:[A-Za-z0-9-]*[A-Za-z0-9])?)*"
_IMAGE: Final = re.compile(
    rf"(?:(?P<domain>{_DOMAIN}(?::[0-9]{{1,5}})?)/)?"
    rf"(?P<path>{_PART}(?:/{_PART})*)(?::(?P<tag>[A-Za-z0-9_][A-Za-z0-9._-]{{0,127}}))?"
    r"(?:@(?P<digest>sha256:[0-9a-f]{64}))?"
)
_ADDRESS: Final = re.compile(rf"{_DOMAIN}(?::[0-9]{{1,5}})?(?:/{_PART})*")
_APT: Final = re.compile(r"[a-z0-9][a-z0-9+.-]{1,63}(=[A-Za-z0-9.+:~-]{1,64})?")
_RETIRED: Final = re.compile(r"mcr\.microsoft\.com/azureml/(base|base-gpu|minimal-[a-z0-9.-]+)([:@].*)?")
MAX_IMAGE: Final = 512


def is_image(text: str) -> bool:
    """Whether a text is a reference of an image: `host/path:tag@sha256:…`."""
    return len(text) <= MAX_IMAGE and _IMAGE.fullmatch(text) is not None


def is_moving(text: str) -> bool:
    """Whether a valid reference may mean other bytes tomorrow, because it has neither tag nor digest, or `latest`."""
    found = _IMAGE.fullmatch(text)
    return found is not None and found["digest"] is None and found["tag"] in {None, "latest"}


def is_retired(text: str) -> bool:
    """Whether an image is one of those that its publisher gave up."""
    return _RETIRED.fullmatch(text) is not None


def is_registry(text: str) -> bool:
    """Whether a text is the address of a registry: a host, perhaps with a port and a path."""
    return len(text) <= MAX_IMAGE and _ADDRESS.fullmatch(text) is not None


def is_apt(text: str) -> bool:
    """Whether a text names a system package, perhaps with its version."""
    return _APT.fullmatch(text) is not None
