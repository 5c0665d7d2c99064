"""What the front asks of each request: hosts, origins, bodies, paths that need no credential."""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Final

from cloche_shared.errors import ClocheError, Forbidden, Invalid
from cloche_shared.http.proxies import Proxies

KIB: Final = 1024
MIB: Final = 1024 * KIB
GIB: Final = 1024 * MIB

OPEN_PATHS: Final = frozenset(
    {
        "/",
        "/favicon.ico",
        "/livez",
        "/readyz",
        "/healthz",
        "/version",
        "/openapi.json",
        "/docs",
        "/docs/errors",
        "/docs/page.js",
        "/docs/page.css",
    }
)
LOOPBACK_HOSTS: Final = frozenset({"localhost", "127.0.0.1", "[::1]"})
_REMEMBERED_HOSTS: Final = 64


@dataclass(frozen=True, slots=True)
class BodyRule:
    """How large a body may be in bytes, which media types it may have, and how slowly it may come.

    `media_types` None: any. `idle_s`: seconds without a byte. `rate`: bytes per second that it must come
    with at least, over each `idle_s` that was spent waiting for it.
    """

    limit: int = MIB
    media_types: frozenset[str] | None = frozenset({"application/json"})
    idle_s: float = 30.0
    rate: float = KIB


UPLOAD: Final = BodyRule(limit=2 * GIB, media_types=None)
"""A file that is streamed: 2 GiB of any type."""


@dataclass(frozen=True, slots=True)
class RouteRule:
    """A body rule for the paths that start with `prefix` and end with `suffix`."""

    prefix: str
    rule: BodyRule
    suffix: str = ""


@dataclass(frozen=True, slots=True)
class FrontPolicy:
    """Settings of the front. Hosts are names without a port; origins are whole (`https://ui.example`).

    `requests_per_s` is what one key may ask for; 0: any. `proxies` stand in front.
    """

    hosts: frozenset[str] = LOOPBACK_HOSTS
    origins: frozenset[str] = frozenset()
    body: BodyRule = BodyRule()
    routes: tuple[RouteRule, ...] = ()
    open_paths: frozenset[str] = OPEN_PATHS
    requests_per_s: float = 0.0
    proxies: Proxies = field(default_factory=Proxies)

    def body_rule(self, path: str) -> BodyRule:
        """Return the rule of a path: the first that matches, else the default."""
        for route in self.routes:
            if path.startswith(route.prefix) and path.endswith(route.suffix):
                return route.rule
        return self.body


def host_name(value: str) -> str:
    """Return the name in a Host header, lower-cased, without the port."""
    value = value.strip().lower()
    if value.startswith("["):
        return value.partition("]")[0] + "]"
    return value.partition(":")[0]


class HostCheck:
    """Refuses requests for hosts and from origins that are not ours (DNS rebinding)."""

    def __init__(self, policy: FrontPolicy) -> None:
        self._policy = policy
        self._good: set[bytes] = set()

    def host(self, header: bytes | None) -> ClocheError | None:
        """Return why the Host header is refused, or None."""
        if header in self._good:
            return None
        if not header:
            return Invalid("missing_host", "The request has no Host header.")
        if host_name(header.decode("latin-1")) not in self._policy.hosts:
            return Invalid(
                "bad_host",
                "This server does not answer for that host name.",
                why="Only names that it was told are answered, so that no web page can rebind a name to it.",
                todo="Use the address that `cloche status` shows, or add the name to `http.hosts`.",
            )
        if len(self._good) < _REMEMBERED_HOSTS:
            self._good.add(header)
        return None

    def origin(self, origin: bytes, host: bytes) -> ClocheError | None:
        """Return why the Origin header of a mutating request is refused, or None."""
        text = origin.decode("latin-1").lower()
        own = host.decode("latin-1").lower()
        if text in {f"http://{own}", f"https://{own}"} or text in self._policy.origins:
            return None
        return Forbidden(
            "bad_origin",
            "A web page of another origin may not change anything here.",
            todo="Add the page's origin to `http.origins` if it is yours.",
        )


def media_type_error(header: bytes | None, rule: BodyRule) -> ClocheError | None:
    """Return why the Content-Type is refused, or None."""
    if rule.media_types is None or header == b"application/json":
        return None
    given = (header or b"").decode("latin-1").partition(";")[0].strip().lower()
    if given in rule.media_types or (given.endswith("+json") and "application/json" in rule.media_types):
        return None
    return Invalid(
        "unsupported_media_type",
        "The body's media type is not taken here.",
        why=f"It must be {' or '.join(sorted(rule.media_types))}.",
        todo="Set the Content-Type header.",
    )


def accept_error(header: bytes, given: frozenset[str]) -> ClocheError | None:
    """Return why a route that gives these media types cannot meet an Accept header, or None."""
    wanted = {part.partition(";")[0].strip().lower() for part in header.decode("latin-1").split(",")} - {""}
    ranges = {f"{media.partition('/')[0]}/*" for media in given}
    if not wanted or not given or not wanted.isdisjoint(given | ranges | {"*/*"}):
        return None
    return Invalid(
        "not_acceptable",
        "The answer has none of the media types that the Accept header asks for.",
        why=f"This route gives {' or '.join(sorted(given))}.",
        todo="Ask for that, or leave the header out.",
    )


IsOpen = Callable[[str], bool]
