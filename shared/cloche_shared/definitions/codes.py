"""The codes with which a definition is refused or warned about before anything runs."""

from collections.abc import Mapping
from typing import Final

ERRORS: Final[Mapping[str, str]] = {
    "reserved_name": "the name begins as those of curated environments do",
    "invalid_name": "the name is too long, or holds characters that names have not",
    "invalid_requirement": "a line is no requirement of PEP 508",
    "requirement_option": "an option of pip that is not available, or a path or repository instead of a package",
    "url_not_allowed": "the direct address of a wheel is not that of a public host",
    "invalid_index": "the address of an index cannot be read",
    "index_not_allowed": "the index is one that is never asked, or none of those that the operator allows",
    "channel_not_allowed": "the conda channel is one that is never asked, or none of those that the operator allows",
    "package_index_unused": "an index is named for a package that is not asked of pip",
    "credentials_in_url": "an address holds a user name or password",
    "invalid_conda_spec": "a conda specification, or the file that holds it, cannot be read",
    "invalid_channel": "a channel is neither a name nor an http(s) address",
    "channels_missing": "conda packages are asked for, and no channel is named",
    "channels_unused": "channels are named, and no conda packages are asked for",
    "python_twice": "the interpreter is named twice",
    "python_misplaced": "one version of Python is named among the conda packages",
    "python_invalid": "the Python version cannot be read",
    "interpreter_unused": "an interpreter is named that would not be used",
    "user_managed_packages": "packages are named for an environment into which nothing is installed",
    "docker_several": "more than one of base image, Dockerfile and build context",
    "docker_image_missing": "an environment of the user's own in a container, and no image that could have it",
    "invalid_image": "the base image is no reference of an image",
    "invalid_registry": "the address of the registry cannot be read",
    "registry_credentials": "user name without password, or the other way round",
    "unsafe_path": "the Dockerfile's path leads out of the build context",
    "argument_not_allowed": "an argument of the container that may not be set",
    "invalid_package": "a system package or Spark package whose name cannot be read",
    "invalid_wheel": "a private wheel whose file name is none of a wheel",
    "wheel_not_found": "a private wheel that was not uploaded to the project",
    "invalid_variable": "a variable that cannot be passed on",
    "reserved_variable": "a variable that Cloche, the loader or the interpreter gives its meaning",
    "invalid_value": "a value with characters that it may not hold",
    "invalid_field": "a member of the document has another type, or is over a limit (a Dockerfile has 100 KiB)",
    "unknown_field": "a member that definitions have not",
}
WARNINGS: Final[Mapping[str, str]] = {
    "python_open": "no Python version is named",
    "python_unsupported": "the Python version is older than what Cloche's runtime needs",
    "unpinned": "the version of a package is open",
    "image_moves": "the base image has neither tag nor digest, or the tag `latest`",
    "image_retired": "the base image is one that its publisher gave up",
}
FILES: Final[Mapping[str, str]] = {
    "invalid_yaml": "the file is no YAML, or more than data: tags, aliases, a member twice, too deep, too large",
    "invalid_azure": "an environment of Azure ML that cannot be read",
    "build_context_elsewhere": "a build context whose files are not here: upload them",
    "invalid_pyproject": "a `pyproject.toml` without what is needed of it",
    "invalid_lock": "a `pylock.toml` or `uv.lock` that cannot be read",
    "invalid_python_env": "a `python_env.yaml` of MLflow that cannot be read",
    "invalid_cog": "a `cog.yaml` that cannot be read",
    "invalid_conda_environment": "a folder that is no conda environment",
    "conda_environment_not_found": "no conda environment of that name is here",
    "unknown_format": "a file whose format neither its name nor its content tells",
    "file_outside": "a file names another one outside its folder",
    "file_not_found": "there is no such file",
    "file_not_text": "a file that is not in UTF-8",
    "file_too_large": "a file over the limit of what is read",
    "name_missing": "neither the file nor the command names the environment",
}
"""The codes with which a file of another format is refused, before it is a definition."""
USES: Final[Mapping[str, str]] = {
    "environment_in_use": "runs, services or models use the environment: it is not deleted, `uses` names them",
}
"""The codes of an environment's life that have to do with who uses it."""
