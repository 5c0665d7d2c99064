# ruff: noqa: INP001 - a folder of the search path, not a package
"""The package `cloche_runtime` for spawned processes, which know only this folder: it lies one level up."""

import os

__path__ = [os.path.dirname(os.path.dirname(os.path.abspath(__file__)))]


def __getattr__(name: str) -> object:
    """Import `Run` on first use, as the package itself does."""
    if name == "Run":
        from cloche_runtime.run import Run  # noqa: PLC0415 - keeps start-up of everything else small

        return Run
    raise AttributeError("module 'cloche_runtime' has no attribute " + repr(name))
