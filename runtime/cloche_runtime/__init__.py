"""What Cloche brings into users' processes: standard library only, Python 3.8 and later.

    from cloche_runtime import Run        the same as  from cloche.core import Run

Inside live also the nursery and the supervisor, which the service starts beside users' processes.
"""

__all__ = ["Run"]


def __getattr__(name: str) -> object:
    """Import `Run` on first use: supervisors and workers never need it."""
    if name == "Run":
        from cloche_runtime.run import Run  # noqa: PLC0415 - keeps start-up of everything else small

        return Run
    raise AttributeError("module 'cloche_runtime' has no attribute " + repr(name))
