"""The article's code samples, read from the page beside the project, and what a reader has at hand beside them."""

import asyncio
import hashlib
import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

from cloche_shared.adapters.memory_resolver import Package, wheel_bytes
from tests.environments.conda_channel import make_channel, python_module, python_package

PAGE = Path(__file__).parent.parent.parent.parent / "shared" / "reference" / "article.md"
"""The article is not ours and lies beside the project; tests that read it are skipped where it is not."""
TRAIN = """
import argparse
import os
from pathlib import Path

from azureml.core import Run

parser = argparse.ArgumentParser()
parser.add_argument("--data-folder", default="")
parser.add_argument("--regularization", type=float, default=0.0)
args = parser.parse_args()
run = Run.get_context()
run.log("regularization", args.regularization)
if args.data_folder:
    run.log("rows", len((Path(args.data_folder) / "rows.csv").read_text().split()))
print("variable:", os.getenv("EXAMPLE_ENV_VAR"))
Path("outputs").mkdir(exist_ok=True)
Path("outputs/model.pkl").write_text("3")
"""
"""A training script as it was written for Azure ML; its import is the original one."""
SCORE = """
import json
import os

from azureml.core.model import Model

def init():
    global factor
    factor = int(open(Model.get_model_path("mymodel")).read())

def run(data):
    return {"scored": [factor * one for one in json.loads(data)["data"]], "said": os.getenv("EXAMPLE_ENV_VAR")}
"""


def cells() -> list[str]:
    """Return the code samples in their order, with `azureml` in their imports changed to `cloche` and nothing else."""
    found = re.findall(r"^```python\n(.*?)^```", PAGE.read_text(encoding="utf-8"), re.DOTALL | re.MULTILINE)
    return [re.sub(r"^(from|import) azureml\b", r"\1 cloche", cell, flags=re.MULTILINE) for cell in found]


def publish(folder: Path) -> None:
    """Put into a folder the channel `conda-forge` with Python and scikit-learn, and a package index with pillow."""
    learn = python_module("scikit-learn", "0.21.3", "VERSION = '0.21.3'\n")
    asyncio.run(make_channel(folder / "channels" / "conda-forge", learn, python_package()))
    for shards in (folder / "channels").rglob("repodata_shards*"):
        shards.unlink()  # the solver's library takes no 304 for this one, which a server of plain files answers
    pillow = Package("pillow", "5.4.1", (), {"PIL.py": "VERSION = '5.4.1'\n"})
    content = wheel_bytes(pillow)
    for place in ("files", "simple/pillow"):
        (folder / place).mkdir(parents=True, exist_ok=True)
    (folder / "files" / pillow.filename).write_bytes(content)
    link = f"../../files/{pillow.filename}#sha256={hashlib.sha256(content).hexdigest()}"
    (folder / "simple/pillow/index.html").write_text(f'<a href="{link}">{pillow.filename}</a>')


class _Quiet(SimpleHTTPRequestHandler):
    def log_message(self, *args: object) -> None:
        """Say nothing."""


@contextmanager
def served(folder: Path) -> Iterator[str]:
    """Serve a folder on loopback from a thread; yields its address."""
    with ThreadingHTTPServer(("127.0.0.1", 0), partial(_Quiet, directory=str(folder))) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_port}"
        finally:
            server.shutdown()
            thread.join()
