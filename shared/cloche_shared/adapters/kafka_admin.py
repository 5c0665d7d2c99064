"""Users and rights at a Kafka broker, for who may administer it.

A password does not leave this process: the broker is sent the salted hash that SCRAM is checked by.
"""

import hashlib
import os
from collections.abc import Sequence
from contextlib import suppress
from typing import Any, Final

from aiokafka.admin import AIOKafkaAdminClient
from aiokafka.errors import KafkaError, for_code
from aiokafka.protocol.admin import CreateAclsRequest_v1
from aiokafka.protocol.api import Request, RequestStruct, Response
from aiokafka.protocol.types import (
    CompactArray,
    CompactBytes,
    CompactString,
    Int8,
    Int16,
    Int32,
    Schema,
    TaggedFields,
)

from cloche_shared.adapters.kafka_bus import KafkaBus
from cloche_shared.bus.rights import Operation, Resource, Right
from cloche_shared.errors import Invalid, Unavailable

ITERATIONS: Final = 8192
_SCRAM_SHA_512: Final = 2
_ALLOW: Final = 3
_LITERAL: Final = 3
_PREFIXED: Final = 4
_ANYWHERE: Final = "*"
_RESOURCES: Final = {Resource.TOPIC: 2, Resource.GROUP: 3}
_OPERATIONS: Final = {Operation.READ: 3, Operation.WRITE: 4, Operation.CREATE: 5}


class _CredentialsAltered(Response):  # type: ignore[misc]  # aiokafka has no types
    API_KEY = 51
    API_VERSION = 0
    SCHEMA = Schema(
        ("throttle_time_ms", Int32),
        (
            "results",
            CompactArray(
                ("user", CompactString("utf-8")),
                ("error_code", Int16),
                ("error_message", CompactString("utf-8")),
                ("tags", TaggedFields),
            ),
        ),
        ("tags", TaggedFields),
    )


class _AlterCredentialsStruct(RequestStruct):  # type: ignore[misc]  # as above
    """AlterUserScramCredentials, version 0 (KIP-554)."""

    FLEXIBLE_VERSION = True
    API_KEY = 51
    API_VERSION = 0
    RESPONSE_TYPE = _CredentialsAltered
    SCHEMA = Schema(
        (
            "deletions",
            CompactArray(("name", CompactString("utf-8")), ("mechanism", Int8), ("tags", TaggedFields)),
        ),
        (
            "upsertions",
            CompactArray(
                ("name", CompactString("utf-8")),
                ("mechanism", Int8),
                ("iterations", Int32),
                ("salt", CompactBytes),
                ("salted_password", CompactBytes),
                ("tags", TaggedFields),
            ),
        ),
        ("tags", TaggedFields),
    )


class _AlterCredentials(Request[_AlterCredentialsStruct]):  # type: ignore[misc]  # as above
    API_KEY = 51

    def __init__(self, passwords: dict[str, str]) -> None:
        self._passwords = passwords

    def build(self, request_struct_class: type[_AlterCredentialsStruct]) -> _AlterCredentialsStruct:
        return request_struct_class([], [_credential(*one) for one in sorted(self._passwords.items())], {})


def _credential(user: str, password: str) -> tuple[str, int, int, bytes, bytes, dict[int, bytes]]:
    salt = os.urandom(32)
    salted = hashlib.pbkdf2_hmac("sha512", password.encode(), salt, ITERATIONS)
    return user, _SCRAM_SHA_512, ITERATIONS, salt, salted, {}


class _CreateAcls(Request[CreateAclsRequest_v1]):  # type: ignore[misc]  # as above
    API_KEY = 30

    def __init__(self, rights: Sequence[Right]) -> None:
        self._rights = rights

    def build(self, request_struct_class: type[CreateAclsRequest_v1]) -> CreateAclsRequest_v1:
        return request_struct_class([_acl(right) for right in self._rights])


def _acl(right: Right) -> tuple[int, str, int, str, str, int, int]:
    pattern = _PREFIXED if right.prefixed else _LITERAL
    who, kind, what = f"User:{right.user}", _RESOURCES[right.resource], _OPERATIONS[right.operation]
    return kind, right.name, pattern, who, _ANYWHERE, what, _ALLOW


class KafkaAdmin:
    """Users and rights. `bus` says where the broker is, and as whom to talk to it."""

    def __init__(self, bus: KafkaBus) -> None:
        self._bus = bus

    async def set_passwords(self, passwords: dict[str, str]) -> None:
        """Let users sign in by SCRAM-SHA-512; who is known already gets a new password.

        Raises `Unavailable` (`bus_unavailable`), `Invalid` (`bus_refused`).
        """
        answer = await self._send(_AlterCredentials(passwords))
        for user, code, _, _ in answer.results:
            _check(code, f"a password for {user}")

    async def grant(self, rights: Sequence[Right]) -> None:
        """Allow what is listed; what is allowed already stays so. Raises as `set_passwords`."""
        answer = await self._send(_CreateAcls(rights))
        for right, (code, _) in zip(rights, answer.creation_responses, strict=True):
            _check(code, f"{right.user} to {right.operation} {right.name}")

    async def _send(self, request: Request[Any]) -> Any:  # noqa: ANN401 - aiokafka has no types
        admin = AIOKafkaAdminClient(**self._bus.options())
        try:
            await admin.start()
            return await admin._send_to_controller(request)  # noqa: SLF001 - it has no method for these requests
        except (KafkaError, TimeoutError, OSError) as error:
            raise Unavailable(
                "bus_unavailable",
                "The message broker does not answer.",
                why=type(error).__name__,
                todo="Try again; nothing was lost.",
            ) from error
        finally:
            with suppress(KafkaError, OSError, AttributeError):
                await admin.close()


def _check(code: int, what: str) -> None:
    if code:
        raise Invalid(
            "bus_refused",
            f"The message broker does not grant {what}.",
            why=str(for_code(code).__name__),
            todo="See that the user is an administrator of the broker, and that it has an authorizer.",
        )
