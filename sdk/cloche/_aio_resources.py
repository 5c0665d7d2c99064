"""What the asynchronous client offers: environments, builds, runs, models, services, nodes."""

from collections.abc import AsyncIterator, Iterable, Mapping
from contextlib import aclosing
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar
from urllib.parse import quote

from pydantic import PrivateAttr

from cloche import _operations as ops
from cloche import _views
from cloche._calls import Call, Operation, send
from cloche._files import requirements_text, safe_join
from cloche._streams import (
    files_of,
    log_piece,
    model_files,
    score_call,
    scored,
)

if TYPE_CHECKING:
    from cloche.aio import AsyncClient

T = TypeVar("T")
list_ = list


class Run(_views.Run):
    """A run, and what can be done with it."""

    _runs: "Runs" = PrivateAttr()

    async def wait(self, timeout: float | None = None) -> "Run":
        """Wait for the end; raises `TimeoutError` after `timeout` seconds."""
        return await self._runs.wait(self.id, timeout=timeout)

    async def refresh(self) -> "Run":
        """Return the run as it is now."""
        return await self._runs.get(self.id)

    async def cancel(self) -> "Run":
        """Ask for its end."""
        return await self._runs.cancel(self.id)

    def log(self, *, follow: bool = True, offset: int = 0) -> AsyncIterator[bytes]:
        """Yield the log from byte `offset`; with `follow` until the run's end."""
        return self._runs.log(self.id, follow=follow, offset=offset)

    async def metrics(self) -> dict[str, Any]:
        """Return what the script logged."""
        return await self._runs.metrics(self.id)


class Service(_views.Service):
    """A scoring service, and what can be done with it."""

    _services: "Services" = PrivateAttr()

    async def wait(self, timeout: float | None = None) -> "Service":
        """Wait until the newest revision is up or has failed; raises `TimeoutError`."""
        return await self._services.wait(self.name, timeout=timeout)

    async def score(self, data: object, *, key: str | None = None) -> object:
        """Send `data` to `run()` and return its answer."""
        return await self._services.score(self.name, data, key=key)

    async def keys(self) -> _views.Keys:
        """Return its two keys."""
        return await self._services.keys(self.name)

    async def delete(self) -> None:
        """Give it up."""
        await self._services.delete(self.name)


class _Resource:
    def __init__(self, client: "AsyncClient") -> None:
        self._client = client

    async def _do(self, operation: Operation[T]) -> T:
        return await self._client.perform(operation)


class Environments(_Resource):
    """Environments and their versions."""

    async def register(
        self,
        name: str,
        *,
        requirements_file: str | Path | None = None,
        requirements: str | None = None,
        definition: Mapping[str, object] | None = None,
        python: str | None = None,
        variables: Mapping[str, str] | None = None,
    ) -> _views.Environment:
        """Register a definition; an unchanged one returns the version that is there (`created` is false then)."""
        if requirements_file is not None:
            requirements = requirements_text(Path(requirements_file))
        return await self._do(
            ops.register_environment(
                name, requirements=requirements, definition=definition, python=python, variables=variables
            )
        )

    async def get(self, name: str, version: str | int | None = None, label: str | None = None) -> _views.Environment:
        """Return a version: the given one, the labelled one, or the latest."""
        number = None if version is None else str(version)
        return await self._do(ops.get(_views.Environment, "environments", name, version=number, label=label))

    async def list(self, limit: int | None = None) -> list_[_views.Environment]:
        """Return the latest version of each environment."""
        items = await self._do(ops.listed("environments", limit=limit))
        return [_views.Environment.model_validate(item) for item in items]

    async def versions(self, name: str, limit: int | None = None) -> list_[_views.Environment]:
        """Return the versions of an environment."""
        items = await self._do(ops.listed("environments", name, "versions", limit=limit))
        return [_views.Environment.model_validate(item) for item in items]

    async def label(self, name: str, label: str, version: str | int) -> _views.Environment:
        """Let a label name a version."""
        return await self._do(ops.label_environment(name, label, str(version)))

    async def unlabel(self, name: str, label: str) -> None:
        """Take a label away."""
        await self._do(ops.delete("environments", name, "labels", label))

    async def archive(self, name: str) -> _views.Environment:
        """Hide an environment from lists; references keep working."""
        return await self._do(ops.environment_action(name, "archive"))

    async def restore(self, name: str) -> _views.Environment:
        """Show an archived environment in lists again."""
        return await self._do(ops.environment_action(name, "restore"))

    async def delete(self, name: str) -> None:
        """Refuse new references to an environment from now on."""
        await self._do(ops.delete("environments", name))


class Builds(_Resource):
    """Builds of environments."""

    async def start(self, environment: str | Mapping[str, object], *, refresh: bool = False) -> _views.Build:
        """Build an environment (`name`, `name:version`, `name@label`, or an inline one)."""
        return await self._do(ops.start_build(environment, refresh=refresh))

    async def get(self, build_id: str) -> _views.Build:
        """Return a build."""
        return await self._do(ops.get(_views.Build, "builds", build_id))

    async def list(self, limit: int | None = None) -> list_[_views.Build]:
        """Return builds, newest first."""
        items = await self._do(ops.listed("builds", limit=limit))
        return [_views.Build.model_validate(item) for item in items]

    async def wait(self, build_id: str, timeout: float | None = None) -> _views.Build:
        """Wait for the end; raises `TimeoutError`."""
        return await self._do(
            ops.wait_for(_views.Build, "ended", "builds", build_id, left=self._client.deadline(timeout))
        )

    async def log(self, build_id: str, *, follow: bool = True) -> AsyncIterator[str]:
        """Yield the lines of a build's log; with `follow` until its end."""
        path = ops.path_of("builds", build_id, "log")
        async with aclosing(self._client.server_events(path, follow=follow)) as events:
            async for event in events:
                yield event.data + "\n"

    async def lock(self, build_id: str) -> str:
        """Return the lock (`pylock.toml`, PEP 751)."""
        answer = await self._do(send(Call("GET", ops.path_of("builds", build_id, "lock"))))
        return answer.body.decode()


class Runs(_Resource):
    """Runs."""

    async def submit(  # noqa: PLR0913 - what a run can be told
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
    ) -> Run:
        """Run a script; the folder `source` (its own, unless given) is sent along.

        `memory` in bytes, `deadline` and `grace` in seconds. Without an environment the server's default
        one is used. Raises `NotFound` (`script_not_found`), `TooLarge` (`snapshot_too_large`), `Invalid`.
        """
        folder, inside = ops.split_script(script, source)
        snapshot = await self._client.snapshot(folder)
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
            },
        )
        return self._bound(await self._do(ops.submit_run(snapshot, body)))

    async def get(self, run_id: str) -> Run:
        """Return a run."""
        return self._bound(await self._do(ops.get(_views.Run, "runs", run_id)))

    async def find(self, text: str) -> Run:
        """Return a run by its id, by a beginning of it that fits only one, or `@last`."""
        return self._bound(await self._do(ops.find_run(text)))

    async def last(self) -> Run:
        """Return the run that was submitted last."""
        return await self.find("@last")

    async def list(self, status: str | None = None, limit: int | None = None) -> list_[Run]:
        """Return runs, newest first."""
        items = await self._do(ops.listed("runs", limit=limit, status=status))
        return [self._bound(_views.Run.model_validate(item)) for item in items]

    async def wait(self, run_id: str, timeout: float | None = None) -> Run:
        """Wait for the end; raises `TimeoutError`."""
        left = self._client.deadline(timeout)
        return self._bound(await self._do(ops.wait_for(_views.Run, "ended", "runs", run_id, left=left)))

    async def cancel(self, run_id: str) -> Run:
        """Ask for the end of a run; one that ended stays as it is."""
        return self._bound(await self._do(ops.cancel_run(run_id)))

    async def log(self, run_id: str, *, follow: bool = True, offset: int = 0) -> AsyncIterator[bytes]:
        """Yield the log from byte `offset`; with `follow` until the run's end."""
        path = ops.path_of("runs", run_id, "log")
        if not follow:
            answer = await self._do(send(Call("GET", path, query={"offset": offset})))
            yield answer.body
            return
        async with aclosing(self._client.server_events(path, follow=True, offset=offset)) as events:
            async for event in events:
                yield log_piece(event)

    async def why(self, run_id: str) -> dict[str, Any]:
        """Return why a run waits, or what became of it."""
        return (await self._do(send(Call("GET", ops.path_of("runs", run_id, "why"))))).json()

    async def metrics(self, run_id: str) -> dict[str, Any]:
        """Return what the script logged."""
        return (await self._do(send(Call("GET", ops.path_of("runs", run_id, "metrics"))))).json()

    async def outputs(self, run_id: str) -> list_[dict[str, Any]]:
        """Return the files that the run left: path, digest, size."""
        answer = await self._do(send(Call("GET", ops.path_of("runs", run_id, "outputs"))))
        return files_of(answer)

    async def download(self, run_id: str, path: str, to: str | Path) -> Path:
        """Write one output to a file and return its path."""
        call = Call("GET", ops.path_of("runs", run_id, "outputs") + "/" + quote(path))
        return await self._client.download(call, Path(to))

    def _bound(self, view: _views.Run) -> Run:
        run = Run.model_validate(view.model_dump())
        run._runs = self  # noqa: SLF001 - the view's own private attribute
        return run


class Models(_Resource):
    """Models and their versions."""

    async def register(
        self,
        name: str,
        *,
        path: str | Path,
        from_run: str | None = None,
        tags: Mapping[str, str] | None = None,
        description: str = "",
    ) -> _views.Model:
        """Register a local file or folder, or with `from_run` what lies at `path` of a run's outputs."""
        snapshot = None
        run_id = from_run
        if from_run is None:
            snapshot = await self._client.snapshot(Path(path))
        elif from_run == "@last":
            run_id = (await self._do(ops.find_run(from_run))).id
        fields = {"tags": dict(tags or {}), "description": description}
        operation = ops.register_model(name, snapshot=snapshot, run_id=run_id, path=str(path), fields=fields)
        return await self._do(operation)

    async def get(self, name: str, version: str | int | None = None) -> _views.Model:
        """Return a version, or the latest."""
        number = None if version is None else str(version)
        return await self._do(ops.get(_views.Model, "models", name, version=number))

    async def list(self, limit: int | None = None) -> list_[_views.Model]:
        """Return the latest version of each model."""
        items = await self._do(ops.listed("models", limit=limit))
        return [_views.Model.model_validate(item) for item in items]

    async def versions(self, name: str, limit: int | None = None) -> list_[_views.Model]:
        """Return the versions of a model."""
        items = await self._do(ops.listed("models", name, "versions", limit=limit))
        return [_views.Model.model_validate(item) for item in items]

    async def download(self, name: str, version: str | int | None, to: str | Path) -> list_[Path]:
        """Write the files of a version below the folder `to` and return their paths."""
        model = await self.get(name, version)
        written: list_[Path] = []
        for entry in model_files(model):
            call = Call(
                "GET", ops.path_of("models", name, "files") + "/" + quote(entry), query={"version": model.version}
            )
            written.append(await self._client.download(call, safe_join(Path(to), entry)))
        return written

    async def delete(self, name: str) -> None:
        """Refuse new references to a model from now on."""
        await self._do(ops.delete("models", name))


class Services(_Resource):
    """Scoring services."""

    async def deploy(  # noqa: PLR0913 - what a service can be told
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
        update: bool = False,
    ) -> Service:
        """Serve a script with `init()` and `run()`; with `update` an existing service gets a new revision."""
        folder, inside = ops.split_script(entry_script, source)
        snapshot = await self._client.snapshot(folder)
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
            },
        )
        del body["arguments"]
        body["entry_script"] = body.pop("script")
        return self._bound(await self._do(ops.deploy_service(name, snapshot, body, update=update)))

    async def get(self, name: str) -> Service:
        """Return a service."""
        return self._bound(await self._do(ops.get(_views.Service, "services", name)))

    async def list(self, limit: int | None = None) -> list_[Service]:
        """Return the services."""
        items = await self._do(ops.listed("services", limit=limit))
        return [self._bound(_views.Service.model_validate(item)) for item in items]

    async def wait(self, name: str, timeout: float | None = None) -> Service:
        """Wait until the newest revision is up or has failed; raises `TimeoutError`."""
        left = self._client.deadline(timeout)
        return self._bound(await self._do(ops.wait_for(_views.Service, "settled", "services", name, left=left)))

    async def score(self, name: str, data: object, *, key: str | None = None) -> object:
        """Send data to a service: text and bytes as they are, everything else as JSON."""
        return scored(await self._do(send(score_call(name, data, key))))

    async def keys(self, name: str) -> _views.Keys:
        """Return the keys of a service."""
        return await self._do(ops.service_keys(name))

    async def regenerate(self, name: str, which: str) -> _views.Keys:
        """Replace the `primary` or `secondary` key."""
        return await self._do(ops.regenerate_key(name, which))

    async def log(self, name: str, *, follow: bool = False) -> AsyncIterator[str]:
        """Yield what the workers wrote; with `follow` what they write until they end."""
        path = ops.path_of("services", name, "log")
        if not follow:
            answer = await self._do(send(Call("GET", path)))
            yield answer.body.decode(errors="replace")
            return
        async with aclosing(self._client.server_events(path, follow=True)) as events:
            async for event in events:
                yield event.data

    async def delete(self, name: str) -> None:
        """Give a service up; its workers and keys end."""
        await self._do(ops.delete("services", name))

    def _bound(self, view: _views.Service) -> Service:
        service = Service.model_validate(view.model_dump())
        service._services = self  # noqa: SLF001 - the view's own private attribute
        return service


class Nodes(_Resource):
    """The machines that runs are placed on."""

    async def list(self) -> list_[dict[str, Any]]:
        """Return the nodes with what they offer and what is taken."""
        return await self._do(ops.listed("nodes"))
