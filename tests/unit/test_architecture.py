"""Where the outside world may be touched, read from every source file.

The import contracts name layers; this names what a file may reach for. Nothing is listed by module: a new
file is bound at once, and a package nobody listed is a vendor's client until someone says otherwise.
"""

import ast
import sys
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent.parent
OURS = frozenset(
    (
        "cloche",
        "cloche_registry",
        "cloche_builder",
        "cloche_runner",
        "cloche_deployer",
        "cloche_shared",
        "cloche_runtime",
    )
)
LAYERED = ("shared", "services")
"""Folders whose files outside `adapters/` and `wiring.py` are replayed from a seed by the simulation."""

LIBRARIES = {
    "fastapi": "every REST surface is FastAPI",
    "starlette": "what FastAPI's requests and answers are made of",
    "pydantic": "contracts, states and settings",
    "pydantic_core": "pydantic's errors",
    "orjson": "JSON of contracts; reads and writes bytes only",
    "packaging": "requirements, versions and tags; texts only",
    "pathspec": "ignore files; texts only",
    "prometheus_client": "counts; the text is served by our own route",
    "rich": "what the command line draws",
    "typer": "the command line",
    "yaml": "files of environments; only its parser's events are read",
}
"""Packages that touch nothing outside the process: they may be used anywhere."""

PROCESSES = frozenset(
    ("subprocess", "socket", "socketserver", "ssl", "select", "selectors", "threading", "multiprocessing", "concurrent")
)
CLIENTS = frozenset(("sqlite3", "urllib.request", "http.client", "http.server", "ftplib", "smtplib"))
EFFECTS = frozenset(
    ("os", "io", "time", "random", "secrets", "tempfile", "shutil", "glob", "fcntl", "mmap", "signal", "resource")
) | {"ctypes", "tarfile", "zipfile", "queue", "sched"}
CALLS = frozenset(
    (
        "open",
        "input",
        "datetime.now",
        "datetime.utcnow",
        "date.today",
        "uuid.uuid1",
        "uuid.uuid4",
        "Path.cwd",
        "Path.home",
    )
)
ENDS = frozenset(name.rpartition(".")[2] for name in CALLS)
METHODS = frozenset(
    (
        "to_thread",
        "run_in_executor",
        "create_subprocess_exec",
        "open_connection",
        "open_unix_connection",
        "start_server",
    )
) | {
    *("start_unix_server", "create_server", "create_connection", "create_datagram_endpoint"),
    *("read_text", "write_text", "write_bytes", "mkdir", "rmdir", "unlink", "iterdir", "rglob", "touch", "chmod"),
}
"""Methods of the loop and of paths that leave the process, by names that nothing else of ours has."""

ALLOWED = {
    ("services/runner/cloche_runner/domain/endings.py", "os"): "names of error numbers; no call reaches the system",
    ("services/runner/cloche_runner/domain/endings.py", "signal"): "names of signals; none is sent",
    ("sdk/cloche/_transport.py", "httpx2"): "the SDK's one adapter for HTTP",
    ("sdk/cloche/client.py", "concurrent"): "several uploads at once without a loop",
    ("sdk/cloche/cli/follow.py", "threading"): "looks at the run while the main thread waits for its log",
    ("sdk/cloche/cli/state.py", "http.client"): "`status` is asked often: the client that is quick to import",
    ("sdk/cloche/cli/processes.py", "select"): "waits for a process that is no child of ours",
    ("sdk/cloche/cli/processes.py", "subprocess"): "starts the background server",
    ("sdk/cloche/cli/doctor.py", "socket"): "looks whether the port is free",
    ("sdk/cloche/cli/doctor.py", "sqlite3"): "says which version is here",
    ("sdk/cloche/cli/doctor.py", "subprocess"): "asks uv for its version",
    ("sdk/cloche/cli/doctor.py", "uv"): "finds uv as the resolver does",
}
"""(file, what) that the rules above forbid, and why it is right there."""


def sources(*folders: str) -> list[Path]:
    return sorted(path for folder in folders for path in (ROOT / folder).rglob("*.py") if "build" not in path.parts)


def is_edge(path: Path) -> bool:
    """Whether a file may touch the outside: an adapter, or what composes a process (`cluster/` does nothing else)."""
    return bool({"adapters", "cluster"} & set(path.parts)) or path.name in {"wiring.py", "_embedded.py", "__main__.py"}


@cache
def nodes(path: Path) -> tuple[ast.AST, ...]:
    return tuple(ast.walk(ast.parse(path.read_text(), str(path))))


@cache
def imports(path: Path) -> frozenset[str]:
    """Return the full names of what a file imports, also inside functions."""
    found: set[str] = set()
    for node in nodes(path):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            found |= {node.module, *(f"{node.module}.{alias.name}" for alias in node.names)}
    return frozenset(found)


def heads(path: Path) -> set[str]:
    return {name.partition(".")[0] for name in imports(path)}


def foreign(path: Path) -> set[str]:
    """Return the packages of others that a file imports and that are no harmless libraries."""
    return heads(path) - OURS - set(sys.stdlib_module_names) - set(LIBRARIES)


def reached(path: Path, names: frozenset[str]) -> set[str]:
    return heads(path) & names | imports(path) & names


def called(path: Path) -> Iterator[str]:
    for node in nodes(path):
        if not isinstance(node, ast.Call):
            continue
        last = node.func.attr if isinstance(node.func, ast.Attribute) else getattr(node.func, "id", "")
        if last in METHODS or (last in ENDS and ast.unparse(node.func) in CALLS):
            yield ast.unparse(node.func)


def broken() -> Iterator[tuple[str, str]]:
    """Yield (file, what) for everything that is touched where it may not be."""
    for path in sources(*LAYERED, "sdk"):
        if is_edge(path):
            continue
        here = str(path.relative_to(ROOT))
        found = foreign(path) | reached(path, PROCESSES | CLIENTS)
        if not here.startswith("sdk"):
            found |= reached(path, EFFECTS) | set(called(path))
        yield from ((here, what) for what in sorted(found))


def test_only_adapters_and_wiring_touch_the_outside() -> None:
    assert [one for one in broken() if one not in ALLOWED] == []


def test_every_exception_is_still_needed() -> None:
    assert set(ALLOWED) <= set(broken())


def test_every_library_is_still_used() -> None:
    used = {name for path in sources(*LAYERED, "sdk") for name in heads(path)}
    assert set(LIBRARIES) <= used


def test_the_runtime_imports_the_standard_library_and_itself() -> None:
    for path in sources("runtime"):
        shim = "_shims" in path.parts  # what scripts import by these names, and nothing behind them
        users = {"cloche_script"}  # the name under which a user's own script is imported
        assert heads(path) - users <= set(sys.stdlib_module_names) | {"cloche_runtime"} or shim, path


def test_domains_know_decisions_only() -> None:
    for path in sources("services"):
        if "domain" in path.parts or path.name == "domain.py":
            assert "asyncio" not in heads(path), path
            assert not any("adapters" in name.split(".") for name in imports(path)), path


def test_only_the_edges_name_adapters() -> None:
    for path in sources(*LAYERED):
        if not is_edge(path):
            assert not any("adapters" in name.split(".") for name in imports(path)), path


@pytest.mark.parametrize(
    ("text", "what"),
    [
        ("import aiokafka", {"aiokafka"}),
        ("def late():\n    from motor.motor_asyncio import AsyncIOMotorClient", {"motor"}),
        ("from minio import Minio", {"minio"}),
        ("import docker.client", {"docker"}),
        ("import uvicorn", {"uvicorn"}),
        ("from urllib import request", {"urllib.request"}),
        ("from concurrent.futures import ThreadPoolExecutor", {"concurrent"}),
    ],
)
def test_a_vendors_client_is_seen_wherever_it_stands(tmp_path: Path, text: str, what: set[str]) -> None:
    path = tmp_path / "handlers.py"
    path.write_text(text)
    assert foreign(path) | reached(path, PROCESSES | CLIENTS) == what


def test_a_call_that_leaves_the_process_is_seen(tmp_path: Path) -> None:
    path = tmp_path / "handlers.py"
    path.write_text("async def f():\n    await asyncio.to_thread(open, 'x')\n    datetime.now(UTC)\n")
    assert set(called(path)) == {"asyncio.to_thread", "datetime.now"}
