"""Package indexes that a definition may name.

An address is shown to whoever may read the environment and travels in events, so it holds no
credentials. Link-local addresses, where clouds answer with their own credentials, are never asked;
private and loopback hosts are, because that is where teams keep their indexes. An operator may allow
certain indexes only (security rules 10 and 44). Here an address is judged by its text; before it is
asked, what its name resolves to is judged too.
"""

import re
from collections.abc import Iterable
from urllib.parse import urlsplit

from cloche_shared.contracts.definition import PipOptions
from cloche_shared.errors import Invalid, Violation
from cloche_shared.store.addresses import is_disguised, reach_of

MAX_LENGTH = 2048
_NO_ADDRESS = re.compile(r"[\s\x00-\x20\x7f\\`]|\$\{|\$\(")


def check_indexes(options: PipOptions, *, pointer: str, allowed: Iterable[str] | None = None) -> None:
    """Refuse indexes that may not be asked; `pointer` is where the options stand in the request.

    Raises `Invalid`: `invalid_index`, `credentials_in_url`, `index_not_allowed`.
    """
    found = [("index_url", options.index_url)] if options.index_url is not None else []
    found += [(f"extra_index_urls/{number}", url) for number, url in enumerate(options.extra_index_urls)]
    permitted = None if allowed is None else {_plain(url) for url in allowed}
    violations = [
        Violation(f"{pointer}/{place}", code, detail)
        for place, url in found
        for code, detail in [_fault(url, permitted)]
        if code
    ]
    if violations:
        first = violations[0]
        raise Invalid(
            first.code,
            "A package index of the definition may not be used.",
            why=first.detail,
            todo=_TODO[first.code],
            violations=violations,
        )


_TODO = {
    "invalid_index": "Give the index's http or https address as it is.",
    "credentials_in_url": "Leave user name and password out; use an index that this machine may read without them.",
    "index_not_allowed": "Use one of the allowed indexes, or ask the operator (registry.allowed_indexes).",
}


def _fault(url: str, permitted: set[str] | None) -> tuple[str, str]:
    try:
        parts = urlsplit(url)
        host, port = parts.hostname or "", parts.port
    except ValueError:
        host, port = "", 0
    if len(url) > MAX_LENGTH or _NO_ADDRESS.search(url) or not host or port == 0:
        return "invalid_index", "The address of the index cannot be read, or holds characters that no address has."
    if parts.scheme.lower() not in {"http", "https"}:
        return "invalid_index", "The address of an index begins with http:// or https://."
    if parts.username is not None or parts.password is not None:
        return "credentials_in_url", "Whoever may read the environment would read the credentials in the address."
    return _host_fault(host) or _permission_fault(url, host, permitted)


def _host_fault(host: str) -> tuple[str, str] | None:
    if is_disguised(host):
        return "invalid_index", "The host of the index is written in a way that hides which one it is."
    if _never(host):
        return "index_not_allowed", f"{host} is an address that is never asked."
    return None


def _permission_fault(url: str, host: str, permitted: set[str] | None) -> tuple[str, str]:
    if permitted is not None and _plain(url) not in permitted:
        return "index_not_allowed", f"{host} is not among the indexes that the operator allows."
    return "", ""


def _plain(url: str) -> str:
    return url.rstrip("/").lower()


def _never(host: str) -> bool:
    try:
        return reach_of(host) == "never"
    except ValueError:
        return False
