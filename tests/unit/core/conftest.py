"""A workspace with a scripted server."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from cloche.core import Workspace, _process
from tests.unit.core.scripted import Scripted, scripted


@pytest.fixture
def both(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[tuple[Workspace, Scripted]]:
    monkeypatch.setattr(_process._Last, "workspace", None)
    monkeypatch.setattr(_process._Last, "run", None)
    for name in ("CLOCHE_URL", "CLOCHE_TOKEN", "CLOCHE_PROJECT", "CLOCHE_RUN_ID", "CLOCHE_ENVIRONMENT_NAME"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.chdir(tmp_path)
    with scripted(tmp_path / "home") as found:
        yield found


@pytest.fixture
def ws(both: tuple[Workspace, Scripted]) -> Workspace:
    return both[0]


@pytest.fixture
def server(both: tuple[Workspace, Scripted]) -> Scripted:
    return both[1]
