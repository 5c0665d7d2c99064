"""`from cloche.core.run import Run` inside a run."""

from cloche_runtime.run import Run

__all__ = ["Run"]
