"""Users' scripts under the bootstrap: like `python script.py`, with `Run` at hand."""

import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

import cloche_runtime
from cloche_shared.adapters.local_executor import LocalExecutor
from cloche_shared.ports.executor import ProcessSpec

BOOTSTRAP = Path(str(cloche_runtime.__file__)).with_name("bootstrap.py")
Runner = Callable[..., subprocess.CompletedProcess[str]]


@pytest.fixture
def work(tmp_path: Path) -> Path:
    folder = tmp_path / "work"
    folder.mkdir()
    return folder


@pytest.fixture
def run(work: Path) -> Runner:
    def run(code: str, *arguments: str, python: str = sys.executable, **env: str) -> subprocess.CompletedProcess[str]:
        (work / "script.py").write_text(code)
        argv = [python, "-S", "-E", str(BOOTSTRAP), "--", "script.py", *arguments]
        return subprocess.run(
            ["env", "--default-signal=INT", *argv],  # whoever started the tests may have it ignored
            cwd=work,
            env=env,
            capture_output=True,
            text=True,
            timeout=20,
            check=False,
        )

    return run


def test_a_script_sees_what_it_would_see_without_us(run: Runner, work: Path) -> None:
    (work / "helper.py").write_text("name = 'helper of the script'")
    done = run(
        "import sys, os, helper, pickle\n"
        "class C: pass\n"
        "assert type(pickle.loads(pickle.dumps(C()))) is C\n"
        "print(sys.argv, __name__, __file__, sys.path[0] == os.getcwd(), helper.name, 'main' in globals())",
        "--lr",
        "0.1",
    )
    assert done.stdout == "['script.py', '--lr', '0.1'] __main__ script.py True helper of the script False\n"
    assert (done.returncode, done.stderr) == (0, "")


@pytest.mark.parametrize(
    ("code", "expected", "stderr"),
    [
        ("import sys; sys.exit(3)", 3, ""),
        ("raise SystemExit('why')", 1, "why\n"),
        ("import sys; sys.exit()", 0, ""),
        ("import os; os._exit(9)", 9, ""),
        ("import os; os.kill(os.getpid(), 9)", -9, ""),
    ],
)
def test_exit_codes_are_the_scripts_own(run: Runner, code: str, expected: int, stderr: str) -> None:
    done = run(code)
    assert (done.returncode, done.stderr) == (expected, stderr)


def test_a_traceback_shows_the_users_frames_only(run: Runner) -> None:
    done = run("def f():\n    1 / 0\nf()\n")
    assert done.returncode == 1
    assert "bootstrap" not in done.stderr
    assert 'File "script.py", line 3, in <module>' in done.stderr
    assert done.stderr.endswith("ZeroDivisionError: division by zero\n")


def test_a_syntax_error_is_shown_as_python_shows_it(run: Runner) -> None:
    done = run("def f(:\n")
    assert done.returncode == 1
    assert "bootstrap" not in done.stderr
    assert done.stderr.startswith('  File "script.py", line 1\n')


def test_an_interrupt_ends_by_its_signal(run: Runner) -> None:
    done = run("import os, signal; os.kill(os.getpid(), signal.SIGINT); import time; time.sleep(5)")
    assert done.returncode == -signal.SIGINT
    assert "KeyboardInterrupt" in done.stderr


def test_a_script_that_is_missing_is_named(work: Path) -> None:
    argv = [sys.executable, "-S", "-E", str(BOOTSTRAP), "--", "absent.py"]
    done = subprocess.run(argv, cwd=work, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (
        2,
        "cloche: cannot open the script 'absent.py': No such file or directory\n",
    )


USES_RUN = """
from cloche.core import Run
from azureml.core import Run as Azure
from azureml.core.run import Run as AzureRun
from cloche_runtime import Run as Ours
assert Run is Azure is AzureRun is Ours
run = Run.get_context()
run.log("accuracy", 0.5)
print(run.id, run.get_metrics())
"""


def test_every_spelling_of_run_works_without_installing_anything(run: Runner, tmp_path: Path) -> None:
    done = run(USES_RUN, CLOCHE_RUN_ID="r1", CLOCHE_RUN_JOURNAL=str(tmp_path / "journal"))
    assert (done.stdout, done.stderr) == ("r1 {'accuracy': 0.5}\n", "")
    assert '"op":"log","name":"accuracy","value":0.5' in (tmp_path / "journal").read_text()


def test_every_spelling_of_model_finds_the_models_files(run: Runner, work: Path) -> None:
    (work / "azureml-models" / "m" / "1").mkdir(parents=True)
    (work / "azureml-models" / "m" / "1" / "m.pkl").touch()
    done = run(
        "from cloche.core.model import Model\nfrom azureml.core.model import Model as Azure\n"
        "from azureml.core import Model as AzureModel\nfrom cloche.core.run import Run\n"
        "assert Model is Azure is AzureModel\nprint(Model.get_model_path('m').endswith('m/1/m.pkl'))"
    )
    assert (done.stdout, done.stderr) == ("True\n", "")


def test_an_installed_azureml_core_wins(run: Runner, work: Path) -> None:
    (work / "azureml" / "core").mkdir(parents=True)
    (work / "azureml" / "__init__.py").touch()
    (work / "azureml" / "core" / "__init__.py").write_text("Run = 'installed'")
    assert run("from azureml.core import Run; print(Run)").stdout == "installed\n"
    assert "No module named 'azureml.core.run'" not in run("from cloche.core import Run").stderr


@pytest.mark.parametrize("package", ["azureml", "cloche"])
def test_an_installed_package_without_core_is_completed(run: Runner, work: Path, package: str) -> None:
    (work / package).mkdir()
    (work / package / "__init__.py").write_text("here = 1")
    done = run(f"import {package}; from {package}.core import Run; print({package}.here, Run.__name__)")
    assert (done.stdout, done.stderr) == ("1 Run\n", "")


def test_processes_that_the_script_spawns_find_run_too(run: Runner, tmp_path: Path) -> None:
    code = (
        "import multiprocessing\nfrom cloche.core import Run\n"
        "def work(n): Run.get_context().log('m', n)\n"
        "if __name__ == '__main__':\n"
        "    with multiprocessing.get_context('spawn').Pool(1) as pool: pool.map(work, [1, 2])\n"
        "    print(Run.get_context().get_metrics())\n"
    )
    done = run(code, CLOCHE_RUN_ID="r1", CLOCHE_RUN_JOURNAL=str(tmp_path / "journal"))
    assert (done.stdout, done.stderr) == ("{'m': [1, 2]}\n", "")


def test_output_appears_line_by_line(work: Path) -> None:
    (work / "script.py").write_text("print('first'); input()")
    argv = [sys.executable, "-S", "-E", str(BOOTSTRAP), "--", "script.py"]
    with subprocess.Popen(argv, cwd=work, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stdin is not None
        assert process.stdout.readline() == "first\n"
        process.stdin.write("\n")


def _old_pythons() -> list[str]:
    names = [f"python3.{minor}" for minor in (8, 9, 10, 12, 13)]
    found = [shutil.which(name) for name in names]
    usable = [
        one
        for one in found
        if one and subprocess.run([one, "-c", ""], capture_output=True, check=False).returncode == 0
    ]
    return usable + os.environ.get("CLOCHE_TEST_PYTHONS", "").split()


def test_other_pythons_run_it_as_well(run: Runner, tmp_path: Path) -> None:
    for python in _old_pythons():
        done = run(USES_RUN, python=python, CLOCHE_RUN_ID="r1", CLOCHE_RUN_JOURNAL=str(tmp_path / Path(python).name))
        assert (done.stdout, done.stderr) == ("r1 {'accuracy': 0.5}\n", ""), python


async def test_the_user_code_begins_when_the_bootstrap_says_so(tmp_path: Path, work: Path) -> None:
    (work / "script.py").write_text("import os; print('CLOCHE_STARTED_FD' in os.environ, os.listdir('/proc/self/fd'))")
    executor = LocalExecutor(tmp_path / "executor")
    argv = [sys.executable, "-S", "-E", str(BOOTSTRAP), "--", "script.py"]
    process = await executor.start(ProcessSpec("a", "owner", argv, work, {"CLOCHE_STARTED_FD": "3"}))
    assert await process.started()
    assert (await process.wait()).code == 0
    assert [chunk.data async for chunk in process.log()] == [b"False ['0', '1', '2', '3']\n"]
    argv[-1] = "absent.py"
    process = await executor.start(ProcessSpec("b", "owner", argv, work, {"CLOCHE_STARTED_FD": "3"}))
    assert not await process.started()
    assert (await process.wait()).code == 2
    await executor.close()
