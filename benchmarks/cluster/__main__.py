"""`python -m benchmarks.cluster [NAME …] [--json FILE]`: measure the cluster's figures and print a table."""

import sys
from typing import Final

from benchmarks.__main__ import main

MODULES: Final = {
    "idle": "bench_idle",
    "register": "bench_register",
    "events": "bench_events",
    "recovery": "bench_recovery",
    "job": "bench_job",
    "log": "bench_log",
    "blobs": "bench_blobs",
    "motor": "bench_motor",
}

if __name__ == "__main__":
    sys.exit(main(modules=MODULES, package="benchmarks.cluster"))
