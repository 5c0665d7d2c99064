"""Which conda channels a definition may name: those that the operator allows, and none that is never asked."""

from collections.abc import Iterator
from urllib.parse import urlsplit

from cloche_shared.contracts.definition import PythonSection
from cloche_shared.definitions.conda import canonical_channel
from cloche_shared.errors import Violation
from cloche_shared.store.addresses import reach_of


def channel_faults(section: PythonSection, permitted: tuple[str, ...] | None) -> Iterator[Violation]:
    """Yield a violation for each channel that may not be asked; `permitted` are names or addresses (None: any)."""
    known = None if permitted is None else {canonical_channel(channel) for channel in permitted}
    for number, channel in enumerate(section.conda.channels if section.conda else ()):
        pointer = f"/python/conda/channels/{number}"
        host = urlsplit(channel).hostname or "" if "://" in channel else ""
        if _is_never_asked(host):
            yield Violation(pointer, "channel_not_allowed", f"{host} is an address that is never asked.")
        elif known is not None and channel not in known:
            detail = f"{channel} is not among the conda channels that the operator allows (registry.allowed_channels)."
            yield Violation(pointer, "channel_not_allowed", detail)


def _is_never_asked(host: str) -> bool:
    try:
        return reach_of(host) == "never"
    except ValueError:
        return False
