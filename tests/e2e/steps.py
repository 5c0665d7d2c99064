"""What many tests do: submit a small run, wait for what it says, look at processes."""

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

from cloche import Client
from cloche.client import Run, Service
from tests.e2e.keeper import state
from tests.e2e.topology import PATIENCE, SMALL, eventually

SCORE = """
import json
import os

def init():
    global MODEL
    MODEL = os.environ.get("GREETING", "hello")
    print("init is done")

def run(data):
    return {"greeting": MODEL, "got": json.loads(data)}
"""
"""A scoring script without a model."""


def submit(client: Client, script: Path, **options: Any) -> Run:
    """Submit a run that takes little, so that many go on at once."""
    return client.runs.submit(script, **{**SMALL, **options})


def done(client: Client, run: Run | str) -> Run:
    """Wait for a run's end."""
    return client.runs.wait(run if isinstance(run, str) else run.id, timeout=PATIENCE)


def completed(client: Client, script: Path, **options: Any) -> Run:
    """Submit a run and see it complete."""
    ended = done(client, submit(client, script, **options))
    assert ended.status == "Completed", (ended.problem, log_of(client, ended))
    return ended


def log_of(client: Client, run: Run | str) -> str:
    """Return the log as it is now."""
    run_id = run if isinstance(run, str) else run.id
    return b"".join(client.runs.log(run_id, follow=False)).decode()


def says(client: Client, run: Run, pattern: str) -> re.Match[str]:
    """Wait until a run's log holds a pattern."""
    found: re.Match[str] = eventually(
        lambda: re.search(pattern, log_of(client, run)), f"the log of {run.id} holds {pattern!r}"
    )
    return found


def reaches(client: Client, run: Run, *statuses: str) -> Run:
    """Wait until a run has one of some statuses."""

    def look() -> Run | None:
        found = client.runs.get(run.id)
        assert found.status in statuses or not found.ended, (found.status, found.problem)
        return found if found.status in statuses else None

    found: Run = eventually(look, f"{run.id} is {' or '.join(statuses)}")
    return found


def deployed(client: Client, name: str, script: Path, **options: Any) -> Service:
    """Deploy a service that takes little and wait until it is healthy."""
    client.services.deploy(name, script, **{**SMALL, **options})
    found = client.services.wait(name, timeout=PATIENCE)
    assert found.status == "Healthy", found.error
    return found


def is_alive(pid: int) -> bool:
    return state(pid) not in {"Z", "X"}


def gone(*pids: int) -> None:
    """Wait until processes do not live any more."""
    eventually(lambda: not any(is_alive(pid) for pid in pids), f"{pids} ended")


Scripts = Callable[..., Path]
Names = Callable[[str], str]
