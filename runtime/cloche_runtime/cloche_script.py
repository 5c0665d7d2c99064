"""Running a user's script in the interpreter that `bootstrap.py` was started with.

Adds nothing to the user's packages: the modules `cloche.core`, `azureml.core` and `cloche_runtime`
are found by a finder that comes last, so whatever is installed under these names wins. The word
that the user's code begins is one byte on the descriptor that `CLOCHE_STARTED_FD` names (see
`cloche_runtime.spawn`).
"""

import os
import sys

_HERE = os.path.dirname(os.path.abspath(__file__))
_SHIMS = os.path.join(_HERE, "_shims")
_MODULES = {
    "cloche_runtime": os.path.join(_HERE, "__init__.py"),
    "cloche": os.path.join(_SHIMS, "cloche", "__init__.py"),
    "cloche.core": os.path.join(_SHIMS, "cloche", "core", "__init__.py"),
    "cloche.core.run": os.path.join(_SHIMS, "cloche", "core", "run.py"),
    "cloche.core.model": os.path.join(_SHIMS, "cloche", "core", "model.py"),
    "azureml": os.path.join(_SHIMS, "azureml", "__init__.py"),
    "azureml.core": os.path.join(_SHIMS, "azureml", "core", "__init__.py"),
    "azureml.core.run": os.path.join(_SHIMS, "azureml", "core", "run.py"),
    "azureml.core.model": os.path.join(_SHIMS, "azureml", "core", "model.py"),
}


class _LastResort:
    """Finds our modules where nothing else is found under their names."""

    @staticmethod
    def find_spec(name: str, path: object = None, target: object = None) -> object:  # noqa: ARG004 - the protocol's
        """Return the spec of one of our modules; None for all others."""
        file = _MODULES.get(name)
        if file is None:
            return None
        from importlib.util import spec_from_file_location  # noqa: PLC0415 - only scripts that ask for us pay

        folders = [os.path.dirname(file)] if file.endswith("__init__.py") else None
        return spec_from_file_location(name, file, submodule_search_locations=folders)


def _prepare(arguments: list) -> str:  # type: ignore[type-arg]
    """Make the interpreter look as if it had been started with the script; return the script's path."""
    script = str(arguments[0])
    sys.argv[:] = arguments
    sys.path[0] = os.path.dirname(os.path.abspath(script))
    sys.path.append(_SHIMS)  # processes that `multiprocessing` spawns inherit the path, not the finder
    sys.meta_path.append(_LastResort)  # type: ignore[arg-type]
    for stream in (sys.stdout, sys.stderr):
        stream.reconfigure(line_buffering=True)  # type: ignore[union-attr]
    return script


def _load(script: str) -> tuple:  # type: ignore[type-arg]
    """Compile the script and make the module `__main__` that it runs as."""
    with open(script, "rb") as file:
        code = compile(file.read(), script, "exec", dont_inherit=True)
    module = type(sys)("__main__")
    module.__dict__.update(__file__=script, __builtins__=__builtins__, __spec__=None, __cached__=None)
    return code, module


def _say_begun() -> None:
    """Tell the supervisor that the user's code begins now."""
    number = os.environ.pop("CLOCHE_STARTED_FD", "")
    if not number.isdigit():
        return
    try:
        os.write(int(number), b"1")
        os.close(int(number))
    except OSError:
        return


def _fail(error: BaseException, skip: int) -> int:
    """Show the user's traceback without our frames, as the interpreter would, and return the exit code."""
    trace = error.__traceback__
    for _ in range(skip):
        trace = trace.tb_next if trace is not None else None
    sys.excepthook(type(error), error.with_traceback(trace), trace)
    return 1


def main() -> None:
    """Run the script of the command line; the process ends as the script ends."""
    arguments = sys.argv[1:]
    if arguments[:1] == ["--"]:
        del arguments[0]
    if not arguments:
        sys.exit("bootstrap: which script? Usage: bootstrap.py -- script.py [argument ...]")
    script = _prepare(arguments)
    try:
        code, module = _load(script)
    except OSError as error:
        sys.stderr.write("cloche: cannot open the script %r: %s\n" % (script, error.strerror))
        sys.exit(2)
    except (SyntaxError, ValueError) as error:
        sys.exit(_fail(error, 2))
    sys.modules["__main__"] = module
    _say_begun()
    try:
        exec(code, module.__dict__)  # noqa: S102 - the user's own process: running this code is its purpose
    except SystemExit:
        raise
    except KeyboardInterrupt as error:
        _fail(error, 1)
        sys.stdout.flush()
        import signal  # noqa: PLC0415 - only who is interrupted pays

        signal.signal(signal.SIGINT, signal.SIG_DFL)
        os.kill(os.getpid(), signal.SIGINT)
    except BaseException as error:  # noqa: BLE001 - shown to the user as the interpreter would
        sys.exit(_fail(error, 1))
