"""Which environment variables a user may set for runs and scoring workers."""

import re
from collections.abc import Mapping

from cloche_shared.errors import Invalid, Violation

MAX_VALUE_BYTES = 32 * 1024
MAX_VARIABLES = 256

_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]{0,127}")
_RESERVED_PREFIXES = ("LD_", "DYLD_", "DOCKER_", "NVIDIA_", "CLOCHE_")
_RESERVED = frozenset(
    {
        "PATH",
        "PYTHONPATH",
        "PYTHONHOME",
        "PYTHONSTARTUP",
        "PYTHONUSERBASE",
        "PYTHONEXECUTABLE",
        "PYTHONPLATLIBDIR",
        "PYTHONPYCACHEPREFIX",
        "PYTHONSAFEPATH",
        "VIRTUAL_ENV",
        "CUDA_VISIBLE_DEVICES",
        "AZUREML_MODEL_DIR",
        "BASH_ENV",
        "ENV",
        "IFS",
        "SHELLOPTS",
    }
)


_STEERS = re.compile(
    r"(UV|PIP|GIT|SSL|XDG|CONDA|RATTLER|NETRC|CURL|REQUESTS)(_.*)?|.*_PROXY|HOME|TMPDIR|TEMP|TMP|USER|PYTHON.*",
    re.IGNORECASE,
)


def steers_builds(name: str) -> bool:
    """Tell whether a variable changes what fetches and builds packages, besides the packages' own build."""
    return _STEERS.fullmatch(name) is not None


def is_reserved(name: str) -> bool:
    """Tell whether Cloche, the loader or the interpreter gives the variable its meaning."""
    upper = name.upper()
    return upper in _RESERVED or upper.startswith(_RESERVED_PREFIXES)


def _pointer(name: str) -> str:
    return "/variables/" + name.replace("~", "~0").replace("/", "~1")[:256]


def _violation(name: str, value: str) -> Violation | None:
    pointer = _pointer(name)
    if not _NAME.fullmatch(name):
        detail = "A name starts with a letter or underscore and has at most 128 letters, digits and underscores."
        return Violation(pointer, "invalid_variable", detail)
    if is_reserved(name):
        return Violation(pointer, "reserved_variable", f"{name} is set by Cloche or steers the process itself.")
    if "\0" in value or _size(value) > MAX_VALUE_BYTES:
        return Violation(pointer, "invalid_variable", f"The value of {name} holds a NUL or is over 32 KiB.")
    return None


def _size(value: str) -> int:
    return len(value.encode("utf-8", "surrogatepass"))


def check_variables(variables: Mapping[str, str]) -> None:
    """Refuse variables that could not be passed on or would change more than the user's code.

    Raises `Invalid` with the code `invalid_variable` or `reserved_variable` and a violation each.
    """
    if len(variables) > MAX_VARIABLES:
        raise Invalid("invalid_variable", f"There are more than {MAX_VARIABLES} variables.")
    found = [violation for name, value in variables.items() if (violation := _violation(name, value))]
    if found:
        raise Invalid(
            found[0].code,
            "The environment variables cannot be used as given.",
            why=found[0].detail,
            todo="Rename or remove it.",
            violations=found,
        )
