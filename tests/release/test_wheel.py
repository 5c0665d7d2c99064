"""What is released works with the sources out of reach."""

import subprocess
import sys
from pathlib import Path

import pytest

from tests.release.newcomer import ROOT, environment, left_running, run, sources

COMMANDS = """
python3 -m venv venv
./venv/bin/pip install -q {package}
export CLOCHE_HOME=$HOME/data
./venv/bin/cloche version
./venv/bin/cloche up -d
./venv/bin/cloche status
printf 'print("hello from a run")\\n' > hello.py
./venv/bin/cloche submit hello.py --follow
./venv/bin/cloche down
"""


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = sources(tmp_path_factory.mktemp("sources"))
    target = tmp_path_factory.mktemp("dist")
    uv = Path(sys.executable).with_name("uv")
    subprocess.run([uv, "build", "-q", "--out-dir", target, folder], cwd=target, check=True, capture_output=True)
    return target


@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.parametrize("kind", ["*.whl", "*.tar.gz"])
def test_it_installs_with_plain_pip_and_runs_from_there(kind: str, built: Path, tmp_path: Path) -> None:
    home = tmp_path / "home"
    variables = environment(home)
    package = next(built.glob(kind))
    printed = run(COMMANDS.format(package=package), home, variables)
    assert "hello from a run" in printed
    assert str(ROOT) not in printed
    assert left_running(tmp_path) == {}
