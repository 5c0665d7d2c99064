"""A user's scoring script: loaded, examined, and called the way Azure's inference server calls it."""

from __future__ import annotations

import importlib.util
import inspect
import json
import os
import sys
import traceback
from time import perf_counter
from types import ModuleType
from typing import Any, Callable, Dict, List, NamedTuple, Optional, Tuple
from urllib.parse import parse_qsl

from cloche_runtime import scoring_http
from cloche_runtime.scoring_frames import OWN_HEADERS, RUN_FAILED, TIMED

_SCRIPT_FAILED = "An unexpected error occurred in scoring script. Check the logs for more info."
_INTERNAL = "An unexpected internal error occurred. Check the logs for more info."
_PLAIN_TYPES = frozenset((dict, list, str, int, float, bool, type(None), tuple))
_SERVER_ERROR = 500
_FIRST_FINAL, _LAST_FINAL = 200, 599


class ScriptError(Exception):
    """The script cannot serve: a stable code, what failed, what to do, and the user's traceback."""

    def __init__(self, code: str, what: str, todo: str = "", trace: str = "") -> None:
        super().__init__(what)
        self.code = code
        self.what = what
        self.todo = todo
        self.trace = trace


class BadInput(Exception):
    """The client's request cannot be given to `run`."""

    def __init__(self, status: int, message: str) -> None:
        super().__init__(message)
        self.status = status


class Answer(NamedTuple):
    """What becomes of one request: the parts of a response's frame."""

    status: int
    flags: int = 0
    milliseconds: float = 0.0
    headers: bytes = b""
    body: bytes = b""


def message(status: int, text: str, flags: int = 0) -> Answer:
    """Return an error as Azure's server words it."""
    return Answer(status, flags, body=json.dumps({"message": text}).encode())


def user_trace(error: BaseException) -> str:
    """Return the traceback without the frames of this runtime and of the import system."""
    here = os.path.dirname(os.path.abspath(__file__))
    trace = error.__traceback__
    while trace is not None:
        name = trace.tb_frame.f_code.co_filename
        if not (name.startswith((here, "<frozen importlib")) or os.sep + "importlib" + os.sep in name):
            break
        trace = trace.tb_next
    return _relative("".join(traceback.format_exception(type(error), error, trace)))


def _relative(text: str) -> str:
    """Return a trace that names the user's files as they were deployed, not where they lie on this machine."""
    return text.replace(os.path.abspath(os.environ.get("AML_APP_ROOT", ".")) + os.sep, "")


class Script:
    """The functions of a loaded script and how a request becomes their arguments."""

    def __init__(self, module: ModuleType) -> None:
        self.module = module
        self.init: Callable[[], object] = _function(module, "init")
        self.run: Callable[..., object] = _function(module, "run")
        driver = getattr(module, "driver_module", None)
        if isinstance(driver, ModuleType) and hasattr(driver, "run"):
            self.run = driver.run
        parameters = list(inspect.signature(self.run).parameters.values())
        _check_parameters(parameters)
        self.takes_headers = any(p.name == "request_headers" for p in parameters)
        self.parameters = [p for p in parameters if p.name != "request_headers"]
        self.name = self.parameters[0].name
        self.kind = self._kind()

    @property
    def wants_headers(self) -> bool:
        """Whether requests must come with all their header fields."""
        return self.takes_headers or self.kind == "raw"

    def _kind(self) -> str:
        util = sys.modules.get("inference_schema.schema_util")
        decorated = util is not None and bool(util.is_schema_decorated(self.run))
        raw = bool(scoring_http.asked) or any(
            getattr(sys.modules.get(name), "_rawHttpRequested", False)
            for name in ("azureml_inference_server_http.api.aml_request", "azureml.contrib.services.aml_request")
        )
        if raw and decorated:
            raise ScriptError(
                "script_invalid_run",
                "run() is decorated with both @rawhttp and @input_schema.",
                "Keep one of the two decorators.",
            )
        return "raw" if raw else "schema" if decorated else "plain"

    def schemas(self) -> Optional[Dict[str, Any]]:
        """Return the schemas that the script's decorators describe, or None without them."""
        util = sys.modules.get("inference_schema.schema_util")
        if util is None or self.kind != "schema":
            return None
        return {
            "input": util.get_input_schema(self.run),
            "output": util.get_output_schema(self.run),
            "versions": [str(v) for v in util.get_supported_versions(self.run)],
        }

    def start(self) -> None:
        """Call the user's `init()`. Raises `ScriptError`."""
        try:
            self.init()
        except BaseException as error:
            raise ScriptError(
                "init_failed",
                f"init() raised {_short(error)}",
                "Fix the error that the traceback shows and deploy again.",
                user_trace(error),
            ) from error

    def answer(self, meta: Dict[str, Any], body: bytes, request_id: str) -> Answer:
        """Call the user's `run` for one request; never raises."""
        try:
            arguments = self._arguments(meta, body)
        except BadInput as error:
            return message(error.status, str(error))
        if arguments is None:
            return Answer(200) if meta.get("method") == "OPTIONS" else message(405, "Method not allowed")
        began = perf_counter()
        try:
            result = self.run(**arguments)
        except BaseException as error:  # noqa: BLE001  user code may raise anything, SystemExit included
            sys.stderr.write(f"run() failed for request {request_id}:\n{user_trace(error)}")
            sys.stderr.flush()
            return message(500, _SCRIPT_FAILED, RUN_FAILED)
        return _encode(result, (perf_counter() - began) * 1000.0, request_id)

    def _arguments(self, meta: Dict[str, Any], body: bytes) -> Optional[Dict[str, Any]]:
        method = meta.get("method", "POST")
        if self.kind == "raw":
            arguments: Dict[str, Any] = {self.name: scoring_http.AMLRequest(meta, body)}
        elif method == "POST":
            arguments = self._posted(meta, body)
        elif method == "GET":
            values = _query(meta.get("query", ""))
            arguments = self._named(values) if self.kind == "schema" else {self.name: json.dumps(values)}
        else:
            return None
        if self.takes_headers:
            arguments["request_headers"] = {name.title(): value for name, value in meta.get("headers", ())}
        return arguments

    def _posted(self, meta: Dict[str, Any], body: bytes) -> Dict[str, Any]:
        media = meta.get("type", "application/json").partition(";")[0].strip().lower()
        if self.kind == "schema":
            if media != "application/json" and not (media.startswith("application/") and media.endswith("+json")):
                raise BadInput(415, "Expects Content-Type to be application/json")
            return self._named(_parse(body))
        if media == "application/x-www-form-urlencoded":
            return {self.name: ""}
        try:
            return {self.name: body.decode()}
        except UnicodeDecodeError as error:
            raise BadInput(400, f"Input cannot be decoded as UTF-8: {error}") from None

    def _named(self, values: Dict[str, Any]) -> Dict[str, Any]:
        named = {}
        for parameter in self.parameters:
            value = values.get(parameter.name, parameter.default)
            if value is inspect.Parameter.empty:
                raise BadInput(400, f"A value is not provided for the {parameter.name!r} parameter.")
            named[parameter.name] = value
        return named


def _function(module: ModuleType, name: str) -> Callable[..., object]:
    found = getattr(module, name, None)
    if callable(found):
        return found  # type: ignore[no-any-return]  # whatever the user's module holds; it is callable
    raise ScriptError(
        f"script_missing_{name}",
        f"The scoring script has no function {name}().",
        f"Define `def {name}({'data' if name == 'run' else ''}):` in it"
        + ("; it is called once when a worker starts." if name == "init" else "; it is called for every request."),
    )


def _check_parameters(parameters: List[inspect.Parameter]) -> None:
    allowed = (inspect.Parameter.POSITIONAL_OR_KEYWORD, inspect.Parameter.KEYWORD_ONLY)
    if any(p.kind not in allowed for p in parameters):
        raise ScriptError(
            "script_invalid_run",
            "run() cannot accept positional-only arguments, *args, or **kwargs.",
            "Give it named parameters, for example `def run(data):`.",
        )
    if not [p for p in parameters if p.name != "request_headers"]:
        other = ' other than "request_headers"' if parameters else ""
        raise ScriptError(
            "script_invalid_run",
            f"run() needs to accept an argument{other} for input data.",
            "Declare it as `def run(data):`.",
        )


def _value(text: str) -> Any:  # noqa: ANN401  any JSON value
    try:
        return json.loads(text)
    except ValueError:
        return text


def _query(query: str) -> Dict[str, Any]:
    found: Dict[str, List[Any]] = {}
    for name, text in parse_qsl(query, keep_blank_values=True):
        found.setdefault(name, []).append(_value(text))
    return {name: values[0] if len(values) == 1 else values for name, values in found.items()}


def _parse(body: bytes) -> Dict[str, Any]:
    if not body:
        raise BadInput(400, "POST body is empty. Expecting a JSON dictionary.")
    try:
        parsed = json.loads(body)
    except (ValueError, RecursionError) as error:
        raise BadInput(400, f"POST body could not be decoded as JSON: {error}") from None
    if not isinstance(parsed, dict):
        raise BadInput(400, "POST body should be a JSON dictionary.")
    return parsed


def _encode(result: object, milliseconds: float, request_id: str) -> Answer:
    own = type(result) not in _PLAIN_TYPES and hasattr(result, "status_code") and hasattr(result, "get_data")
    try:
        if own:
            return _own_response(result, milliseconds)
        body = json.dumps({} if result is None else result).encode()
    except Exception as error:  # noqa: BLE001  a result is the user's object: reading it may raise anything
        what = "cannot be sent" if own else "is not JSON"
        sys.stderr.write(f"The result of run() for request {request_id} {what}: {_short(error)}\n")
        sys.stderr.flush()
        return message(500, _INTERNAL)
    return Answer(200, TIMED, milliseconds, b"", body)


def _own_response(response: Any, milliseconds: float) -> Answer:  # noqa: ANN401  ours, or one of an installed package
    pairs = [(str(name), str(value)) for name, value in response.headers.items()]
    failed = any(n.lower() == "x-ms-run-function-failed" and v == "True" for n, v in pairs)
    status, body = int(response.status_code), response.get_data()
    if not _FIRST_FINAL <= status <= _LAST_FINAL:
        raise ValueError(f"the status {status} is not one of {_FIRST_FINAL} to {_LAST_FINAL}")
    if not isinstance(body, (bytes, bytearray)):
        raise TypeError(f"get_data() returned {type(body).__name__} and not bytes")
    flags = TIMED | OWN_HEADERS | (RUN_FAILED if failed or status >= _SERVER_ERROR else 0)
    return Answer(status, flags, milliseconds, json.dumps(pairs).encode(), bytes(body))


def _short(error: BaseException) -> str:
    return "".join(traceback.format_exception_only(type(error), error)).strip()


def load(root: str, entry: str) -> Script:
    """Import the script at `entry` (absolute, or below `root`). Raises `ScriptError`."""
    path = os.path.join(root, entry)
    if not os.path.isfile(path):
        raise ScriptError(
            "script_not_found",
            f"The scoring script {entry!r} does not exist in the deployed files.",
            "Name a file that is part of the deployment.",
        )
    for folder in (os.path.dirname(path), root):
        if folder not in sys.path:
            sys.path.insert(0, folder)
    return Script(_import(path))


def _import(path: str) -> ModuleType:
    stem = os.path.splitext(os.path.basename(path))[0]
    name = stem if stem.isidentifier() and stem not in sys.modules else "entry_module"
    spec = importlib.util.spec_from_file_location(name, path)
    if spec is None or spec.loader is None:
        raise ScriptError(
            "script_import_error", f"{os.path.basename(path)} is not a Python file.", "Deploy a .py file."
        )
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    try:
        spec.loader.exec_module(module)
    except SyntaxError as error:
        where = f"{os.path.basename(error.filename or path)}, line {error.lineno}"
        raise ScriptError(
            "script_syntax_error", f"Syntax error in {where}: {error.msg}", "Fix that line.", _syntax(error)
        ) from error
    except BaseException as error:
        raise ScriptError("script_import_error", *_import_failure(error), user_trace(error)) from error
    return module


def _import_failure(error: BaseException) -> Tuple[str, str]:
    what = f"Importing the scoring script raised {_short(error)}"
    if isinstance(error, ModuleNotFoundError):
        return what, f"Add the package that provides {error.name!r} to the environment, or deploy the file."
    return what, "Fix the error that the traceback shows and deploy again."


def _syntax(error: SyntaxError) -> str:
    return _relative("".join(traceback.format_exception_only(type(error), error)))
