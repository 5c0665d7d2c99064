"""Runs and scoring services as both clients offer them (see `cloche._resources`)."""

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Generic, TypeVar, cast
from urllib.parse import quote

from cloche import _operations as ops
from cloche import _views
from cloche._calls import Call, Operation, fetch, send, snapshot_of
from cloche._faces import operation, stream
from cloche._files import joined
from cloche._resources import Resource
from cloche._streams import Stream, files_of, log_piece, score_call, scored
from cloche_shared.contracts.runs import RUNS_OWN

V = TypeVar("V", bound=_views.View)
W = TypeVar("W", bound=_views.View)
R = TypeVar("R", bound=_views.Run)
S = TypeVar("S", bound=_views.Service)
list_ = list


def bound(kind: type[V], client: object, found: Operation[W]) -> Operation[V]:
    """Return what was found as a face that can ask `client` for more."""
    view = yield from found
    return _face(kind, client, view)


def bound_all(kind: type[V], client: object, found: Operation[list[W]]) -> Operation[list[V]]:
    """Return all that was found as faces."""
    views = yield from found
    return [_face(kind, client, view) for view in views]


def _face(kind: type[V], client: object, view: _views.View) -> V:
    made = kind.model_validate(view.model_dump())
    made._client = client  # noqa: SLF001 - the view's own private attribute
    return made


def run_log(run_id: str, *, follow: bool, offset: int) -> Stream[bytes]:
    """Return a run's log from byte `offset`."""
    path = ops.path_of("runs", run_id, "log")
    return Stream(path, log_piece, follow=follow, query={"offset": offset}, whole=bytes)


def score(name: str, data: object, key: str | None) -> Operation[object]:
    """Send data to a service."""
    answer = yield from send(score_call(name, data, key))
    return scored(answer)


class RunActions(Generic[R]):
    """What can be done with a run."""

    if TYPE_CHECKING:
        id: str
        _client: Any

    @operation
    def wait(self, timeout: float | None = None) -> Operation[R]:
        """Wait for the end; raises `TimeoutError` after `timeout` seconds."""
        return self._again(ops.wait_run(self.id, timeout))

    @operation
    def refresh(self) -> Operation[R]:
        """Return the run as it is now."""
        return self._again(ops.get(_views.Run, "runs", self.id))

    @operation
    def cancel(self) -> Operation[R]:
        """Ask for its end."""
        return self._again(ops.cancel_run(self.id))

    @stream
    def log(self, *, follow: bool = True, offset: int = 0) -> Stream[bytes]:
        """Yield the log from byte `offset`; with `follow` until the run's end."""
        return run_log(self.id, follow=follow, offset=offset)

    @operation
    def metrics(self) -> Operation[dict[str, Any]]:
        """Return what the script logged."""
        return ops.document("runs", self.id, "metrics")

    def _again(self, found: Operation[_views.Run]) -> Operation[R]:
        return bound(cast("type[R]", type(self)), self._client, found)


class Runs(Resource, Generic[R]):
    """Runs."""

    _kind: type[R]

    @operation
    def submit(  # noqa: PLR0913 - what a run can be told
        self,
        script: str | Path,
        *,
        source: str | Path | None = None,
        arguments: Iterable[object] = (),
        environment: str | Mapping[str, object] | None = None,
        models: Iterable[str] = (),
        cpus: float | None = None,
        memory: int | None = None,
        gpus: int = 0,
        gpu_kind: str = "",
        priority: int | None = None,
        deadline: float | None = None,
        grace: float | None = None,
        retries: int | None = None,
        variables: Mapping[str, str] | None = None,
        tags: Mapping[str, str] | None = None,
        experiment: str | None = None,
        display_name: str | None = None,
        data: Mapping[str, str | Path] | None = None,
        collect: Iterable[str] = RUNS_OWN,
    ) -> Operation[R]:
        """Run a script; the folder `source` (its own, unless given) is sent along, but not what `collect` names in it.

        `collect` are the folders at the top of its working folder that belong to the run: what it leaves there is kept.
        `data` are files and folders that are sent too, by the place below the script's working folder where it
        finds them: the run gets copies, what lies here stays as it is.

        `memory` in bytes, `deadline` and `grace` in seconds. Without an environment the server's default
        one is used. Raises `NotFound` (`script_not_found`), `TooLarge` (`snapshot_too_large`), `Invalid`.
        """
        folder, inside = ops.split_script(script, source)
        collected = tuple(dict.fromkeys(collect))
        snapshot = yield from snapshot_of(folder, collected)
        for place, path in (data or {}).items():
            snapshot = joined(snapshot, place, (yield from snapshot_of(Path(path), follow=True)), collected)
        body = ops.run_body(
            script=inside,
            arguments=arguments,
            environment=environment,
            models=models,
            resources={"cpus": cpus, "memory": memory, "gpus": gpus, "gpu_kind": gpu_kind},
            options={
                "priority": priority,
                "deadline": deadline,
                "grace": grace,
                "retries": retries,
                "variables": dict(variables) if variables else None,
                "tags": dict(tags) if tags else None,
                "experiment": experiment,
                "display_name": display_name,
                "collect": None if collected == RUNS_OWN else collected,
            },
        )
        return (yield from self._bound(ops.submit_run(snapshot, body)))

    @operation
    def get(self, run_id: str) -> Operation[R]:
        """Return a run."""
        return self._bound(ops.get(_views.Run, "runs", run_id))

    @operation
    def find(self, text: str) -> Operation[R]:
        """Return a run by its id, by a beginning of it that fits only one, or `@last`."""
        return self._bound(ops.find_run(text))

    @operation
    def last(self) -> Operation[R]:
        """Return the run that was submitted last."""
        return self._bound(ops.find_run("@last"))

    @operation
    def list(self, status: str | None = None, limit: int | None = None) -> Operation[list_[R]]:
        """Return runs, newest first."""
        return bound_all(self._kind, self._client, ops.views(_views.Run, "runs", limit=limit, status=status))

    @operation
    def wait(self, run_id: str, timeout: float | None = None) -> Operation[R]:
        """Wait for the end; raises `TimeoutError`."""
        return self._bound(ops.wait_run(run_id, timeout))

    @operation
    def cancel(self, run_id: str) -> Operation[R]:
        """Ask for the end of a run; one that ended stays as it is."""
        return self._bound(ops.cancel_run(run_id))

    @stream
    def log(self, run_id: str, *, follow: bool = True, offset: int = 0) -> Stream[bytes]:
        """Yield the log from byte `offset`; with `follow` until the run's end."""
        return run_log(run_id, follow=follow, offset=offset)

    @operation
    def why(self, run_id: str) -> Operation[dict[str, Any]]:
        """Return why a run waits, or what became of it."""
        return ops.document("runs", run_id, "why")

    @operation
    def metrics(self, run_id: str) -> Operation[dict[str, Any]]:
        """Return what the script logged."""
        return ops.document("runs", run_id, "metrics")

    @operation
    def outputs(self, run_id: str) -> Operation[list_[dict[str, Any]]]:
        """Return the files that the run left: path, digest, size."""
        answer = yield from send(Call("GET", ops.path_of("runs", run_id, "outputs")))
        return files_of(answer)

    @operation
    def download(self, run_id: str, path: str, to: str | Path) -> Operation[Path]:
        """Write one output to a file and return its path."""
        call = Call("GET", ops.path_of("runs", run_id, "outputs") + "/" + quote(path))
        return fetch(call, Path(to))

    def _bound(self, found: Operation[_views.Run]) -> Operation[R]:
        return bound(self._kind, self._client, found)


class ServiceActions(Generic[S]):
    """What can be done with a scoring service."""

    if TYPE_CHECKING:
        name: str
        _client: Any

    @operation
    def wait(self, timeout: float | None = None) -> Operation[S]:
        """Wait until the newest revision is up or has failed; raises `TimeoutError`."""
        return bound(cast("type[S]", type(self)), self._client, ops.wait_service(self.name, timeout))

    @operation
    def score(self, data: object, *, key: str | None = None) -> Operation[object]:
        """Send `data` to `run()` and return its answer."""
        return score(self.name, data, key)

    @operation
    def keys(self) -> Operation[_views.Keys]:
        """Return its two keys."""
        return ops.service_keys(self.name)

    @operation
    def delete(self) -> Operation[None]:
        """Give it up."""
        return ops.delete("services", self.name)


class Services(Resource, Generic[S]):
    """Scoring services."""

    _kind: type[S]

    @operation
    def deploy(  # noqa: PLR0913 - what a service can be told
        self,
        name: str,
        entry_script: str | Path,
        *,
        source: str | Path | None = None,
        model: str | Iterable[str] | None = None,
        environment: str | Mapping[str, object] | None = None,
        workers: int | None = None,
        variables: Mapping[str, str] | None = None,
        cpus: float | None = None,
        memory: int | None = None,
        gpus: int = 0,
        timeout_ms: int | None = None,
        init_timeout: float | None = None,
        queue: int | None = None,
        description: str | None = None,
        tags: Mapping[str, str] | None = None,
        update: bool = False,
    ) -> Operation[S]:
        """Serve a script with `init()` and `run()`; with `update` an existing service gets a new revision."""
        folder, inside = ops.split_script(entry_script, source)
        snapshot = yield from snapshot_of(folder)
        models = [model] if isinstance(model, str) else list_(model or ())
        body = ops.run_body(
            script=inside,
            arguments=(),
            environment=environment,
            models=models,
            resources={"cpus": cpus, "memory": memory, "gpus": gpus},
            options={
                "workers": workers,
                "variables": dict(variables) if variables else None,
                "timeout_ms": timeout_ms,
                "init_timeout": init_timeout,
                "queue": queue,
                "description": description,
                "tags": dict(tags) if tags else None,
            },
        )
        del body["arguments"]
        body["entry_script"] = body.pop("script")
        return (yield from self._bound(ops.deploy_service(name, snapshot, body, update=update)))

    @operation
    def get(self, name: str) -> Operation[S]:
        """Return a service."""
        return self._bound(ops.get(_views.Service, "services", name))

    @operation
    def list(self, limit: int | None = None) -> Operation[list_[S]]:
        """Return the services."""
        return bound_all(self._kind, self._client, ops.views(_views.Service, "services", limit=limit))

    @operation
    def wait(self, name: str, timeout: float | None = None) -> Operation[S]:
        """Wait until the newest revision is up or has failed; raises `TimeoutError`."""
        return self._bound(ops.wait_service(name, timeout))

    @operation
    def score(self, name: str, data: object, *, key: str | None = None) -> Operation[object]:
        """Send data to a service: text and bytes as they are, everything else as JSON."""
        return score(name, data, key)

    @operation
    def keys(self, name: str) -> Operation[_views.Keys]:
        """Return the keys of a service."""
        return ops.service_keys(name)

    @operation
    def regenerate(self, name: str, which: str) -> Operation[_views.Keys]:
        """Replace the `primary` or `secondary` key."""
        return ops.regenerate_key(name, which)

    @stream
    def log(self, name: str, *, follow: bool = False) -> Stream[str]:
        """Yield what the workers wrote; with `follow` what they write until they end."""
        path = ops.path_of("services", name, "log")
        return Stream(path, lambda event: event.data, follow=follow, whole=lambda body: body.decode(errors="replace"))

    @operation
    def delete(self, name: str) -> Operation[None]:
        """Give a service up; its workers and keys end."""
        return ops.delete("services", name)

    def _bound(self, found: Operation[_views.Service]) -> Operation[S]:
        return bound(self._kind, self._client, found)
