"""Which format a file has, by its name and what it holds."""

from collections.abc import Callable, Mapping
from typing import Any, Final

from cloche._errors import NotFound
from cloche.formats.reading import Imported, ReadFile, invalid

FORMATS: Final = (
    "cloche",
    "conda",
    "requirements",
    "pyproject",
    "pylock",
    "uv-lock",
    "azure-v1",
    "azure-v2",
    "python-env",
    "cog",
)
_BY_NAME: Final = {
    "cloche.yaml": "cloche",
    "cloche.yml": "cloche",
    "conda.yaml": "conda",
    "conda.yml": "conda",
    "conda_dependencies.yml": "conda",
    "environment.yml": "conda",
    "python_env.yaml": "python-env",
    "cog.yaml": "cog",
    "pyproject.toml": "pyproject",
    "uv.lock": "uv-lock",
    "azureml_environment.json": "azure-v1",
}
_ENDINGS: Final = {".txt": "requirements", ".in": "requirements", ".json": "cloche"}


def format_of(name: str, text: str) -> str:
    """Return the format of a file. Raises `Invalid` (`unknown_format`, or as YAML is read)."""
    lower = name.lower()
    if lower in _BY_NAME:
        return _BY_NAME[lower]
    if lower.startswith("pylock") and lower.endswith(".toml"):
        return "pylock"
    ending = lower[lower.rfind(".") :] if "." in lower else ""
    if ending in {".yaml", ".yml"}:
        return _of_yaml(text)
    if ending in _ENDINGS:
        return _ENDINGS[ending]
    raise invalid(
        "unknown_format", f"What {name} holds cannot be told by its name.", "", "", f"Say it: {', '.join(FORMATS)}."
    )


def _of_yaml(text: str) -> str:
    from cloche.formats.yaml_text import read_yaml  # noqa: PLC0415 - only for such files

    data = read_yaml(text).data
    members = set(data) if isinstance(data, Mapping) else set()
    schema = str(data.get("$schema", "")) if isinstance(data, Mapping) else ""
    if "azuremlschemas" in schema or members & {"image", "conda_file", "inference_config"}:
        return "azure-v2"
    if "build" in members:
        return "cog" if "path" not in str(data) or "predict" in members else "azure-v2"
    if members & {"dependencies", "channels"}:
        return "python-env" if members & {"python", "build_dependencies"} else "conda"
    return "cloche"


def read_as(kind: str, text: str, read: ReadFile, name: str = "") -> Imported:
    """Return what a file of a format says; `read` gives files that lie beside it.

    Raises `Invalid` with the format's codes.
    """
    readers = _readers(read, name)
    if kind not in readers:
        raise invalid("unknown_format", f"There is no format {kind!r}.", "", "", f"Choose: {', '.join(FORMATS)}.")
    return readers[kind](text)


def _readers(read: ReadFile, name: str) -> Mapping[str, Callable[[str], Imported]]:
    from cloche.formats import azure_v1, cloche_yaml, conda_yaml, others, requirements_txt, toml_files  # noqa: PLC0415

    return {
        "cloche": cloche_yaml.read_cloche,
        "conda": conda_yaml.read_conda,
        "requirements": lambda text: requirements_txt.read_requirements(_inlined(name, text, read)),
        "pyproject": toml_files.read_pyproject,
        "pylock": toml_files.read_pylock,
        "uv-lock": toml_files.read_uv_lock,
        "azure-v1": lambda text: azure_v1.read_azure_v1(_beside(text, read)),
        "azure-v2": lambda text: others.read_azure_v2(text, read),
        "python-env": lambda text: others.read_python_env(text, read),
        "cog": lambda text: others.read_cog(text, read),
    }


def _inlined(name: str, text: str, read: ReadFile) -> str:
    from cloche_shared.store.requirements import inline_includes  # noqa: PLC0415 - only for such files

    own = name or "requirements.txt"
    return inline_includes(own, lambda path: text if path == own else read(path))


def _beside(text: str, read: ReadFile) -> dict[str, str]:
    from cloche.formats.azure_v1 import CONDA, DOCKERFILE, MAIN  # noqa: PLC0415 - only for such files

    files: dict[str, Any] = {MAIN: text}
    for name in (CONDA, DOCKERFILE):
        try:
            files[name] = read(name)
        except (OSError, NotFound):
            continue
    return files
