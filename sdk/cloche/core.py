"""What scripts import inside a run: `from cloche.core import Run`.

In a run this name is served by the runtime on the script's path; this module gives the same class to
scripts that are tried where Cloche itself is installed.
"""

from cloche_runtime.run import Run

__all__ = ["Run"]
