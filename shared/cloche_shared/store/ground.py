"""Below pip's packages lies what conda chose: how uv is told of it, and what it says where that does not fit.

Each Python distribution that conda brings is shown to uv as a wheel without content that is the only one of
its name. So what pip brings is chosen to fit it, never replaces it, and never comes a second time.
"""

import re
from collections.abc import Collection, Sequence

from packaging.utils import canonicalize_name

from cloche_shared.errors import Failed
from cloche_shared.ports.resolver import Distribution

_BLOCK = re.compile(r"(?m)^\[\[packages\]\]$")
_NAME = re.compile(r'(?m)^name = "([^"]+)"$')


def without_ground(pylock: str, names: Collection[str]) -> str:
    """Return a `pylock.toml` without the packages that conda brings."""
    head, *blocks = _BLOCK.split(pylock)
    kept = [block for block in blocks if not ((name := _NAME.search(block)) and canonicalize_name(name[1]) in names)]
    return "[[packages]]".join([head, *kept]).rstrip() + "\n"


def ground_clash(
    lines: Sequence[str], requirements: Sequence[str], distributions: Sequence[Distribution]
) -> Failed | None:
    """Return the error when pip's packages need another version of something than conda chose."""
    text = re.sub(r"\s+", " ", " ".join(lines))
    if "unsatisfiable" not in text and "cannot be used" not in text:
        return None
    found = [
        one for one in distributions if re.search(rf"(?:only|no versions? of) {re.escape(one.name)}(?![\w.-])", text)
    ]
    if not found:
        return None
    first = found[0]
    named = [line for line in requirements if re.search(rf"(?<![\w.-]){_stem(line)}(?![\w-])", text)]
    return Failed(
        "solver_conflict",
        f"pip's packages need another {first.name} than the {first.version} that conda chose"
        + (f": {', '.join(named)}." if named else "."),
        why=text[text.find("Because ") :][:2000].strip(),
        todo=f"Pin {first.package} among the conda packages to a version that fits, or take it from one side alone.",
        extra={"package": first.name, "requirements": named},
    )


def _stem(requirement: str) -> str:
    match = re.match(r"[A-Za-z0-9._-]+", requirement)
    return re.escape(canonicalize_name(match[0])) if match else r"\b\B"
