"""What our own code never does, read from its syntax trees: shells, eval, pickle, other people's unpackers."""

import ast
from collections.abc import Iterator
from functools import cache
from pathlib import Path

ROOT = Path(__file__).parent.parent.parent
SOURCES = sorted(
    path
    for folder in ("shared", "services", "sdk", "runtime")
    for path in (ROOT / folder).rglob("*.py")
    if "build" not in path.relative_to(ROOT).parts
)
MODULES = {
    "pickle",
    "cPickle",
    "dill",
    "cloudpickle",
    "joblib",
    "marshal",
    "shelve",
    "jinja2",
    "pty",
    "commands",
    "imp",
}
CALLS = {
    *(
        "eval",
        "exec",
        "compile",
        "execfile",
        "os.system",
        "os.popen",
        "os.spawnl",
        "os.spawnlp",
        "os.execlp",
        "os.execl",
    ),
    *("subprocess.getoutput", "subprocess.getstatusoutput", "asyncio.create_subprocess_shell", "runpy.run_path"),
    *("yaml.load", "yaml.unsafe_load", "yaml.full_load", "shutil.unpack_archive", "tempfile.mktemp", "__import__"),
    *("tarfile.open", "tarfile.TarFile", "random.seed"),
}
METHODS = {"extractall", "extract", "create_subprocess_shell", "unpack_archive"}
STARTERS = {
    *("subprocess.run", "subprocess.Popen", "subprocess.call", "subprocess.check_call", "subprocess.check_output"),
    *("asyncio.create_subprocess_exec", "os.execv", "os.execve", "os.execvp", "os.execvpe", "os.posix_spawn"),
}
ALLOWED = {
    ("runtime/cloche_runtime/cloche_script.py", "compile"): "the user's own script, in the user's own process",
    ("runtime/cloche_runtime/cloche_script.py", "exec"): "the user's own script, in the user's own process",
    ("shared/cloche_shared/adapters/local_node_files/worker.py", "compile"): "bytecode of wheels; nothing is run",
    ("shared/cloche_shared/adapters/conda/worker.py", "extract"): "rattler's reader, which stays in its folder",
}


@cache
def nodes(path: Path) -> tuple[ast.AST, ...]:
    return tuple(ast.walk(ast.parse(path.read_text(), str(path))))


def name_of(node: ast.expr) -> str:
    """Return the dotted name of what is called; empty for anything else."""
    if isinstance(node, ast.Name):
        return node.id
    if isinstance(node, ast.Attribute) and (head := name_of(node.value)):
        return f"{head}.{node.attr}"
    return ""


@cache
def calls(path: Path) -> tuple[tuple[str, ast.Call], ...]:
    found = [node for node in nodes(path) if isinstance(node, ast.Call)]
    return tuple((name_of(node.func) or getattr(node.func, "attr", ""), node) for node in found)


def everything() -> Iterator[tuple[Path, int, str]]:
    """Yield every forbidden thing in the sources: where, and what."""
    for path in SOURCES:
        for name, call in calls(path):
            if name in CALLS or name.rpartition(".")[2] in METHODS:
                yield path, call.lineno, name
        for node in nodes(path):
            for module in imported(node):
                if module in MODULES:
                    yield path, getattr(node, "lineno", 0), f"import {module}"


def imported(node: ast.AST) -> list[str]:
    if isinstance(node, ast.Import):
        return [alias.name.partition(".")[0] for alias in node.names]
    if isinstance(node, ast.ImportFrom) and node.module and not node.level:
        return [node.module.partition(".")[0]]
    return []


def test_the_sources_are_found() -> None:
    assert len(SOURCES) > 150


def test_nothing_evaluates_unpickles_or_unpacks() -> None:
    seen = [(str(path.relative_to(ROOT)), what, line) for path, line, what in everything()]
    assert [one for one in seen if one[:2] not in ALLOWED] == []


def test_every_exception_is_still_needed() -> None:
    seen = {(str(path.relative_to(ROOT)), what) for path, _, what in everything()}
    assert set(ALLOWED) <= seen


def test_processes_are_started_by_lists_and_without_a_shell() -> None:
    for path in SOURCES:
        for name, node in calls(path):
            where = f"{path.relative_to(ROOT)}:{node.lineno}"
            starts = name.startswith(("subprocess.", "asyncio."))
            assert not starts or all(one.arg != "shell" for one in node.keywords), f"{where} speaks of a shell"
            if name in STARTERS and node.args:
                check_command(name, node.args[0], where)


def check_command(name: str, command: ast.expr, where: str) -> None:
    assert not isinstance(command, ast.JoinedStr | ast.BinOp), f"{where} puts a command together as a text"
    if not name.startswith(("asyncio.", "os.")):
        assert not isinstance(command, ast.Constant), f"{where} starts a text"


def test_no_process_gets_our_whole_environment() -> None:
    for path in SOURCES:
        for name, node in calls(path):
            if name not in {"asyncio.create_subprocess_exec", "subprocess.Popen", "subprocess.run"}:
                continue
            where = f"{path.relative_to(ROOT)}:{node.lineno}"
            assert "sdk/cloche/cli" in where or any(one.arg in {"env", None} for one in node.keywords), where


def test_temporary_files_have_no_names_that_can_be_guessed() -> None:
    for path in SOURCES:
        for node in nodes(path):
            if isinstance(node, ast.Constant) and isinstance(node.value, str):
                assert not node.value.startswith(("/tmp/", "/var/tmp/")), f"{path.relative_to(ROOT)}:{node.lineno}"  # noqa: S108 - what is looked for
