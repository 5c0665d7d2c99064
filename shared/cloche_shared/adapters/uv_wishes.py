"""What uv is asked for, as files: requirements, and a project's description where a package has an index of its own."""

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from packaging.utils import canonicalize_name

from cloche_shared.contracts.definition import PythonSection

_HEAD = re.compile(r"[A-Za-z0-9._-]+")


def write_wishes(folder: Path, section: PythonSection, further: Sequence[str] = ()) -> list[Path]:
    """Write what is asked of pip, and `further` requirements; return the files in the order in which uv takes them.

    uv knows an index of one package only as a project's source, so these packages stand in a project of their own.
    The hashes of their requirements are compared when files are chosen.
    """
    indexes = section.pip_options.package_indexes
    apart = {
        line: name for line in section.pip if (name := _name(line)) in indexes and "@" not in line.partition(";")[0]
    }
    source = folder / "requirements.in"
    lines = [*(line for line in section.pip if line not in apart), *further, ""]
    source.write_text("\n".join(lines), encoding="utf-8")
    if not apart:
        return [source]
    project = folder / "wanted" / "pyproject.toml"
    project.parent.mkdir(mode=0o700)
    project.write_text("\n".join(_project(apart, indexes)), encoding="utf-8")
    return [source, project]


def _name(line: str) -> str:
    match = _HEAD.match(line)
    return canonicalize_name(match[0]) if match else ""


def _project(apart: Mapping[str, str], indexes: Mapping[str, str]) -> Iterator[str]:
    names = list(dict.fromkeys(apart.values()))
    wanted = ", ".join(_text(line.partition(" --hash=")[0]) for line in apart)
    yield from ("[project]", 'name = "cloche-wanted-here"', 'version = "0"', f"dependencies = [{wanted}]")
    yield "[tool.uv.sources]"
    yield from (f'{_text(name)} = {{ index = "own{number}" }}' for number, name in enumerate(names))
    for number, name in enumerate(names):
        yield from ("[[tool.uv.index]]", f'name = "own{number}"', f"url = {_text(indexes[name])}", "explicit = true")
    yield ""


def _text(value: str) -> str:
    return json.dumps(value, ensure_ascii=False)
