"""What estimators of a framework add."""

from typing import Any


def with_package(package: str, version: str | None, options: dict[str, Any], *, by: str = "conda") -> dict[str, Any]:
    """Return options with the framework's package among those of conda or pip; a whole environment is left alone."""
    if options.get("environment_definition") is not None:
        return options
    pinned = package if version is None else f"{package}{'=' if by == 'conda' else '=='}{version}"
    name = f"{by}_packages"
    return {**options, name: [pinned, *(options.get(name) or ())]}
