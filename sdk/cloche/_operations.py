"""Every operation of the SDK, without a network (see `cloche._calls`)."""

import re
import time
from collections.abc import Iterable, Mapping
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, TypeVar
from urllib.parse import quote

from cloche._calls import Call, Operation, Pause, send, send_all
from cloche._errors import Conflict, Invalid, NotFound
from cloche._files import Snapshot
from cloche._views import Build, Environment, Keys, Letter, Listing, Model, Project, Run, Service, Token, View

V = TypeVar("V", bound=View)
API = "/api/v1"
ASKED_AT_ONCE = 4000
WAIT_SECONDS = 20
PAGE = 100
LISTED_RUNS = 1000
NAMED_RUNS = 5
SHORTEST = 4
"""Characters of a run's id at least: shorter beginnings fit by accident."""
RUN_ID = re.compile(r"[A-Za-z0-9._-]{1,64}")
_COUNTED = ("gpus", "gpu_kind")
"""Resources that are asked for only when there is something to ask for."""


def path_of(*parts: str) -> str:
    """Return a path of the API; each part is one segment."""
    return "/".join([API, *(quote(part, safe="") for part in parts)])


def environment_reference(text: str | Mapping[str, object] | None) -> Mapping[str, object] | None:
    """Read `name`, `name:version` or `name@label`; a mapping is an inline environment and stays as it is."""
    if text is None or not isinstance(text, str):
        return text
    name, separator, version = text.partition(":")
    if separator:
        return {"name": name} if version == "latest" else {"name": name, "version": version}
    name, separator, label = text.partition("@")
    return {"name": name, "label": label} if separator and label != "latest" else {"name": name}


def model_reference(text: str) -> dict[str, str]:
    """Read `name` or `name:version`."""
    name, separator, version = text.partition(":")
    return {"name": name, "version": version} if separator and version != "latest" else {"name": name}


def get(kind: type[V], *parts: str, **query: str | int | None) -> Operation[V]:
    """Return one document."""
    answer = yield from send(Call("GET", path_of(*parts), query=query))
    return kind.model_validate(answer.json())


def listed(*parts: str, limit: int | None = None, **query: str | int | None) -> Operation[list[dict[str, Any]]]:
    """Return a list, page by page, at most `limit` items."""
    found: list[dict[str, Any]] = []
    token: str | None = None
    while True:
        size = PAGE if limit is None else max(1, min(PAGE, limit - len(found)))
        page = {**query, "page_size": size, "page_token": token}
        answer = yield from send(Call("GET", path_of(*parts), query=page))
        listing = Listing.model_validate(answer.json())
        found.extend(listing.items)
        token = listing.next_page_token
        if token is None or (limit is not None and len(found) >= limit):
            return found[:limit]


def views(kind: type[V], *parts: str, limit: int | None = None, **query: str | int | None) -> Operation[list[V]]:
    """Return a list of documents, at most `limit`."""
    items = yield from listed(*parts, limit=limit, **query)
    return [kind.model_validate(item) for item in items]


def whole_list(kind: type[V], *parts: str) -> Operation[list[V]]:
    """Return a list that has no pages."""
    answer = yield from send(Call("GET", path_of(*parts)))
    return [kind.model_validate(item) for item in Listing.model_validate(answer.json()).items]


def answered(call: Call) -> Operation[dict[str, Any]]:
    """Return the document that a call is answered with."""
    answer = yield from send(call)
    return answer.json()


def document(*parts: str) -> Operation[dict[str, Any]]:
    """Return one document as it came."""
    return answered(Call("GET", path_of(*parts)))


def upload(area: str, snapshot: Snapshot) -> Operation[None]:
    """Send the blobs of a snapshot that the server has not, and then its manifest."""
    digests = list(snapshot.paths)
    asks = [
        Call("POST", path_of("files", area, "missing"), json={"digests": digests[start : start + ASKED_AT_ONCE]})
        for start in range(0, len(digests), ASKED_AT_ONCE)
    ]
    answers = yield from send_all(asks)
    missing = [str(digest) for answer in answers for digest in _texts(answer.json()["missing"])]
    puts = [
        Call("PUT", path_of("files", area, digest), content=snapshot.paths[digest], timeout=600.0) for digest in missing
    ]
    yield from send_all(puts)
    yield from send(Call("PUT", path_of("files", area, snapshot.digest), content=snapshot.content))


def _texts(value: object) -> list[str]:
    return [str(one) for one in value] if isinstance(value, list) else []


def with_snapshot(area: str, snapshot: Snapshot, call: Call) -> Operation[dict[str, object]]:
    """Send a command that names a snapshot, and the snapshot first if the server lacks any of it.

    An unchanged snapshot costs no request of its own.
    """
    try:
        return (yield from send(call)).json()
    except Invalid as error:
        if error.code != "snapshot_incomplete":
            raise
    yield from upload(area, snapshot)
    return (yield from send(call)).json()


# --- environments


def register_environment(
    name: str,
    *,
    requirements: str | None,
    definition: Mapping[str, object] | None,
    python: str | None,
    variables: Mapping[str, str] | None,
) -> Operation[Environment]:
    """Register a definition; an unchanged one gives the version that is there."""
    whole: dict[str, Any] = dict(definition or {})
    if python is not None:
        whole["python"] = {**whole.get("python", {}), "version": python}
    if variables is not None:
        whole["variables"] = dict(variables)
    body: dict[str, object] = {"name": name}
    if whole or requirements is None:
        body["definition"] = whole
    if requirements is not None:
        body["requirements"] = requirements
    answer = yield from send(Call("POST", path_of("environments"), json=body, once=True))
    return Environment.model_validate({**answer.json(), "created": answer.status == 201})  # noqa: PLR2004 - 201 Created


def environment_action(name: str, action: str) -> Operation[Environment]:
    """Archive or restore."""
    answer = yield from send(Call("POST", path_of("environments", name, action), once=True))
    return Environment.model_validate(answer.json())


def label_environment(name: str, label: str, version: str) -> Operation[Environment]:
    """Let a label name a version."""
    call = Call("PUT", path_of("environments", name, "labels", label), json={"version": version}, once=True)
    return Environment.model_validate((yield from send(call)).json())


def delete(*parts: str) -> Operation[None]:
    """Delete something."""
    yield from send(Call("DELETE", path_of(*parts), once=True))


# --- builds


def start_build(environment: str | Mapping[str, object], *, refresh: bool) -> Operation[Build]:
    """Ask for a build."""
    body: dict[str, object] = {"environment": environment_reference(environment)}
    if refresh:
        body["refresh"] = True
    answer = yield from send(Call("POST", path_of("builds"), json=body, once=True))
    return Build.model_validate(answer.json())


def wait_for(kind: type[V], done: str, *parts: str, left: "Deadline") -> Operation[V]:
    """Ask until the document's property `done` holds; the server holds each answer back while it does not.

    Raises `TimeoutError` when the deadline passes.
    """
    while True:
        seconds = left.seconds(WAIT_SECONDS)
        headers = {"prefer": f"wait={max(1, int(seconds))}"} if seconds >= 1 else {}
        answer = yield from send(Call("GET", path_of(*parts), headers=headers, timeout=WAIT_SECONDS + 30.0))
        view = kind.model_validate(answer.json())
        if getattr(view, done):
            return view
        if left.passed:
            raise TimeoutError(f"{'/'.join(parts)} is {getattr(view, 'status', 'not ready')} still")
        yield Pause(0.05)


def wait_run(run_id: str, timeout: float | None) -> Operation[Run]:
    """Wait for the end of a run; raises `TimeoutError` after `timeout` seconds."""
    return wait_for(Run, "ended", "runs", run_id, left=Deadline(timeout))


def wait_service(name: str, timeout: float | None) -> Operation[Service]:
    """Wait until a service's newest revision is up or has failed; raises `TimeoutError`."""
    return wait_for(Service, "settled", "services", name, left=Deadline(timeout))


class Deadline:
    """A time by which something must be done; without seconds there is none."""

    def __init__(self, seconds: float | None) -> None:
        self._end = None if seconds is None else time.monotonic() + seconds

    def seconds(self, most: float) -> float:
        """Return how long to wait at most."""
        return most if self._end is None else max(0.0, min(most, self._end - time.monotonic()))

    @property
    def passed(self) -> bool:
        """Whether the time is over."""
        return self._end is not None and time.monotonic() >= self._end


# --- projects and tokens


def create_project(name: str, description: str) -> Operation[Project]:
    """Create a project."""
    body = {"name": name, "description": description}
    answer = yield from send(Call("POST", path_of("projects"), json=body, once=True))
    return Project.model_validate(answer.json())


def create_token(
    role: str, *, projects: Iterable[str], expires: datetime | timedelta | None, description: str
) -> Operation[Token]:
    """Create a token. One whose answer was lost on the way can never be read: it is revoked for another one."""
    until = datetime.now(UTC) + expires if isinstance(expires, timedelta) else expires
    if until is not None and until.tzinfo is None:
        until = until.astimezone()
    body: dict[str, object] = {"role": role, "description": description, "projects": list(projects)}
    if until is not None:
        body["expires"] = until.isoformat()
    try:
        answer = yield from send(Call("POST", path_of("tokens"), json=body, once=True))
    except Conflict as error:
        if error.code != "token_shown":
            raise
        yield from revoke_token(str(error.extra["id"]))
        answer = yield from send(Call("POST", path_of("tokens"), json=body, once=True))
    return Token.model_validate(answer.json())


def revoke_token(token_id: str) -> Operation[Token]:
    """Revoke a token."""
    answer = yield from send(Call("DELETE", path_of("tokens", token_id), once=True))
    return Token.model_validate(answer.json())


# --- dead letters


def resend_letter(letter_id: str) -> Operation[Letter]:
    """Deliver a dead letter again."""
    answer = yield from send(Call("POST", path_of("events", "dead", letter_id, "resend"), once=True))
    return Letter.model_validate(answer.json())


# --- runs


def submit_run(snapshot: Snapshot, body: Mapping[str, object]) -> Operation[Run]:
    """Submit a run of a snapshot."""
    whole = {**body, "snapshot": snapshot.digest}
    call = Call("POST", path_of("runs"), json=whole, once=True)
    return Run.model_validate((yield from with_snapshot("runs", snapshot, call)))


def run_body(
    *,
    script: str,
    arguments: Iterable[object],
    environment: str | Mapping[str, object] | None,
    models: Iterable[str],
    resources: Mapping[str, object],
    options: Mapping[str, object],
) -> dict[str, object]:
    """Return the body of a submission; options that are None are left to the server."""
    body: dict[str, object] = {"script": script, "arguments": [str(one) for one in arguments]}
    reference = environment_reference(environment)
    if reference is not None:
        body["environment"] = reference
    found = [model_reference(one) for one in models]
    if found:
        body["models"] = found
    chosen = {name: value for name, value in resources.items() if value is not None and (value or name not in _COUNTED)}
    if chosen:
        body["resources"] = chosen
    return {**body, **{name: value for name, value in options.items() if value is not None}}


def find_run(text: str) -> Operation[Run]:
    """Return a run by id, by a beginning of its id that fits only one, or the `@last` one."""
    if text == "@last":
        items = yield from listed("runs", limit=1)
        if not items:
            raise NotFound("run_not_found", "There is no run yet.", todo="Submit one with `cloche submit`.")
        return Run.model_validate(items[0])
    if not RUN_ID.fullmatch(text):
        raise Invalid(
            "invalid_reference", f"{text!r} names no run.", todo="Give an id, the beginning of one, or @last."
        )
    try:
        return (yield from get(Run, "runs", text))
    except NotFound as error:
        items = yield from listed("runs", limit=LISTED_RUNS)
        fitting = [item for item in items if str(item["id"]).startswith(text)]
        if len(fitting) == 1 and len(text) >= SHORTEST:
            return Run.model_validate(fitting[0])
        if not fitting:
            raise
        raise _ambiguous(text, [str(item["id"]) for item in fitting]) from error


def _ambiguous(text: str, fitting: list[str]) -> Conflict:
    many = f"{len(fitting)} runs begin with {text!r}" if len(fitting) > 1 else f"One run begins with {text!r}"
    more = ", …" if len(fitting) > NAMED_RUNS else ""
    return Conflict(
        "ambiguous_run",
        f"{many}: {', '.join(fitting[:NAMED_RUNS])}{more}.",
        why="" if len(fitting) > 1 else f"A beginning of less than {SHORTEST} characters fits by accident.",
        todo="Give more of the id.",
    )


def cancel_run(run_id: str) -> Operation[Run]:
    """Ask for the end of a run."""
    answer = yield from send(Call("POST", path_of("runs", run_id, "cancel"), once=True))
    return Run.model_validate(answer.json())


# --- models


def register_model(
    name: str, *, snapshot: Snapshot | None, run_id: str | None, path: str | None, fields: Mapping[str, object]
) -> Operation[Model]:
    """Register files that are here, or outputs of a run."""
    body: dict[str, object] = {"name": name, **{key: value for key, value in fields.items() if value}}
    if snapshot is not None:
        yield from upload("models", snapshot)
        body["manifest"] = snapshot.digest
    else:
        body["from_run"] = {"run_id": run_id, "path": path}
    answer = yield from send(Call("POST", path_of("models"), json=body, once=True))
    return Model.model_validate(answer.json())


# --- services


def deploy_service(name: str, snapshot: Snapshot, body: Mapping[str, object], *, update: bool) -> Operation[Service]:
    """Bring a service or a new revision of it up."""
    whole = {**body, "snapshot": snapshot.digest}
    if update:
        call = Call("PUT", path_of("services", name), json=whole, once=True)
    else:
        call = Call("POST", path_of("services"), json={**whole, "name": name}, once=True)
    return Service.model_validate((yield from with_snapshot("services", snapshot, call)))


def service_keys(name: str) -> Operation[Keys]:
    """Return the keys of a service."""
    return (yield from get(Keys, "services", name, "keys"))


def regenerate_key(name: str, which: str) -> Operation[Keys]:
    """Replace a key of a service."""
    answer = yield from send(Call("POST", path_of("services", name, "keys", which), once=True))
    return Keys.model_validate(answer.json())


def split_script(script: str | Path, source: str | Path | None) -> tuple[Path, str]:
    """Return the folder to send and the script's path inside it.

    Raises `NotFound` (`script_not_found`), `Invalid` (`script_outside_source`).
    """
    path = Path(script)
    folder = Path(source) if source is not None else path.parent
    inside = path if path.exists() or source is None else folder / path
    if not inside.is_file():
        raise NotFound("script_not_found", f"There is no file {script}.", todo="Name a script that exists.")
    try:
        # the script's own name stays: a link is run under its name, and its folder is the one it lies in
        return folder, (inside.parent.resolve() / inside.name).relative_to(folder.resolve()).as_posix()
    except ValueError as error:
        raise Invalid(
            "script_outside_source",
            f"{script} is not inside {folder}.",
            todo="Name a script of the folder that is sent, or another folder with --source.",
        ) from error
