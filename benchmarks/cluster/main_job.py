"""The job of the quickstart against the server that `CLOCHE_URL` names; prints each step's seconds as JSON."""

import importlib.util
import json
import sys
from types import ModuleType

from rich.console import Console

from benchmarks.core import ROOT
from cloche import Client

DEMO = ROOT / "examples" / "quickstart" / "demo.py"


def quickstart() -> ModuleType:
    """Return the quickstart's script, which speaks to standard error from now on."""
    spec = importlib.util.spec_from_file_location("quickstart_demo", DEMO)
    assert spec is not None
    assert spec.loader is not None
    demo = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(demo)
    demo.console = Console(stderr=True, highlight=False)  # type: ignore[attr-defined]  # a module's own name
    return demo


def main() -> None:
    """Do the job once."""
    demo = quickstart()
    with Client() as client:
        _, took = demo.job(client)
    sys.stdout.write(json.dumps(took))


if __name__ == "__main__":
    main()
