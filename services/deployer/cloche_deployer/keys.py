"""Keys of services. Events hold only their generations: a key is derived, never stored.

HMAC-SHA-256 under the installation's pepper over project, name, incarnation, which key, and its
generation; 192 bits of it are the key. A new generation is a new key, and a service that is made
again under an old name has other keys.
"""

import base64
import hmac
from hashlib import sha256

from cloche_deployer.domain import ServiceState
from cloche_deployer.scoring.http import KEY_PREFIX

KEY_BYTES = 24
_TEXT = "cloche-service-key-v1"


def keys_of(pepper: bytes, project: str, name: str, state: ServiceState) -> dict[str, str]:
    """Return the present keys by name."""
    return {which: _key(pepper, project, name, state.incarnation, which, gen) for which, gen in state.keys.items()}


def _key(pepper: bytes, project: str, name: str, incarnation: int, which: str, generation: int) -> str:
    message = "\0".join((_TEXT, project, name, str(incarnation), which, str(generation)))
    raw = hmac.new(pepper, message.encode(), sha256).digest()[:KEY_BYTES]
    return KEY_PREFIX + base64.urlsafe_b64encode(raw).decode()
