"""What a type checker must see on both faces of the SDK; `make check` reads this, nothing runs it."""

from collections.abc import AsyncGenerator, Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any, assert_type

from cloche import AsyncClient, Client
from cloche import _views as views
from cloche.aio import Run as AsyncRun
from cloche.aio import Service as AsyncService
from cloche.client import Run, Service


def ordinary(client: Client) -> None:
    run = client.runs.submit("train.py", environment="quickstart", gpus=1, tags={"a": "b"})
    assert_type(run, Run)
    assert_type(run.wait(timeout=1.0), Run)
    assert_type(run.exit_code, int)
    assert_type(run.log(follow=False), Iterator[bytes])
    assert_type(client.runs.list("Running", limit=3), list[Run])
    assert_type(client.runs.metrics(run.id), dict[str, Any])
    assert_type(client.runs.download(run.id, "outputs/a", "here"), Path)
    assert_type(client.environments.versions("a"), list[views.Environment])
    assert_type(client.environments.delete("a"), None)
    assert_type(client.models.register("m", path="model.pkl"), views.Model)
    assert_type(client.services.deploy("s", "score.py", model="m:1").score([1]), object)
    assert_type(client.services.get("s").wait(), Service)
    assert_type(client.builds.log("b"), Iterator[str])
    assert_type(client.projects.create("team"), views.Project)
    assert_type(client.tokens.create("viewer", projects=["team"], expires=timedelta(days=1)), views.Token)
    client.tokens.create("owner")  # type: ignore[arg-type] # a role that there is not
    assert_type(client.events(types=["RunSubmitted"]), Iterator[views.Event])
    client.runs.get(3)  # type: ignore[arg-type] # ids are texts
    client.runs.get()  # type: ignore[call-arg] # an id is needed
    client.runs.submit("train.py", gpu=1)  # type: ignore[call-arg] # a name that there is not


async def asynchronous(client: AsyncClient) -> None:
    run = await client.runs.submit("train.py", environment="quickstart", gpus=1)
    assert_type(run, AsyncRun)
    assert_type(await run.wait(timeout=1.0), AsyncRun)
    assert_type(run.log(), AsyncGenerator[bytes, None])
    assert_type(await client.runs.list(limit=3), list[AsyncRun])
    assert_type(await (await client.services.get("s")).wait(), AsyncService)
    assert_type(await client.models.download("m", None, "here"), list[Path])
    assert_type(client.events(), AsyncGenerator[views.Event, None])
    client.runs.get("x")  # type: ignore[unused-coroutine] # nothing happens without await
