"""Environments from files and folders of this machine: reads them, and hands their texts to `cloche.formats`."""

import os
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Final

from cloche._errors import Invalid, NotFound

if TYPE_CHECKING:
    from cloche.formats.reading import Imported

MAX_BYTES: Final = 16 * 1024 * 1024
MAX_PACKAGES: Final = 20_000


def read_file(path: Path, kind: str = "") -> "Imported":
    """Return what a file says; its format is told by name and content, unless `kind` names it.

    Raises `NotFound` (`file_not_found`), and as the format's reader does.
    """
    from cloche.formats.detect import format_of, read_as  # noqa: PLC0415 - only where a file is read

    path = path / "azureml_environment.json" if path.is_dir() else path
    text = read_text(path)

    def beside(name: str) -> str:
        found = (path.parent / name).resolve()
        if not found.is_relative_to(path.parent.resolve()):
            raise Invalid(
                "file_outside",
                f"{path.name} names the file {name}, which lies outside its folder.",
                todo="Put it beside the file that names it.",
            )
        return read_text(found)

    return read_as(kind or format_of(path.name, text), text, beside, path.name)


def read_text(path: Path) -> str:
    """Return the text of a file. Raises `NotFound` (`file_not_found`), `Invalid` (`file_not_text` …)."""
    try:
        if path.stat().st_size > MAX_BYTES:
            raise Invalid("file_too_large", f"{path} has more than {MAX_BYTES // 1024**2} MiB.")
        return path.read_text(encoding="utf-8-sig")
    except OSError as error:
        raise NotFound("file_not_found", f"There is no readable file {path}.", why=f"{error.strerror}.") from error
    except UnicodeDecodeError as error:
        raise Invalid("file_not_text", f"{path} is not in UTF-8.", why=str(error), todo="Save it as UTF-8.") from error


def read_conda_environment(named: str) -> "Imported":
    """Return what a conda environment of this machine has, by its own records; no conda is needed.

    `named` is its folder, or its name in one of the places where conda keeps environments. Raises
    `NotFound` (`conda_environment_not_found`), `Invalid` (`invalid_conda_environment`).
    """
    from cloche.formats.conda_meta import of_records  # noqa: PLC0415 - only where one is read

    prefix = _prefix(named)
    records = [read_text(path) for path in sorted((prefix / "conda-meta").glob("*.json"))[:MAX_PACKAGES]]
    return of_records(records, _metadata(prefix))


def _prefix(named: str) -> Path:
    places = [Path(named)] if os.sep in named else list(_places(named))
    for place in places:
        if (place / "conda-meta").is_dir():
            return place
    known = sorted({path.name for path in _known()})
    raise NotFound(
        "conda_environment_not_found",
        f"There is no conda environment {named!r} here.",
        why=f"Known here: {', '.join(known)}." if known else "None was found where conda keeps them.",
        todo="Name its folder.",
    )


def _places(name: str) -> Iterator[Path]:
    yield from (path for path in _known() if path.name == name)
    for root in _roots():
        yield root / "envs" / name
        if name in {"base", "root"}:
            yield root
    yield Path(name)


def _roots() -> Iterator[Path]:
    """Yield installations of conda that the environment of this process, or usual places, name."""
    active = os.environ.get("CONDA_PREFIX", "")
    if active:
        yield Path(active)
        if Path(active).parent.name == "envs":
            yield Path(active).parent.parent
    for variable in ("CONDA_ROOT", "MAMBA_ROOT_PREFIX"):
        if os.environ.get(variable):
            yield Path(os.environ[variable])
    if os.environ.get("CONDA_EXE"):
        yield Path(os.environ["CONDA_EXE"]).parent.parent
    for name in ("miniconda3", "anaconda3", "miniforge3", "mambaforge", "micromamba", ".conda"):
        yield Path.home() / name


def _known() -> Iterator[Path]:
    """Yield the environments that conda wrote down for this user."""
    listed = Path.home() / ".conda" / "environments.txt"
    if listed.is_file():
        yield from (Path(line.strip()) for line in listed.read_text(errors="replace").splitlines() if line.strip())


def _metadata(prefix: Path) -> Iterator[tuple[str, str]]:
    for folder in sorted(prefix.glob("lib/python3.*/site-packages/*.dist-info"))[:MAX_PACKAGES]:
        metadata, installer = folder / "METADATA", folder / "INSTALLER"
        if metadata.is_file():
            who = installer.read_text(errors="replace") if installer.is_file() else ""
            yield who, metadata.read_text(encoding="utf-8", errors="replace")
