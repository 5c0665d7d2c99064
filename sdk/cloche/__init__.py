"""Cloche: environments for machine learning.

    from cloche import Client

    client = Client()
    run = client.runs.submit("train.py", environment="quickstart")
    print(run.wait().status)

`AsyncClient` is the same with `await`. Inside a run, `from cloche.core import Run` needs nothing
installed. Importing this package is cheap; what a name needs is loaded when it is first used.
"""

import importlib
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from cloche._errors import ClocheError
    from cloche._views import Build, Environment, Event, Model, Project, Run, Service, Token
    from cloche.aio import AsyncClient
    from cloche.client import Client

__version__ = "0.1.0"

_HOMES = {
    "AsyncClient": "cloche.aio",
    "Build": "cloche._views",
    "Client": "cloche.client",
    "ClocheError": "cloche._errors",
    "Environment": "cloche._views",
    "Event": "cloche._views",
    "Model": "cloche._views",
    "Project": "cloche._views",
    "Run": "cloche._views",
    "Service": "cloche._views",
    "Token": "cloche._views",
}

__all__ = [
    "AsyncClient",
    "Build",
    "Client",
    "ClocheError",
    "Environment",
    "Event",
    "Model",
    "Project",
    "Run",
    "Service",
    "Token",
    "__version__",
]


def __getattr__(name: str) -> object:
    home = _HOMES.get(name)
    if home is None:
        raise AttributeError(f"module 'cloche' has no attribute {name!r}")
    return getattr(importlib.import_module(home), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
