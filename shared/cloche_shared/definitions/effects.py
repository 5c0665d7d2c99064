"""What each attribute of a definition does, or with which code it is refused until it can.

The one table that REST, command line and the reference page (docs/reference/definition.md) have it from.
An attribute that is accepted has an effect and a test of it; anything else is refused when it says
anything but its default. So nothing is accepted and ignored.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

from cloche_shared.contracts.definition import Definition
from cloche_shared.errors import Violation


@dataclass(frozen=True, slots=True)
class Attribute:
    """`effect` is what it does, `test` the test of that (`file::name`), `code` what it is refused with now."""

    effect: str
    test: str = ""
    code: str = ""
    hashed: bool = True


def _now(effect: str, test: str, *, hashed: bool = True) -> Attribute:
    return Attribute(effect, test=test, hashed=hashed)


def _later(code: str, effect: str, *, hashed: bool = True) -> Attribute:
    return Attribute(effect, code=code, hashed=hashed)


REASONS: Final = {
    "base_environment_not_available": "This server starts from no other conda environment yet.",
    "user_managed_not_available": "This server does not start interpreters of the user's own yet.",
    "images_not_available": "This server runs environments as folders on its nodes, not in containers, yet.",
    "platform_not_available": "This server makes environments for its own platform only.",
    "spark_not_available": "There is no Spark here that could take the packages.",
    "databricks_not_available": "There is no Databricks cluster here that could take the libraries.",
    "apt_not_available": "System packages need an image, and this server does not make images yet.",
    "inferencing_stack_not_available": "Scoring here brings a server of its own; no other stack is installed.",
}
"""Why, for each code with which an attribute is refused."""
TODO: Final = "Leave it out, or keep this definition in its file until the server can do it."

_RESOLVER: Final = "tests/contract/test_resolver.py"
_OPTIONS: Final = "tests/contract/test_pip_options.py"
_CONDA: Final = "tests/integration/test_conda_builds.py"
_RULES: Final = "tests/unit/test_definition_rules.py"
_E2E: Final = "tests/e2e/test_environments.py"
_WHEELS: Final = "tests/e2e/test_wheels.py"

ATTRIBUTES: Final[Mapping[str, Attribute]] = {
    "/python/version": _now("the interpreter", f"{_RESOLVER}::test_a_python_that_is_not_here_lists_what_is"),
    "/python/pip": _now("packages that pip would install", f"{_E2E}::test_packages_of_the_environment_can_be_imported"),
    "/python/pip_options/index_url": _now(
        "replaces the default index", f"{_RESOLVER}::test_an_index_that_is_not_there_is_unreachable"
    ),
    "/python/pip_options/extra_index_urls": _now(
        "indexes that are asked after the first", f"{_OPTIONS}::test_what_the_first_index_lacks_comes_from_the_next"
    ),
    "/python/pip_options/pre": _now(
        "pre-releases are taken", f"{_OPTIONS}::test_pre_releases_are_taken_where_they_are_wanted"
    ),
    "/python/pip_options/no_binary": _now(
        "built from source", f"{_OPTIONS}::test_a_package_is_built_where_no_wheel_is_wanted"
    ),
    "/python/pip_options/only_binary": _now(
        "never built from source", f"{_OPTIONS}::test_nothing_is_built_where_wheels_are_wanted"
    ),
    "/python/pip_options/require_hashes": _now(
        "each has its hash", f"{_RESOLVER}::test_required_hashes_must_be_given_for_all"
    ),
    "/python/pip_options/package_indexes": _now(
        "the one index of a package", f"{_OPTIONS}::test_a_package_comes_from_its_own_index_alone"
    ),
    "/python/conda/packages": _now(
        "packages from conda channels", f"{_CONDA}::test_conda_packages_make_an_environment_without_pip"
    ),
    "/python/conda/channels": _now(
        "channels, in the order in which they are asked",
        "tests/contract/test_conda_solver.py::test_a_package_comes_from_the_first_channel_that_has_it",
    ),
    "/python/conda/base_environment": _later("base_environment_not_available", "an environment to start from"),
    "/python/wheels": _now(
        "private wheels by content", f"{_WHEELS}::test_a_private_wheel_and_what_it_needs_arrive_in_runs"
    ),
    "/python/user_managed": _later("user_managed_not_available", "nothing is installed"),
    "/python/interpreter_path": _later("user_managed_not_available", "what starts a user-managed environment"),
    "/docker/enabled": _later("images_not_available", "a container on the target `local`", hashed=False),
    "/docker/base_image": _later("images_not_available", "the image below the packages"),
    "/docker/dockerfile": _later("images_not_available", "built first, the packages go on top"),
    "/docker/build_context": _later("images_not_available", "a folder to build from"),
    "/docker/registry/address": _later("images_not_available", "where the base image is"),
    "/docker/registry/username_secret": _later("images_not_available", "the secret with the user name", hashed=False),
    "/docker/registry/password_secret": _later("images_not_available", "the secret with the password", hashed=False),
    "/docker/gpu_support": _later("images_not_available", "takes the base image for GPUs"),
    "/docker/shm_size": _later("images_not_available", "size of /dev/shm", hashed=False),
    "/docker/arguments/cpus": _later("images_not_available", "CPUs of the container", hashed=False),
    "/docker/arguments/memory": _later("images_not_available", "memory of the container", hashed=False),
    "/docker/arguments/ulimits": _later("images_not_available", "limits of the container", hashed=False),
    "/docker/platform": _now(
        "the platform; another than the server's is refused (`platform_not_available`)",
        f"{_RULES}::test_the_servers_own_platform_may_be_named",
    ),
    "/spark/repositories": _later("spark_not_available", "repositories, in the order in which they are asked"),
    "/spark/packages": _later("spark_not_available", "libraries by Maven coordinates"),
    "/spark/precache_packages": _later("spark_not_available", "libraries are put into the image"),
    "/databricks/maven_libraries": _later("databricks_not_available", "Maven libraries", hashed=False),
    "/databricks/pypi_libraries": _later("databricks_not_available", "packages of PyPI", hashed=False),
    "/databricks/rcran_libraries": _later("databricks_not_available", "packages of CRAN", hashed=False),
    "/databricks/jar_libraries": _later("databricks_not_available", "JAR files", hashed=False),
    "/databricks/egg_libraries": _later("databricks_not_available", "egg files", hashed=False),
    "/apt": _later("apt_not_available", "packages of the image's system"),
    "/build_variables": _now(
        "set while packages are built", f"{_OPTIONS}::test_variables_of_the_build_reach_the_packages_build"
    ),
    "/inferencing_stack_version": _later(
        "inferencing_stack_not_available", "a scoring stack in the image", hashed=False
    ),
    "/variables": _now(
        "set in runs and scoring workers",
        f"{_E2E}::test_variables_of_the_environment_reach_runs_and_scoring_workers",
        hashed=False,
    ),
    "/description": _now(
        "shown; part of the version",
        f"{_RULES}::test_tags_make_a_version_but_not_another_hash",
        hashed=False,
    ),
    "/tags": _now(
        "shown; part of the version",
        f"{_RULES}::test_tags_make_a_version_but_not_another_hash",
        hashed=False,
    ),
}
"""Every attribute by its JSON pointer, in the order of the contract."""


def refusals(definition: Definition, platform: str) -> list[Violation]:
    """Return one violation for each attribute that says something which cannot take effect here."""
    said = definition.model_dump(exclude_defaults=True)
    found = [
        Violation(pointer, attribute.code, REASONS[attribute.code])
        for pointer, attribute in ATTRIBUTES.items()
        if attribute.code and _is_said(said, pointer)
    ]
    wanted = definition.docker.platform if definition.docker else None
    if wanted not in {None, platform}:
        detail = f"{REASONS['platform_not_available']} It is {platform}."
        found.append(Violation("/docker/platform", "platform_not_available", detail))
    return found


def _is_said(said: object, pointer: str) -> bool:
    for name in pointer[1:].split("/"):
        if not isinstance(said, dict) or name not in said:
            return False
        said = said[name]
    return True
