"""Scripts that benchmarks run, as a user would write them."""

from pathlib import Path

STAMP = """\
import time
print(time.time_ns(), flush=True)
import sys
print(sys.executable, flush=True)
"""

SHORT = """\
print("hello", flush=True)
"""

TICK = """\
import os, sys, time
stop = sys.argv[1]
number = 0
while not os.path.exists(stop):
    print(number, os.getpid(), time.time_ns(), flush=True)
    number += 1
    time.sleep(0.02)
"""

SCORE = """\
import json

def init():
    global weights
    weights = [0.5, 1.5, 2.5]

def run(data):
    rows = json.loads(data)["data"]
    return {"result": [sum(w * x for w, x in zip(weights, row)) for row in rows]}
"""


def written(folder: Path, name: str, text: str) -> Path:
    """Write a script into a folder of its own and return its path."""
    path = folder / name.removesuffix(".py") / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    return path
