"""The article's code samples, read from the page beside the project, and what a reader has at hand beside them."""

import asyncio
import queue
import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tests.environments.conda_channel import make_channel, python_module, python_package, running_channel

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


@contextmanager
def conda_forge(folder: Path) -> Iterator[str]:
    """Serve a channel `conda-forge` with Python and scikit-learn from a thread; yields what lies above it."""
    learn = python_module("scikit-learn", "0.21.3", "VERSION = '0.21.3'\n")
    asyncio.run(make_channel(folder / "conda-forge", learn, python_package()))
    places: queue.SimpleQueue[str] = queue.SimpleQueue()
    loop, end = asyncio.new_event_loop(), asyncio.Event()

    async def serve() -> None:
        async with running_channel(folder) as server:
            places.put(server.url)
            await end.wait()

    thread = threading.Thread(target=lambda: loop.run_until_complete(serve()))
    thread.start()
    try:
        yield places.get()
    finally:
        loop.call_soon_threadsafe(end.set)
        thread.join()
        loop.close()
