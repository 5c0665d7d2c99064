"""`Run`: what a user's script tells about itself while it runs, and may ask.

    from cloche.core import Run

    run = Run.get_context()
    run.log("accuracy", 0.93)

Inside a run (the environment names it: `CLOCHE_RUN_ID`, `CLOCHE_RUN_JOURNAL`, `CLOCHE_RUN_UPLOADS`)
everything goes to the run's journal (`cloche_runtime.records` has its format). Elsewhere the same
script works off-line: what it logs is printed and kept in memory.
"""

import os
import sys
import threading
from types import TracebackType
from typing import BinaryIO, Dict, List, Mapping, Optional, Type, Union

from cloche_runtime import records

_LONGEST_PATH = 1024

Scalar = Union[int, float, str, bool]
Source = Union[str, "os.PathLike[str]", BinaryIO]


class Run:
    """The run that this process belongs to. Made by `Run.get_context()`."""

    _context: "Optional[Run]" = None
    _making = threading.Lock()

    def __init__(self, run_id: str, journal: Optional[str] = None, uploads: Optional[str] = None) -> None:
        self._id = run_id
        self._journal = records.Journal(journal)
        self._offline = journal is None
        self._uploads = uploads
        self._status = "Running"

    @classmethod
    def get_context(cls, allow_offline: bool = True, **_others: object) -> "Run":  # noqa: FBT001, FBT002 - as Azure's
        """Return the run of this process; off-line one of its own, unless that is not allowed (RuntimeError)."""
        with cls._making:
            if cls._context is None:
                cls._context = cls._from_environment(allow_offline)
            return cls._context

    @classmethod
    def _from_environment(cls, allow_offline: bool) -> "Run":  # noqa: FBT001 - as above
        run_id = os.environ.get("CLOCHE_RUN_ID")
        journal = os.environ.get("CLOCHE_RUN_JOURNAL")
        if run_id and journal:
            return cls(run_id, journal, os.environ.get("CLOCHE_RUN_UPLOADS"))
        if not allow_offline:
            raise RuntimeError("This process does not belong to a run. Submit the script, or allow_offline.")
        return cls("OfflineRun_" + _uuid())

    @property
    def id(self) -> str:
        """The run's id; off-line `OfflineRun_<uuid>`."""
        return self._id

    @property
    def number(self) -> Optional[int]:
        """The number of the attempt, from 1; None off-line."""
        number = os.environ.get("CLOCHE_RUN_ATTEMPT", "")
        return int(number) if number.isdigit() else None

    # --- metrics

    def log(self, name: str, value: Scalar, description: Optional[str] = None, step: Optional[int] = None) -> None:
        """Log a value; logged again under the same name, the values make a list."""
        if hasattr(value, "__iter__") and not isinstance(value, str):
            raise TypeError("run.log takes one value; use run.log_list(%r, ...) for a list." % name)
        self._log("log", name, records.scalar(value), description, step)

    def log_list(
        self, name: str, value: List[Scalar], description: Optional[str] = None, step: Optional[int] = None
    ) -> None:
        """Log a list of values."""
        self._log("log_list", name, records.sequence(value), description, step)

    def log_row(self, name: str, description: Optional[str] = None, **kwargs: Scalar) -> None:
        """Log a row of a table: one value for each column."""
        row = {records.name(key): records.scalar(one) for key, one in kwargs.items()}
        self._log("log_row", name, row, description)

    def log_table(self, name: str, value: Mapping[str, List[Scalar]], description: Optional[str] = None) -> None:
        """Log a table: a list of values for each column."""
        table = {records.name(key): records.sequence(one) for key, one in value.items()}
        self._log("log_table", name, table, description)

    def _log(
        self, op: str, name: str, value: object, description: Optional[str] = None, step: Optional[int] = None
    ) -> None:
        self._journal.add(op, name=records.name(name), value=value, description=description, step=step)
        if self._offline:
            sys.stdout.write("Attempted to log %s metric %s:\n%s\n" % (_KINDS[op], name, value))

    def get_metrics(self, name: Optional[str] = None, **_others: object) -> Dict[str, object]:
        """Return what was logged so far by all processes of the run; with `name` only that."""
        found = records.metrics(self._journal.lines())
        return found if name is None else {key: one for key, one in found.items() if key == name}

    # --- tags and properties

    def tag(self, key: str, value: Optional[str] = None) -> None:
        """Set a tag; set again, it changes."""
        self._journal.add("tag", name=records.name(key), value=None if value is None else str(value))

    def set_tags(self, tags: Mapping[str, Optional[str]]) -> None:
        """Set several tags; others stay."""
        for key, value in tags.items():
            self.tag(key, value)

    def get_tags(self) -> Dict[str, Optional[str]]:
        """Return the tags that this run set so far."""
        return {line["name"]: line["value"] for line in self._journal.lines() if line["op"] == "tag"}

    def add_properties(self, properties: Mapping[str, str]) -> None:
        """Add properties. They never change: ValueError for a key that is there."""
        present = self.get_properties()
        for key in properties:
            if key in present:
                raise ValueError("The property %r is set already; properties never change. Use a tag." % key)
        for key, value in properties.items():
            self._journal.add("property", name=records.name(key), value=str(value))

    set_properties = add_properties

    def get_properties(self) -> Dict[str, str]:
        """Return the properties that this run added so far."""
        return {line["name"]: line["value"] for line in self._journal.lines() if line["op"] == "property"}

    # --- files

    def upload_file(
        self, name: str, path_or_stream: Union[str, "os.PathLike[str]", BinaryIO], **_others: object
    ) -> None:
        """Keep a file under `name` (a relative path). ValueError for a bad name, FileExistsError for a taken one."""
        parts = _checked(name)
        if self._uploads is None:
            sys.stdout.write("Attempted to upload file %s\n" % name)
            return
        target = os.path.join(self._uploads, *parts)
        if os.path.lexists(target):
            raise FileExistsError("The run has a file %r already; choose another name." % name)
        os.makedirs(os.path.dirname(target), mode=0o700, exist_ok=True)
        self._journal.add("upload", name="/".join(parts), size=_copy(path_or_stream, target))

    def upload_files(self, names: List[str], paths: List[str], **_others: object) -> None:
        """Keep several files. TypeError when the lists differ in length."""
        if len(names) != len(paths):
            raise TypeError("As many names as paths are needed: %d names, %d paths." % (len(names), len(paths)))
        for name, path in zip(names, paths):  # noqa: B905 - Python 3.8 has no strict
            self.upload_file(name, path)

    def upload_folder(self, name: str, path: str, **_others: object) -> None:
        """Keep every file below a folder, under `name`."""
        if not os.path.isdir(path):
            raise NotADirectoryError("There is no folder %r to upload." % path)
        for folder, _, files in os.walk(path):
            for file in sorted(files):
                full = os.path.join(folder, file)
                relative = os.path.relpath(full, path).replace(os.sep, "/")
                self.upload_file(name.rstrip("/") + "/" + relative, full)

    # --- status

    def get_status(self) -> str:
        """Return "Running", or how the script said that it ended."""
        return self._status

    def get_environment(self) -> Dict[str, str]:
        """Return name, version and hashes of the environment, as the run's variables tell them."""
        keys = ("NAME", "VERSION", "DEFINITION_HASH", "LOCK_DIGEST", "IMAGE_DIGEST")
        found = {key.lower(): os.environ.get("CLOCHE_ENVIRONMENT_" + key) for key in keys}
        return {key: value for key, value in found.items() if value}

    def complete(self, **_others: object) -> None:
        """Say that the work is done. The run's status comes from how the process ends."""
        self._end("Completed")

    def fail(self, error_details: Optional[object] = None, error_code: Optional[str] = None, **_others: object) -> None:
        """Say that the work failed and why. The run's status comes from how the process ends."""
        details = None if error_details is None else str(error_details)
        self._end("Failed", details=details, code=None if error_code is None else str(error_code))

    def _end(self, status: str, **members: Optional[str]) -> None:
        self._status = status
        self._journal.add("end", status=status, **members)

    def flush(self, timeout_seconds: float = 300) -> None:  # noqa: ARG002 - Azure's signature; nothing is buffered here
        """Make what was logged durable."""
        self._journal.flush()

    def __enter__(self) -> "Run":  # noqa: PYI034 - Python 3.8 has no Self
        return self

    def __exit__(
        self, kind: Optional[Type[BaseException]], error: Optional[BaseException], _trace: Optional[TracebackType]
    ) -> None:
        if kind is None:
            self.complete()
        else:
            self.fail(error_details="%s: %s" % (kind.__name__, error))

    def __repr__(self) -> str:
        return "Run(%r)" % self._id


def _uuid() -> str:
    import uuid  # noqa: PLC0415 - only off-line runs pay for it

    return str(uuid.uuid4())


_KINDS = {"log": "scalar", "log_list": "list", "log_row": "row", "log_table": "table"}


def _checked(name: object) -> List[str]:
    """Return the parts of a file's name. ValueError unless it stays below the folder that it is put into."""
    parts = name.replace("\\", "/").split("/") if isinstance(name, str) else []
    parts = [part for part in parts if part != "."]
    if not parts or any(part in ("", "..") or "\0" in part for part in parts) or sum(map(len, parts)) > _LONGEST_PATH:
        raise ValueError("A file's name is a relative path without '..', not %r." % (name,))
    return parts


def _copy(source: Source, target: str) -> int:
    """Copy a file or stream, visible under its name only when it is whole; return its size in bytes."""
    import shutil  # noqa: PLC0415 - only who uploads pays for it

    part = "%s.%s.part" % (target, os.urandom(4).hex())
    try:
        with open(part, "xb") as out:
            if isinstance(source, (str, os.PathLike)):
                with open(source, "rb") as file:
                    shutil.copyfileobj(file, out, 1024 * 1024)
            else:
                shutil.copyfileobj(source, out, 1024 * 1024)
            size = out.tell()
        os.link(part, target)
        return size
    finally:
        if os.path.lexists(part):
            os.unlink(part)
