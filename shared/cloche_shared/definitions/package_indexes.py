"""The one index of a package: which may be named, and for which packages."""

import re
from collections.abc import Iterator
from typing import Final

from packaging.utils import canonicalize_name

from cloche_shared.contracts.definition import PipOptions, PythonSection
from cloche_shared.errors import Invalid, Violation
from cloche_shared.store.indexes import check_indexes

_NAME: Final = re.compile(r"[a-z0-9]([a-z0-9-]{0,254})")
_HEAD: Final = re.compile(r"[A-Za-z0-9._-]+")


def package_index_faults(section: PythonSection, allowed: tuple[str, ...] | None) -> Iterator[Violation]:
    """Yield what is wrong with the indexes of single packages; `allowed` are those of the operator (None: any)."""
    asked: set[str] = {canonicalize_name(head[0]) for line in section.pip if (head := _HEAD.match(line))}
    for name, url in section.pip_options.package_indexes.items():
        pointer = "/python/pip_options/package_indexes/" + name.replace("~", "~0").replace("/", "~1")[:256]
        try:
            check_indexes(PipOptions(index_url=url), pointer="", allowed=allowed)
        except Invalid as error:
            yield Violation(pointer, error.code, error.why)
        if not _NAME.fullmatch(name):
            yield Violation(pointer, "invalid_field", "It is no name of a package.")
        elif name not in asked:
            detail = "The package is not among pip's packages: name it there, so that its index has an effect."
            yield Violation(pointer, "package_index_unused", detail)
