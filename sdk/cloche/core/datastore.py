"""`Datastore`: a folder with data, of this machine or in an S3 bucket, under a name; and references to paths in it.

What a run is given (`as_mount`, `as_download`) travels with it by content: only files that the server has not
are sent, the run finds copies, and what it does to them never reaches the datastore.
"""

import os
import re
import shutil
import uuid
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any, Final

from cloche.core._notes import refused, unavailable
from cloche.exceptions import UserErrorException, told_as
from cloche_shared.store.paths import check_path

if TYPE_CHECKING:
    from cloche.core.workspace import Workspace

KIND: Final = "datastores"
DEFAULT_NAME: Final = "workspaceblobstore"
_DEFAULT_KEY: Final = "default_datastore"
VARIABLE: Final = "AZUREML_DATAREFERENCE_"
PLACE: Final = "azureml-data"
"""The folder, below a run's working folder, in which data that travels with it lies."""
_UNFIT: Final = re.compile(r"[^A-Za-z0-9_]")
_AZURES: Final = "Storage of Azure"


@dataclass(slots=True)
class DataReference:
    """A path in a datastore, and how a run shall have it. Its text stands for the path that the run finds.

    `mode` is `mount`, `download` or `upload`; `path_on_compute` the place below the run's working folder.
    """

    datastore: "Datastore"
    data_reference_name: str = ""
    path_on_datastore: str | None = None
    mode: str = "mount"
    path_on_compute: str | None = None
    overwrite: bool = False

    def __post_init__(self) -> None:
        whole = self.path_on_datastore in (None, "", "/", ".")
        chosen = self.data_reference_name or (self.datastore.name if whole else uuid.uuid4().hex)
        self.data_reference_name = _UNFIT.sub("_", chosen)

    def path(self, path: str | None = None, data_reference_name: str | None = None) -> "DataReference":
        """Return a reference to a path below this one."""
        below = "/".join(part.strip("/") for part in (self.path_on_datastore or "", path or "") if part.strip("/"))
        return replace(self, path_on_datastore=below or None, data_reference_name=data_reference_name or "")

    def as_mount(self) -> "DataReference":
        """Let the run read it."""
        return replace(self, mode="mount")

    def as_download(self, path_on_compute: str | None = None, overwrite: bool = False) -> "DataReference":
        """Let the run have its own copy."""
        return replace(self, mode="download", path_on_compute=path_on_compute, overwrite=overwrite)

    def as_upload(self, path_on_compute: str | None = None, overwrite: bool = False) -> "DataReference":
        """Raise `UserErrorException` (`not_available`): what a run leaves is kept with the run."""
        del path_on_compute, overwrite
        raise unavailable(
            "as_upload", "What a run leaves in `outputs/` is kept with the run.", "Download it from there."
        )

    @property
    def place(self) -> str:
        """Where the run finds it, below its working folder. Raises `UserErrorException` (`unsafe_path`)."""
        with told_as(UserErrorException):
            return check_path(self.path_on_compute or f"{PLACE}/{self.data_reference_name}")

    @contextmanager
    def local(self) -> Iterator[Path]:
        """Yield the files as a path of this machine, for as long as it is needed."""
        with self.datastore._local(self.path_on_datastore) as found:
            yield found

    def __str__(self) -> str:
        return f"${VARIABLE}{self.data_reference_name}"


class Datastore:
    """A folder with data under a name. `Datastore(ws, name)` and `Datastore.get(ws, name)` open one."""

    def __init__(self, workspace: "Workspace", name: str = DEFAULT_NAME) -> None:
        self.workspace = workspace
        self.name = name
        self._said = self._found()

    def _found(self) -> dict[str, Any]:
        known = self.workspace.names.all(KIND)
        if self.name not in known and self.name == DEFAULT_NAME:
            folder = self.workspace.names.folder / DEFAULT_NAME
            folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            self.workspace.names.put(KIND, DEFAULT_NAME, {"type": "folder", "path": str(folder)})
            known = self.workspace.names.all(KIND)
        if self.name not in known or self.name == _DEFAULT_KEY:
            names = ", ".join(sorted({DEFAULT_NAME, *known} - {_DEFAULT_KEY}))
            raise refused("datastore_not_found", f"There is no datastore {self.name!r}.", f"Known are {names}.")
        return known[self.name]

    @staticmethod
    def get(workspace: "Workspace", datastore_name: str) -> "Datastore":
        """Return a datastore. Raises `UserErrorException` (`datastore_not_found`)."""
        return Datastore(workspace, datastore_name)

    @staticmethod
    def get_default(workspace: "Workspace") -> "Datastore":
        """Return the one that is used where none is named: at first an own folder, `workspaceblobstore`."""
        chosen = workspace.names.all(KIND).get(_DEFAULT_KEY, {}).get("name", DEFAULT_NAME)
        return Datastore(workspace, str(chosen))

    @staticmethod
    def _all(workspace: "Workspace") -> "Mapping[str, Datastore]":
        names = {DEFAULT_NAME, *workspace.names.all(KIND)} - {_DEFAULT_KEY}
        return {name: Datastore(workspace, name) for name in sorted(names)}

    # --- making one

    @staticmethod
    def register_folder(workspace: "Workspace", datastore_name: str, path: str | os.PathLike[str]) -> "Datastore":
        """Give a folder of this machine a name. Raises `UserErrorException` (`folder_not_found`)."""
        folder = Path(path).resolve()
        if not folder.is_dir():
            raise refused("folder_not_found", f"There is no folder {folder}.")
        workspace.names.put(KIND, datastore_name, {"type": "folder", "path": str(folder)})
        return Datastore(workspace, datastore_name)

    @staticmethod
    def register_s3(
        workspace: "Workspace",
        datastore_name: str,
        bucket: str,
        *,
        endpoint: str = "https://s3.amazonaws.com",
        prefix: str = "",
        region: str = "us-east-1",
    ) -> "Datastore":
        """Give a folder of an S3 bucket a name; the keys are read from `AWS_ACCESS_KEY_ID` and `AWS_SECRET_ACCESS_KEY`.

        Needs the extra `cluster` (`pip install 'cloche[cluster]'`).
        """
        said = {"type": "s3", "bucket": bucket, "endpoint": endpoint, "prefix": prefix.strip("/"), "region": region}
        workspace.names.put(KIND, datastore_name, said)
        return Datastore(workspace, datastore_name)

    @staticmethod
    def register_azure_blob_container(*_: object, **_options: object) -> "Datastore":
        """Raise `UserErrorException` (`not_available`)."""
        raise unavailable(_AZURES, "Data lies in a folder or an S3 bucket here.", "Use register_folder or register_s3.")

    register_azure_file_share = register_azure_blob_container
    register_azure_data_lake = register_azure_blob_container

    # --- what it is

    @property
    def datastore_type(self) -> str:
        """`folder` or `s3`."""
        return str(self._said["type"])

    @property
    def container_name(self) -> str:
        """The bucket, or the folder."""
        return str(self._said.get("bucket") or self._said["path"])

    @property
    def account_name(self) -> str | None:
        """The address of the S3 server; None for a folder."""
        return self._said.get("endpoint")

    def set_as_default(self) -> None:
        """Let it be used where none is named."""
        known = self.workspace.names
        known._write(KIND, {**known.all(KIND), _DEFAULT_KEY: {"name": self.name}})

    def unregister(self) -> None:
        """Forget the name; the data stays."""
        self.workspace.names.drop(KIND, self.name)

    # --- files

    def upload(
        self,
        src_dir: str | os.PathLike[str],
        target_path: str | None = None,
        overwrite: bool = False,
        show_progress: bool = True,
    ) -> DataReference:
        """Copy the files of a folder here, below `target_path`. Raises `UserErrorException`, `FileExistsError`."""
        source = Path(src_dir)
        if not source.is_dir():
            raise refused("folder_not_found", f"There is no folder {source}.")
        files = [str(path) for path in sorted(source.rglob("*")) if path.is_file()]
        return self.upload_files(files, str(source), target_path, overwrite, show_progress)

    def upload_files(
        self,
        files: Iterable[str],
        relative_root: str | None = None,
        target_path: str | None = None,
        overwrite: bool = False,
        show_progress: bool = True,
    ) -> DataReference:
        """Copy files here; their paths below `relative_root` are kept."""
        del show_progress
        folder = self._folder("upload")
        for file in files:
            inside = Path(file).relative_to(relative_root).as_posix() if relative_root else Path(file).name
            target = folder / _inside("/".join(part for part in ((target_path or "").strip("/"), inside) if part))
            if target.exists() and not overwrite:
                raise FileExistsError(f"{target} is there already; upload with overwrite=True.")
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(file, target)
        return self.path(target_path)

    def download(
        self,
        target_path: str | os.PathLike[str],
        prefix: str | None = None,
        overwrite: bool = False,
        show_progress: bool = True,
    ) -> int:
        """Copy what lies here (below `prefix`) to a folder; return how many files came."""
        del show_progress
        count = 0
        with self._local(None) as folder:
            for path in sorted(one for one in folder.rglob("*") if one.is_file()):
                inside = path.relative_to(folder).as_posix()
                target = Path(target_path) / inside
                if not inside.startswith((prefix or "").strip("/")) or (target.exists() and not overwrite):
                    continue
                target.parent.mkdir(parents=True, exist_ok=True)
                shutil.copyfile(path, target)
                count += 1
        return count

    def _folder(self, action: str) -> Path:
        if self.datastore_type != "folder":
            raise unavailable(f"{action} to S3", "Buckets are only read here.", "Put the files there by other means.")
        return Path(self._said["path"])

    @contextmanager
    def _local(self, path: str | None) -> Iterator[Path]:
        wanted = (path or "").strip("/")
        inside = "" if wanted in {"", "."} else _inside(wanted)
        if self.datastore_type == "folder":
            found = Path(self._said["path"]) / inside
            if not found.exists():
                raise refused("data_not_found", f"The datastore {self.name} has no {path}.", f"Looked at {found}.")
            yield found
            return
        from cloche.core.adapters.s3 import fetch_tree  # noqa: PLC0415 - only where a bucket is meant

        with TemporaryDirectory(prefix="cloche-data-") as scratch:
            yield fetch_tree(self._said, inside, Path(scratch))

    # --- references

    def path(self, path: str | None = None, data_reference_name: str | None = None) -> DataReference:
        """Return a reference to a path here."""
        return DataReference(self, data_reference_name or "", path)

    def as_mount(self) -> DataReference:
        """Return a reference to all of it, for a run to read."""
        return self.path().as_mount()

    def as_download(self, path_on_compute: str | None = None) -> DataReference:
        """Return a reference to all of it, for a run to have a copy of."""
        return self.path().as_download(path_on_compute)

    def as_upload(self, path_on_compute: str | None = None) -> DataReference:
        """Raise `UserErrorException` (`not_available`): what a run leaves is kept with the run."""
        return self.path().as_upload(path_on_compute)

    def __repr__(self) -> str:
        return f"Datastore({self.name!r}, {self.datastore_type}, {self.container_name!r})"


def _inside(path: str) -> str:
    with told_as(UserErrorException):
        return check_path(path)


__all__ = ["DataReference", "Datastore"]
