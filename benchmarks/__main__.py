"""`python -m benchmarks [NAME …] [--json FILE]`: measure and print a table."""

import argparse
import importlib
import json
import signal
import sys
import time
import traceback
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Final

from benchmarks import machine
from benchmarks.core import Row, SkippedError, skipped

MODULES: Final = {
    "start": "bench_start",
    "submit": "bench_submit",
    "build-prefix": "bench_prefix",
    "build-cold": "bench_cold",
    "packages": "bench_common",
    "lock": "bench_lock",
    "conda": "bench_conda",
    "register": "bench_register",
    "runs": "bench_runs",
    "score": "bench_score",
    "events": "bench_events",
    "recovery": "bench_recovery",
    "lists": "bench_lists",
    "hash": "bench_hash",
    "versions": "bench_versions",
    "demo": "bench_demo",
}
BUDGET_SECONDS: Final = 540
"""No figure is begun later than this, so that the whole ends within ten minutes."""


def measure(name: str, module_name: str) -> list[Row]:
    """Measure one figure; what cannot be measured becomes a row that says why."""
    module = importlib.import_module(module_name)
    try:
        rows: list[Row] = module.rows()
    except SkippedError as error:
        return [skipped(name, str(error))]
    except Exception as error:  # noqa: BLE001 - the other figures are still wanted
        traceback.print_exc()
        return [Row(name, f"failed: {type(error).__name__}: {error}".splitlines()[0], None, "", "", 0, met=False)]
    return rows


def table(rows: Sequence[Row]) -> str:
    """Return the rows as aligned text."""
    head = ("id", "what", "value", "against", "ratio", "goal", "runs", "")
    lines = [head, *(_cells(row) for row in rows)]
    widths = [max(len(line[column]) for line in lines) for column in range(len(head))]
    return "\n".join(
        "  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip() for line in lines
    )


def _cells(row: Row) -> tuple[str, ...]:
    value = "" if row.value is None else f"{_number(row.value)} {row.unit}".strip()
    against = "" if row.against is None else f"{_number(row.against)} ({row.peer})"
    ratio = "" if row.ratio is None else f"{row.ratio:.2f}"
    verdict = {True: "met", False: "MISSED", None: ""}[row.met]
    return (row.id, row.what, value, against, ratio, row.goal, str(row.runs), verdict)


def _number(value: float) -> str:
    return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.3g}"


def _interrupted(number: int, _frame: object) -> None:
    """Leave through every `finally`, so that what was started ends."""
    sys.exit(128 + number)


def main(
    arguments: list[str] | None = None, *, modules: Mapping[str, str] = MODULES, package: str = "benchmarks"
) -> int:
    """Measure what is named, or everything; `modules` says in which module of the package a figure is."""
    parser = argparse.ArgumentParser(prog=f"python -m {package}", description="Measure and print a table.")
    parser.add_argument("names", nargs="*", metavar="NAME", help=", ".join(modules))
    parser.add_argument("--json", type=Path, metavar="FILE", help="also write machine and rows as JSON")
    found = parser.parse_args(arguments)
    unknown = [name for name in found.names if name not in modules]
    if unknown:
        parser.error(f"unknown: {', '.join(unknown)}; known: {', '.join(modules)}")
    signal.signal(signal.SIGTERM, _interrupted)
    here = machine.look()
    print(here.header(), flush=True)
    rows: list[Row] = []
    started = time.perf_counter()
    for name in found.names or modules:
        began = time.perf_counter()
        if began - started > BUDGET_SECONDS:
            rows.append(skipped(name, f"{BUDGET_SECONDS / 60:.0f} minutes are over; ask for it by name"))
            continue
        print(f"{name} …", end=" ", file=sys.stderr, flush=True)
        rows += measure(name, f"{package}.{modules[name]}")
        print(f"{time.perf_counter() - began:.0f} s", file=sys.stderr, flush=True)
    print(table(rows))
    if found.json:
        found.json.write_text(
            json.dumps({"machine": here.shown(), "rows": [row.shown() for row in rows]}, indent=1) + "\n"
        )
    return 1 if any(row.what.startswith("failed") for row in rows) else 0


if __name__ == "__main__":
    sys.exit(main())
