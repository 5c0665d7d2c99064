"""What both clients offer, each method described once; the faces are in `cloche.client` and `cloche.aio`."""

from collections.abc import Callable, Iterable, Mapping
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any, Literal
from urllib.parse import quote

from cloche import _again as again
from cloche import _life as life
from cloche import _locks as locks
from cloche import _operations as ops
from cloche import _views
from cloche import _wheels as wheels_
from cloche._calls import Call, Operation, fetch, snapshot_of
from cloche._config import find_endpoint, kept_positions
from cloche._faces import operation, stream
from cloche._files import DigestCache, Snapshot, requirements_text, safe_join
from cloche._imports import read_file
from cloche._streams import Stream, events_query, model_files
from cloche._transport import Exchange

list_ = list


class Resource:
    """One kind of thing that a client offers."""

    def __init__(self, client: object) -> None:
        self._client: Any = client


class Connection:
    """What a client is, whichever way it sends."""

    def __init__(
        self,
        url: str | None = None,
        token: str | None = None,
        project: str | None = None,
        *,
        home: str | Path | None = None,
    ) -> None:
        folder = None if home is None else Path(home)
        self.endpoint = find_endpoint(url, token, project, folder)
        self._digests = DigestCache()
        self._exchange = Exchange(self.endpoint, kept_positions(self.endpoint, folder))
        self._open(self._exchange)

    def tell_retries(self, told: Callable[[str], None]) -> None:
        """Have `told` called with a sentence for each call that is sent again."""
        self._exchange.told = told

    def _open(self, exchange: Exchange) -> None:
        """Make the transport and the resources."""
        raise NotImplementedError

    @operation
    def version(self) -> Operation[dict[str, Any]]:
        """Return what runs there."""
        return ops.answered(Call("GET", "/version"))

    @operation
    def ready(self) -> Operation[dict[str, Any]]:
        """Return whether the server is ready, and which parts are not."""
        return ops.answered(Call("GET", "/readyz", accept=frozenset({200, 503})))

    @operation
    def snapshot(self, path: Path) -> Operation[Snapshot]:
        """Return the snapshot of a file or folder."""
        return snapshot_of(path)

    @stream
    def events(
        self,
        *,
        follow: bool = True,
        from_start: bool = False,
        types: Iterable[str] = (),
        correlation: str | None = None,
        subject: str | None = None,
    ) -> Stream[_views.Event]:
        """Yield events as they happen; with `from_start` first those that happened."""
        query = events_query(from_start=from_start, types=types, correlation=correlation, subject=subject)
        read = _views.Event.model_validate_json
        return Stream(ops.path_of("events"), lambda event: read(event.data), follow=follow, query=query)


class Environments(Resource):
    """Environments and their versions."""

    @operation
    def register(  # noqa: PLR0913 - each is a way to say what is wanted
        self,
        name: str,
        *,
        requirements_file: str | Path | None = None,
        requirements: str | None = None,
        definition: Mapping[str, object] | None = None,
        python: str | None = None,
        variables: Mapping[str, str] | None = None,
        wheels: Iterable[str | Path | wheels_.Wheel] = (),
    ) -> Operation[_views.Environment]:
        """Register a definition; an unchanged one returns the version that is there (`created` is false then).

        `wheels` are private wheels besides: uploaded ones, their file names, or files, which are uploaded.
        """
        if requirements_file is not None:
            requirements = requirements_text(Path(requirements_file))
        found = yield from wheels_.references(wheels)
        said = wheels_.with_wheels(dict(definition or {}), found) if found else definition
        wanted = ops.register_environment(
            name, requirements=requirements, definition=said, python=python, variables=variables
        )
        return (yield from wanted)

    @operation
    def get(
        self, name: str, version: str | int | None = None, label: str | None = None
    ) -> Operation[_views.Environment]:
        """Return a version: the given one, the labelled one, or the latest."""
        number = None if version is None else str(version)
        return ops.get(_views.Environment, "environments", name, version=number, label=label)

    @operation
    def list(
        self, limit: int | None = None, *, archived: bool = False, curated: bool = False
    ) -> Operation[list_[_views.Environment]]:
        """Return the latest version of each environment; of those that were archived, or of the curated ones."""
        chosen = {"archived": "true" if archived else None, "curated": "true" if curated else None}
        return ops.views(_views.Environment, "environments", limit=limit, **chosen)

    @operation
    def versions(self, name: str, limit: int | None = None) -> Operation[list_[_views.Environment]]:
        """Return the versions of an environment."""
        return ops.views(_views.Environment, "environments", name, "versions", limit=limit)

    @operation
    def label(self, name: str, label: str, version: str | int) -> Operation[_views.Environment]:
        """Let a label name a version."""
        return ops.label_environment(name, label, str(version))

    @operation
    def unlabel(self, name: str, label: str) -> Operation[None]:
        """Take a label away."""
        return ops.delete("environments", name, "labels", label)

    @operation
    def archive(self, name: str) -> Operation[_views.Environment]:
        """Hide an environment from lists; references keep working."""
        return ops.environment_action(name, "archive")

    @operation
    def restore(self, name: str) -> Operation[_views.Environment]:
        """Show an archived environment in lists again."""
        return ops.environment_action(name, "restore")

    @operation
    def delete(self, name: str, *, force: bool = False) -> Operation[None]:
        """Delete an environment that nothing uses, with `force` also one in use: what uses it keeps it."""
        return life.delete(name, force=force)

    @operation
    def register_file(self, name: str, file: str | Path, *, kind: str = "") -> Operation[_views.Environment]:
        """Register what a file of any format says (`cloche.formats`); `kind` names it where its name does not."""
        said = read_file(Path(file), kind).definition.model_dump(mode="json", exclude_defaults=True)
        return ops.register_environment(name, requirements=None, definition=said, python=None, variables=None)

    @operation
    def check(
        self,
        definition: Mapping[str, object] | None = None,
        *,
        requirements: str | None = None,
        name: str | None = None,
    ) -> Operation[_views.Check]:
        """Say what is wrong with a definition and what may surprise; nothing is registered."""
        return life.check(definition, requirements, name)

    @operation
    def clone(
        self, name: str, new_name: str, version: str | int | None = None, label: str | None = None
    ) -> Operation[_views.Environment]:
        """Register the definition of a version under another name."""
        return life.clone(name, new_name, None if version is None else str(version), label)

    @operation
    def diff(
        self,
        name: str,
        version: str | int | None = None,
        base: str | int | None = None,
        *,
        base_name: str | None = None,
    ) -> Operation[_views.Difference]:
        """Compare a version (the latest) with another (the one before), also of another environment."""
        numbers = [None if one is None else str(one) for one in (version, base)]
        return life.diff(name, numbers[0], numbers[1], base_name)

    @operation
    def history(self, name: str, limit: int | None = None) -> Operation[list_[dict[str, Any]]]:
        """Return every change of an environment, oldest first: what happened, when and by whom."""
        return life.history(name, limit)

    @operation
    def uses(self, name: str, limit: int | None = None, *, ended: bool = False) -> Operation[list_[dict[str, Any]]]:
        """Return the runs, services and models that use an environment; with `ended` the runs that did."""
        return life.uses(name, limit, ended=ended)

    @operation
    def lock(self, environment: str | Mapping[str, object], *, timeout: float | None = None) -> Operation[str]:
        """Return the lock (`pylock.toml`, or `pixi.lock` with conda packages), building first if need be.

        Raises `Failed` with what is wrong where that fails, here and in `refresh` and `drift`; `TimeoutError`.
        """
        return locks.lock(environment, timeout)

    @operation
    def refresh(
        self, environment: str | Mapping[str, object], *, timeout: float | None = None
    ) -> Operation[_views.LockChanges]:
        """Solve again, so that open versions may move, and return what changed. What has the old lock keeps it."""
        return locks.refresh(environment, timeout)

    @operation
    def drift(
        self, environment: str | Mapping[str, object], *, timeout: float | None = None
    ) -> Operation[_views.Drift]:
        """Return what a refresh would change; nothing is changed."""
        return locks.drift(environment, timeout)

    @operation
    def explain(
        self, environment: str | Mapping[str, object], *, timeout: float | None = None
    ) -> Operation[_views.Explanation]:
        """Return what a build would do and why: reuse a lock, fetch its files again, or make one."""
        return locks.explain(environment, timeout)

    @operation
    def build_of(
        self, name: str, version: str | int | None = None, label: str | None = None
    ) -> Operation[_views.Build | None]:
        """Return the project's build of a version; None where it was never built."""
        number = None if version is None else str(version)
        found = yield from ops.get(_views.Environment, "environments", name, version=number, label=label)
        return (yield from locks.build_of(found))

    @operation
    def log(self, name: str, version: str | int | None = None, label: str | None = None) -> Operation[str]:
        """Return the log of a version's newest build. Raises `NotFound` (`build_not_found`)."""
        number = None if version is None else str(version)
        found = yield from ops.get(_views.Environment, "environments", name, version=number, label=label)
        return (yield from locks.log(found))


class Builds(Resource):
    """Builds of environments."""

    @operation
    def start(self, environment: str | Mapping[str, object], *, refresh: bool = False) -> Operation[_views.Build]:
        """Build an environment (`name`, `name:version`, `name@label`, or an inline one)."""
        return ops.start_build(environment, refresh=refresh)

    @operation
    def get(self, build_id: str) -> Operation[_views.Build]:
        """Return a build."""
        return ops.get(_views.Build, "builds", build_id)

    @operation
    def list(self, limit: int | None = None) -> Operation[list_[_views.Build]]:
        """Return builds, newest first."""
        return ops.views(_views.Build, "builds", limit=limit)

    @operation
    def wait(self, build_id: str, timeout: float | None = None) -> Operation[_views.Build]:
        """Wait for the end; raises `TimeoutError`."""
        return ops.wait_for(_views.Build, "ended", "builds", build_id, left=ops.Deadline(timeout))

    @stream
    def log(self, build_id: str, *, follow: bool = True) -> Stream[str]:
        """Yield the lines of a build's log; with `follow` until its end."""
        return Stream(ops.path_of("builds", build_id, "log"), lambda event: event.data + "\n", follow=follow)

    @operation
    def lock(self, build_id: str, digest: str | None = None) -> Operation[str]:
        """Return the lock: `pylock.toml` (PEP 751), or `pixi.lock` where conda packages are part of it.

        An older one of the build by its `digest`; the build's `locks` names them.
        """
        return locks.lock_text(build_id, digest)

    @operation
    def changes(self, build_id: str) -> Operation[_views.LockChanges]:
        """Return what differs between a build's lock and the one before it."""
        return locks.changes(build_id)


class Models(Resource):
    """Models and their versions."""

    @operation
    def register(
        self,
        name: str,
        *,
        path: str | Path,
        from_run: str | None = None,
        tags: Mapping[str, str] | None = None,
        description: str = "",
    ) -> Operation[_views.Model]:
        """Register a local file or folder, or with `from_run` what lies at `path` of a run's outputs."""
        snapshot = None
        run_id = from_run
        if from_run is None:
            snapshot = yield from snapshot_of(Path(path), follow=True)
        elif from_run == "@last":
            run_id = (yield from ops.find_run(from_run)).id
        fields = {"tags": dict(tags or {}), "description": description}
        wanted = ops.register_model(name, snapshot=snapshot, run_id=run_id, path=str(path), fields=fields)
        return (yield from wanted)

    @operation
    def get(self, name: str, version: str | int | None = None) -> Operation[_views.Model]:
        """Return a version, or the latest."""
        number = None if version is None else str(version)
        return ops.get(_views.Model, "models", name, version=number)

    @operation
    def list(self, limit: int | None = None) -> Operation[list_[_views.Model]]:
        """Return the latest version of each model."""
        return ops.views(_views.Model, "models", limit=limit)

    @operation
    def versions(self, name: str, limit: int | None = None) -> Operation[list_[_views.Model]]:
        """Return the versions of a model."""
        return ops.views(_views.Model, "models", name, "versions", limit=limit)

    @operation
    def download(self, name: str, version: str | int | None, to: str | Path) -> Operation[list_[Path]]:
        """Write the files of a version below the folder `to` and return their paths."""
        number = None if version is None else str(version)
        model = yield from ops.get(_views.Model, "models", name, version=number)
        written: list_[Path] = []
        for entry in model_files(model):
            call = Call(
                "GET", ops.path_of("models", name, "files") + "/" + quote(entry), query={"version": model.version}
            )
            written.append((yield from fetch(call, safe_join(Path(to), entry))))
        return written

    @operation
    def delete(self, name: str) -> Operation[None]:
        """Refuse new references to a model from now on."""
        return ops.delete("models", name)


class Projects(Resource):
    """Projects."""

    @operation
    def create(self, name: str, *, description: str = "") -> Operation[_views.Project]:
        """Create a project: small letters, digits and `-`. Needs a token that opens every project."""
        return ops.create_project(name, description)

    @operation
    def get(self, name: str) -> Operation[_views.Project]:
        """Return a project that the token opens."""
        return ops.get(_views.Project, "projects", name)

    @operation
    def list(self, limit: int | None = None) -> Operation[list_[_views.Project]]:
        """Return the projects that the token opens, by name."""
        return ops.views(_views.Project, "projects", limit=limit)


class Tokens(Resource):
    """API keys of the client's project. For administrators."""

    @operation
    def create(
        self,
        role: Literal["viewer", "submitter", "admin"],
        *,
        projects: Iterable[str] = (),
        expires: datetime | timedelta | None = None,
        description: str = "",
    ) -> Operation[_views.Token]:
        """Create a token for the client's project, and for other `projects` (`*`: every one).

        Its `token` is shown this once. `expires`: a time, or how long it holds; without it, until it is revoked.
        """
        return ops.create_token(role, projects=projects, expires=expires, description=description)

    @operation
    def get(self, token_id: str) -> Operation[_views.Token]:
        """Return what is known of a token."""
        return ops.get(_views.Token, "tokens", token_id)

    @operation
    def list(self, limit: int | None = None, *, revoked: bool = False) -> Operation[list_[_views.Token]]:
        """Return tokens, newest first: those that are not revoked, or those that are."""
        return ops.views(_views.Token, "tokens", limit=limit, revoked="true" if revoked else None)

    @operation
    def revoke(self, token_id: str) -> Operation[_views.Token]:
        """Let a token open nothing any more, within a second and in every service."""
        return ops.revoke_token(token_id)


class Letters(Resource):
    """Dead letters: messages that no handler could take. For administrators."""

    @operation
    def list(self, limit: int | None = None) -> Operation[list_[_views.Letter]]:
        """Return those that wait, oldest first."""
        return ops.views(_views.Letter, "events", "dead", limit=limit)

    @operation
    def resend(self, letter_id: str) -> Operation[_views.Letter]:
        """Deliver one again to the group that could not take it."""
        return ops.resend_letter(letter_id)


class Groups(Resource):
    """The consumer groups of the services. For administrators."""

    @operation
    def list(self) -> Operation[list_[_views.Group]]:
        """Return them by name."""
        return ops.whole_list(_views.Group, "events", "groups")

    @operation
    def replay(
        self, group: str, *, since: datetime | None = None, dry_run: bool = False, told: again.Told = again.silent
    ) -> Operation[int]:
        """Deliver to a group again all that its topics hold, or what came `since` a time; return how much, about.

        What the group did already it does not do twice. `told` is called with the group and the count so far.
        """
        return again.replay(group, since=since, dry_run=dry_run, told=told)


class Journals(Resource):
    """The services' journals, which hold all that ever happened. For administrators."""

    @operation
    def republish(  # noqa: PLR0913 - what may be selected
        self,
        *services: str,
        stream: str | None = None,
        first: int = 1,
        last: int | None = None,
        since: datetime | None = None,
        until: datetime | None = None,
        dry_run: bool = False,
        told: again.Told = again.silent,
    ) -> Operation[dict[str, int]]:
        """Send facts to the bus again, with their own ids, each aggregate's in order; return how many by service.

        Without `services` those of all; `stream` (`run/default/<id>`) means one aggregate, from fact `first` to
        `last`. `told` is called with the service and the count so far.
        """
        return again.republish(
            services, stream=stream, first=first, last=last, since=since, until=until, dry_run=dry_run, told=told
        )


class Commands(Resource):
    """Commands by message, for those who cannot, or need not, write to a broker."""

    @operation
    def send(self, command: Mapping[str, object]) -> Operation[_views.CommandTaken]:
        """Put a command, a CloudEvent in structured mode, on the project's topic. Sent again it acts once."""
        return again.send_command(command)


class Nodes(Resource):
    """The machines that runs are placed on."""

    @operation
    def list(self) -> Operation[list_[dict[str, Any]]]:
        """Return the nodes with what they offer and what is taken."""
        return ops.listed("nodes")
