"""Every code that a caller may meet is explained, and every error says more than its code."""

import ast
import re
from functools import cache
from pathlib import Path

ROOT = Path(__file__).parent.parent.parent
PAGES = ("errors.md", "scoring-contract.md", "definition.md")
KINDS = {
    *("Invalid", "TooLarge", "Unauthenticated", "Forbidden", "NotFound", "Conflict", "Precondition", "Throttled"),
    *("Unavailable", "Failed", "Violation", "Problem", "ScriptError"),
}
INSIDE = {
    *("invalid_process_id", "key_id_taken", "malformed_event", "not_queued", "process_lives", "stale_claim"),
    *("stale_fence", "foreign_owner", "malformed_request", "node_taken"),
}
"""Between services and loops only: no caller ever gets these."""


@cache
def raised() -> dict[str, list[tuple[str, ast.Call]]]:
    """Return where each code is written into an error."""
    found: dict[str, list[tuple[str, ast.Call]]] = {}
    for folder in ("shared", "services", "sdk", "runtime"):
        for path in sorted((ROOT / folder).rglob("*.py")):
            for node in ast.walk(ast.parse(path.read_text())):
                if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id in KINDS:
                    for code in codes_of(node):
                        found.setdefault(code, []).append((f"{path.relative_to(ROOT)}:{node.lineno}", node))
    return found


def codes_of(node: ast.Call) -> list[str]:
    texts = [*node.args[:2], *(one.value for one in node.keywords if one.arg == "code")]
    values = [one.value for one in texts if isinstance(one, ast.Constant) and isinstance(one.value, str)]
    return [value for value in values if re.fullmatch(r"[a-z]+(_[a-z]+)+", value)]


def test_every_code_is_explained() -> None:
    text = "".join((ROOT / "docs" / "reference" / page).read_text() for page in PAGES)
    explained = set(re.findall(r"`([a-z]+(?:_[a-z]+)+)`", text))
    assert {code: raised()[code][0][0] for code in sorted(raised()) if code not in explained | INSIDE} == {}


def test_every_error_says_in_a_sentence_what_failed() -> None:
    assert len(raised()) > 100
    for code, places in raised().items():
        for where, node in places:
            texts = [one.value for one in node.args if isinstance(one, ast.Constant) and isinstance(one.value, str)]
            for text in texts[1:]:
                assert text.startswith(("/", "#")) or text in {"", code} or text.endswith("."), (where, text)
