"""Libraries of a Databricks cluster: kept in files, and refused when registered, because there is no such cluster."""

from dataclasses import dataclass, field


@dataclass(slots=True)
class MavenLibrary:
    """A Maven library."""

    coordinates: str = ""
    repo: str = ""
    exclusions: list[str] = field(default_factory=list)


@dataclass(slots=True)
class PyPiLibrary:
    """A package of PyPI."""

    package: str = ""
    repo: str = ""


@dataclass(slots=True)
class RCranLibrary:
    """A package of CRAN."""

    package: str = ""
    repo: str = ""


@dataclass(slots=True)
class JarLibrary:
    """A JAR file."""

    library: str = ""


@dataclass(slots=True)
class EggLibrary:
    """An egg file."""

    library: str = ""


@dataclass(slots=True)
class DatabricksSection:
    """Libraries that a Databricks cluster would install."""

    maven_libraries: list[MavenLibrary] = field(default_factory=list)
    pypi_libraries: list[PyPiLibrary] = field(default_factory=list)
    rcran_libraries: list[RCranLibrary] = field(default_factory=list)
    jar_libraries: list[JarLibrary] = field(default_factory=list)
    egg_libraries: list[EggLibrary] = field(default_factory=list)


__all__ = ["DatabricksSection", "EggLibrary", "JarLibrary", "MavenLibrary", "PyPiLibrary", "RCranLibrary"]
