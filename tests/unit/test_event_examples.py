"""The example producers refuse in a sentence what they cannot work with."""

import subprocess
import sys
from pathlib import Path

import pytest

EXAMPLES = Path(__file__).resolve().parents[2] / "examples" / "events"
JAVAS = "bootstrap.servers=127.0.0.1:1\nsasl.jaas.config=x required;\n"
UNREADY = "bootstrap.servers=127.0.0.1:1\nsecurity.protocol=SASL_SSL\nssl.ca.location=ca.pem\n"


def refused(example: str, *arguments: str | Path) -> str:
    """Call an example that cannot go on; return what it says."""
    done = subprocess.run(
        [sys.executable, EXAMPLES / example, *arguments], capture_output=True, text=True, timeout=60, check=False
    )
    assert done.returncode == 1
    assert "Traceback" not in done.stderr
    return done.stderr


@pytest.mark.parametrize("example", ["submit_aiokafka.py", "submit_confluent.py"])
def test_what_an_example_cannot_work_with_is_refused_in_a_sentence(example: str, tmp_path: Path) -> None:
    assert refused(example).startswith("usage: ")
    assert "cannot be read" in refused(example, tmp_path / "none")
    (tmp_path / "javas").write_text(JAVAS)
    assert "client librdkafka.properties" in refused(example, tmp_path / "javas")
    (tmp_path / "unready").write_text(UNREADY)
    assert "cannot be used" in refused(example, tmp_path / "unready")
