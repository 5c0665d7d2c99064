"""Models: `model/<project>/<name>`, gapless versions from 1, each a tree of files by content.

Each registration makes a new version, also of equal files: a version records who registered what,
from which run and when, and that is new even where the bytes are not.
"""

from collections.abc import Sequence

from pydantic import BaseModel, ConfigDict, Field

from cloche_shared.contracts.fact import Fact
from cloche_shared.contracts.facts import ModelDeleted, ModelRegistered
from cloche_shared.contracts.files import FileEntry, Manifest
from cloche_shared.contracts.references import ModelRef, ResolvedModel
from cloche_shared.errors import Conflict, Invalid, NotFound
from cloche_shared.journal.streams import Decision

LISTED_PATHS = 50
"""How many paths of a run an error shows."""


class ModelVersion(BaseModel):
    """One version; it never changes. `size` in bytes of all files; lineage is empty where it is not known."""

    model_config = ConfigDict(frozen=True)

    manifest: str
    size: int
    tags: dict[str, str] = Field(default_factory=dict)
    description: str = ""
    run_id: str = ""
    environment_name: str = ""
    environment_version: str = ""
    created_at: str = ""
    created_by: str = ""


class Model(BaseModel):
    """A model; the default instance is one that does not exist. `changes` is its stream's sequence number."""

    model_config = ConfigDict(frozen=True)

    versions: tuple[ModelVersion, ...] = ()
    deleted: bool = False
    changes: int = 0


def evolve(state: Model, fact: Fact) -> Model:
    """Return the state after a fact."""
    update: dict[str, object] = {"changes": state.changes + 1}
    if isinstance(fact, ModelRegistered):
        known = {name: getattr(fact, name) for name in ModelVersion.model_fields}
        update["versions"] = (*state.versions, ModelVersion.model_construct(None, **known))
    elif isinstance(fact, ModelDeleted):
        update["deleted"] = True
    return state.model_copy(update=update)


# --- errors


def not_found(name: str, near: Sequence[str] = ()) -> NotFound:
    """Return the error for a name that was never registered; `near` are names like it."""
    return NotFound(
        "model_not_found",
        f"There is no model {name!r}.",
        why=f"Names like it: {', '.join(near)}." if near else "",
        todo="Register it with `cloche model register`, or choose one from `cloche model list`.",
        extra={"near": list(near)},
    )


def path_not_found(path: str, paths: Sequence[str], where: str) -> NotFound:
    """Return the error for a path that names neither file nor folder; it lists what there is."""
    shown = sorted(paths)[:LISTED_PATHS]
    more = len(paths) - len(shown)
    listed = ", ".join(shown) + (f" and {more} more" if more else "")
    return NotFound(
        "model_path_not_found",
        f"{where} has no file or folder {path!r}.",
        why=f"It has: {listed}." if shown else "It has no files.",
        todo="Name one of these, or a folder above them.",
        extra={"paths": shown, "count": len(paths)},
    )


def existing(name: str, state: Model) -> Model:
    """Return the state of a model that can be referred to; raises `NotFound` otherwise."""
    if not state.versions:
        raise not_found(name)
    if state.deleted:
        raise NotFound(
            "model_deleted", f"The model {name!r} was deleted.", todo="Register the files under another name."
        )
    return state


# --- decisions


def decide_register(state: Model, name: str, candidate: ModelVersion) -> Decision:
    """Register files as the next version."""
    if state.deleted:
        raise Conflict(
            "model_deleted",
            f"The model {name!r} was deleted, and its name is not given again.",
            why="Services may still name its versions.",
            todo="Register the files under another name.",
        )
    number = len(state.versions) + 1
    fact = ModelRegistered(model_version=number, **candidate.model_dump())
    return Decision([fact], json={"version": number})


def find_version(name: str, state: Model, version: str | None) -> int:
    """Return the number of the version that is meant: by number, or the latest."""
    existing(name, state)
    last = len(state.versions)
    number = last if version is None else int(version)
    if not 1 <= number <= last:
        raise NotFound(
            "model_version_not_found",
            f"The model {name!r} has no version {number}.",
            why=f"It has the versions 1 to {last}.",
            todo="Name one of these, or none for the latest.",
            extra={"latest": str(last)},
        )
    return number


def resolve(state: Model, ref: ModelRef) -> ResolvedModel:
    """Return what a reference means."""
    number = find_version(ref.name, state, ref.version)
    return ResolvedModel(name=ref.name, version=str(number), manifest=state.versions[number - 1].manifest)


def decide_delete(state: Model, name: str) -> Decision:
    """Put a tombstone: new references are refused, existing pins win."""
    existing(name, state)
    return Decision([ModelDeleted()])


# --- files


def select(manifest: Manifest, path: str, where: str) -> Manifest:
    """Return the tree that a model is made of: one file under its base name, or a folder's content.

    `path` has passed `check_path`. Raises `NotFound` (`model_path_not_found`).
    """
    files: dict[str, FileEntry] = {entry.path: entry for entry in manifest.files}
    if path in files:
        chosen = [files[path].model_copy(update={"path": path.rpartition("/")[2]})]
    else:
        below = f"{path}/"
        chosen = [
            entry.model_copy(update={"path": entry.path.removeprefix(below)})
            for entry in manifest.files
            if entry.path.startswith(below)
        ]
    if not chosen:
        raise path_not_found(path, list(files), where)
    return Manifest(files=tuple(sorted(chosen, key=lambda entry: entry.path)))


def refuse_empty(manifest: Manifest) -> None:
    """Refuse a model without files. Raises `Invalid` (`model_empty`)."""
    if not manifest.files:
        raise Invalid("model_empty", "The model has no files.", todo="Name a file, or a folder with files.")


def files_missing(missing: Sequence[str]) -> Invalid:
    """Return the error for a manifest whose files were not sent."""
    return Invalid(
        "files_missing",
        f"{len(missing)} files of the model are not here.",
        todo="Send them to /files/models first; POST /files/models/missing tells which.",
        extra={"missing": list(missing[:100]), "count": len(missing)},
    )
