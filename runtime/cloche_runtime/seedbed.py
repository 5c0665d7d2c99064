"""A seedbed: a warm interpreter of an environment. It forks supervisors whose programs need no start of their own.

    python seedbed.py FD ROOM       run by the nursery (see `cloche_runtime.seedbeds`)

The interpreter is started as for a script, so whatever its start brings about (flags, path, streams,
encodings) is what the script would find. Each message is the path of a group's folder with the owner's end
of a connection, as for the nursery. From here the supervisor is forked and from that the program, which
comes back to this module's top, takes on its own command line and environment, forgets what was imported
for the supervisor, and runs the script as `bootstrap.py` would.

What is not as in a fresh process: the seed of `hash`, which all programs of a seedbed share, and the
environment that the kernel shows (`/proc/<pid>/environ`). An environment that runs code of its own on the
interpreter's start is not served.
"""

import os
import sys

import cloche_script  # type: ignore[import-not-found]  # this file's folder is first on the path, as for the bootstrap

_FRESH = frozenset(sys.modules)  # what a script finds imported
_HERE = os.path.dirname(os.path.abspath(__file__))
_FINDERS, _HOOKS = 3, 2  # of a Python to which nothing was added


def _is_fit() -> bool:
    """Tell whether nothing but Python's own code ran on the start of the interpreter."""
    site = sys.modules.get("site")
    library = os.path.dirname(os.path.abspath(os.__file__)) + os.sep
    files = {name: getattr(module, "__file__", None) for name, module in sys.modules.items()}
    foreign = [
        file
        for name, file in files.items()
        if file
        and name not in ("__main__", "cloche_script")
        and (not os.path.abspath(file).startswith(library) or "site-packages" in file)
    ]
    return (
        sys.implementation.name == "cpython"
        and site is not None
        and not site.ENABLE_USER_SITE  # that depends on a run's home
        and len(sys.meta_path) == _FINDERS
        and len(sys.path_hooks) == _HOOKS
        and len(sys._current_frames()) == 1  # noqa: SLF001 - the only way to know of threads without importing more
        and not foreign
    )


def _serve(control: int) -> list:  # type: ignore[type-arg]
    """Fork a supervisor for each message; return the arguments of a program in its process, else none at the end."""
    sys.path.insert(0, os.path.dirname(_HERE))
    from cloche_runtime import sowing  # noqa: PLC0415 - what a script finds imported is noted first

    del sys.path[0]
    sys.path_importer_cache.pop(os.path.dirname(_HERE), None)
    return sowing.serve(control, _FRESH)


if __name__ == "__main__":
    if _is_fit():
        sys.argv[:] = _serve(int(sys.argv[1]))
        if sys.argv:
            cloche_script.main()
