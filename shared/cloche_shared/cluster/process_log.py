"""The log of a process of a cluster: JSON lines on its standard error, vendors' warnings among them."""

import logging
import os
from functools import partial

from cloche_shared.adapters.log_sink import LogSink
from cloche_shared.adapters.system_clock import SystemClock
from cloche_shared.logs import Log, Scrubber, StdlibBridge


def process_log(name: str, scrubber: Scrubber) -> Log:
    """Return the log of the process called `name`; what the standard library's loggers say goes there too."""
    sink = LogSink(partial(os.write, 2))
    log = Log(name, write=sink, clock=SystemClock(), scrubber=scrubber)
    sink.tell = lambda lost: log.line("warning", "log_lines_lost", f"{lost} lines could not be written.", count=lost)
    logging.basicConfig(handlers=[StdlibBridge(log)], level=logging.WARNING, force=True)
    return log
