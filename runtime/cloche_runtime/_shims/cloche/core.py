"""What a script may use inside a run: `from cloche.core import Run`."""

from cloche_runtime.run import Run

__all__ = ["Run"]
