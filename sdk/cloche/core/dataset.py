"""`Dataset`: files of datastores and of this machine, given to runs. Tables are left to the script's own libraries."""

import os
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from cloche.core._notes import refused, unavailable
from cloche.core.datastore import DataReference, Datastore

if TYPE_CHECKING:
    from cloche.core.workspace import Workspace

INPUT: Final = "input"


class _Folder(Datastore):
    """A folder without a name."""

    def __init__(self, path: Path) -> None:
        self.name = INPUT
        self._said: dict[str, Any] = {"type": "folder", "path": str(path)}


@dataclass(slots=True)
class DatasetConsumptionConfig:
    """A dataset as a run shall have it: its name there, and `mount` or `download`."""

    name: str
    dataset: "FileDataset"
    mode: str = "mount"
    path_on_compute: str | None = None

    def as_mount(self, path_on_compute: str | None = None) -> "DatasetConsumptionConfig":
        """Let the run read it."""
        return replace(self, mode="mount", path_on_compute=path_on_compute)

    def as_download(self, path_on_compute: str | None = None) -> "DatasetConsumptionConfig":
        """Let the run have its own copy."""
        return replace(self, mode="download", path_on_compute=path_on_compute)

    def reference(self) -> DataReference:
        """Return it as a reference to a path of a datastore."""
        source = self.dataset.source
        return DataReference(
            source.datastore, self.name, source.path_on_datastore, self.mode, self.path_on_compute or None
        )

    def __str__(self) -> str:
        return str(self.reference())


@dataclass(slots=True)
class FileDataset:
    """Files below one path."""

    source: DataReference
    tags: dict[str, str] = field(default_factory=dict)

    def as_named_input(self, name: str) -> DatasetConsumptionConfig:
        """Give it the name that the run finds it under."""
        return DatasetConsumptionConfig(name, self)

    def as_mount(self, path_on_compute: str | None = None) -> DatasetConsumptionConfig:
        """Let a run read it."""
        return self.as_named_input(INPUT).as_mount(path_on_compute)

    def as_download(self, path_on_compute: str | None = None) -> DatasetConsumptionConfig:
        """Let a run have its own copy."""
        return self.as_named_input(INPUT).as_download(path_on_compute)

    def to_path(self) -> list[str]:
        """Return the paths of its files, relative to what the dataset is of."""
        with self.source.local() as found:
            if found.is_file():
                return [f"/{found.name}"]
            return [f"/{one.relative_to(found).as_posix()}" for one in sorted(found.rglob("*")) if one.is_file()]

    def download(self, target_path: str | os.PathLike[str], overwrite: bool = False) -> list[str]:
        """Copy its files to a folder and return where they lie. Raises `FileExistsError`."""
        written: list[str] = []
        with self.source.local() as found:
            for path in [found] if found.is_file() else sorted(one for one in found.rglob("*") if one.is_file()):
                inside = path.name if found.is_file() else path.relative_to(found).as_posix()
                target = Path(target_path) / inside
                if target.exists() and not overwrite:
                    raise FileExistsError(f"{target} is there already; download with overwrite=True.")
                target.parent.mkdir(parents=True, exist_ok=True)
                target.write_bytes(path.read_bytes())
                written.append(str(target))
        return written


class _Files:
    """What makes datasets of files."""

    @staticmethod
    def from_files(path: object) -> FileDataset:
        """Return the dataset of a path: `(datastore, 'path')`, a reference, or a file or folder of this machine."""
        chosen = path[0] if isinstance(path, list) and len(path) == 1 else path
        if isinstance(chosen, DataReference):
            return FileDataset(chosen)
        if isinstance(chosen, tuple) and len(chosen) == 2 and isinstance(chosen[0], Datastore):  # noqa: PLR2004 - a pair
            return FileDataset(chosen[0].path(str(chosen[1])))
        if isinstance(chosen, str | os.PathLike):
            found = Path(chosen).resolve()
            if found.exists():
                return FileDataset(_Folder(found.parent).path(found.name))
            raise refused("data_not_found", f"There is no file or folder {found}.")
        raise refused("invalid_path", f"{path!r} is not one path.", todo="Give (datastore, 'path'), or a local path.")


class _Tables:
    """What would make datasets of tables."""

    @staticmethod
    def from_delimited_files(*_: object, **_options: object) -> FileDataset:
        """Raise `UserErrorException` (`not_available`)."""
        raise unavailable("Dataset.Tabular", "Tables are read by the script itself.", "Use Dataset.File.from_files.")

    from_parquet_files = from_json_lines_files = from_sql_query = from_delimited_files


class Dataset:
    """Makes datasets: `Dataset.File.from_files(…)`."""

    File = _Files
    Tabular = _Tables

    @staticmethod
    def get_by_name(workspace: "Workspace", name: str, version: str | int = "latest") -> FileDataset:
        """Raise `UserErrorException` (`dataset_not_found`): datasets are not registered, datastores are."""
        del workspace, version
        raise refused("dataset_not_found", f"There is no dataset {name!r}.", "None are registered.", "Use a Datastore.")


__all__ = ["Dataset", "DatasetConsumptionConfig", "FileDataset"]
