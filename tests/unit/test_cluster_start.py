"""What a service's process refuses at its start, and what its readiness says."""

import asyncio
from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest

from cloche_shared.cluster.health import well
from cloche_shared.cluster.settings import ProcessSettings
from cloche_shared.cluster.wiring import Readiness, read_settings
from cloche_shared.errors import Invalid

IDENTITY = {"CLOCHE_CLUSTER__INSTALLATION": "abcd", "CLOCHE_CLUSTER__PEPPER": "p" * 20}


def read(**more: str) -> ProcessSettings:
    found = {f"CLOCHE_CLUSTER__{name.upper()}": value for name, value in more.items()}
    return read_settings(ProcessSettings, "", IDENTITY | found).value


def test_an_executor_without_a_group_that_shares_its_files_is_refused() -> None:
    with pytest.raises(Invalid, match="no group") as caught:
        read(executor="/run/executor/socket", node="n1")
    assert "cluster.share_group" in caught.value.todo
    assert read(executor="/run/executor/socket", node="n1", share_group="10000").cluster.share_group == 10000


@pytest.mark.parametrize("missing", sorted(IDENTITY))
def test_a_process_without_its_installations_identity_is_refused(missing: str) -> None:
    with pytest.raises(Invalid) as caught:
        read_settings(ProcessSettings, "", {name: value for name, value in IDENTITY.items() if name != missing})
    assert caught.value.code == "invalid_setting"


async def test_an_executor_that_does_not_answer_is_named_by_readiness(tmp_path: Path) -> None:
    checks = Readiness({}, tmp_path / "socket").checks()
    assert await checks["executor"]() == "the executor does not answer"
    assert "executor" not in Readiness({}).checks()


async def answered(line: bytes, ask: Callable[[int], Awaitable[bool]]) -> bool:
    """Ask a server that answers everything with one line."""

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(line + b"\r\ncontent-length: 0\r\n\r\n")
        await writer.drain()
        writer.close()

    server = await asyncio.start_server(answer, "127.0.0.1", 0)
    async with server:
        return await ask(server.sockets[0].getsockname()[1])


async def test_the_health_check_takes_only_a_yes() -> None:
    async def ask(port: int) -> bool:
        return await asyncio.to_thread(well, "/readyz", port)

    assert await answered(b"HTTP/1.1 200 OK", ask)
    assert not await answered(b"HTTP/1.1 503 Service Unavailable", ask)
    assert not await answered(b"nonsense", ask)
    assert not await asyncio.to_thread(well, "/readyz", 1)
