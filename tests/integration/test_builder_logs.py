"""What every adapter of the port BuildLogs promises."""

import asyncio
from pathlib import Path

import pytest

from cloche_builder.adapters.file_logs import FileLogs
from cloche_builder.adapters.memory_logs import MemoryLogs
from cloche_builder.diary import Diary
from cloche_builder.ports import BuildLogs
from cloche_shared.adapters.memory_blobs import MemoryBlobs


@pytest.fixture(params=["memory", "files"])
def logs(request: pytest.FixtureRequest, tmp_path: Path) -> BuildLogs:
    return MemoryLogs() if request.param == "memory" else FileLogs(tmp_path / "logs")


async def text(logs: BuildLogs, log_id: str, offset: int = 0) -> str:
    return b"".join([piece.data async for piece in logs.read(log_id, offset)]).decode()


async def test_a_log_is_read_from_any_offset(logs: BuildLogs) -> None:
    await logs.append("a/b/1", "one\n")
    await logs.append("a/b/1", "two\nthree\n")
    assert await text(logs, "a/b/1") == "one\ntwo\nthree\n"
    assert await text(logs, "a/b/1", 4) == "two\nthree\n"
    assert await text(logs, "a/b/1", 99) == ""


async def test_a_long_log_comes_in_pieces_with_their_offsets(logs: BuildLogs) -> None:
    whole = "".join(f"line {number}\n" for number in range(20_000)) + "x" * 200_000 + "\n"
    await logs.append("a", whole)
    at = 0
    async for piece in logs.read("a"):
        assert piece.offset == at
        at += len(piece.data)
    assert await text(logs, "a") == whole


async def test_a_log_that_does_not_exist_is_empty_and_can_be_removed(logs: BuildLogs) -> None:
    assert await text(logs, "x") == ""
    await logs.remove("x")


async def test_news_wake_whoever_waits(logs: BuildLogs) -> None:
    async with asyncio.timeout(5):
        waiting = asyncio.create_task(logs.changed("a", 0, 60))
        await asyncio.sleep(0.01)
        await logs.append("a", "one\n")
        await waiting
        await logs.changed("a", 0, 60)
        waiting = asyncio.create_task(logs.changed("a", 4, 60))
        await asyncio.sleep(0.01)
        await logs.remove("a")
        await waiting
        await logs.changed("a", 0, 0.001)
    assert await text(logs, "a") == ""


async def test_a_diary_keeps_no_credentials_and_no_control_characters(logs: BuildLogs) -> None:
    diary = Diary(logs, "a", lambda: "T", 1 << 20)
    await diary.say("Looking in https://user:secret@corp.example/simple\x1b[31m\nnext\x00 line")
    assert await text(logs, "a") == "T Looking in https://***@corp.example/simple[31m\nT next line\n"


async def test_a_diary_over_its_limit_says_what_it_dropped(logs: BuildLogs) -> None:
    diary, blobs = Diary(logs, "a", lambda: "T", 100), MemoryBlobs()
    for number in range(50):
        await diary.say(f"line {number}")
    await diary.last("the end")
    kept = (await blobs.read_bytes(await diary.ship(blobs))).decode().splitlines()
    dropped = sum(len(f"T line {number}\n") for number in range(50)) - sum(len(line) + 1 for line in kept[:-2])
    assert kept[-2] == f"T … {dropped} bytes of the log were dropped: it was over its limit"
    assert kept[-1] == "T the end"


async def test_the_log_of_a_lost_attempt_is_carried_on(logs: BuildLogs) -> None:
    await logs.append("a/1", "one\n")
    diary = Diary(logs, "a/2", lambda: "T", 1 << 20)
    await diary.go_on("a/1")
    await diary.say("two")
    assert (await text(logs, "a/1"), await text(logs, "a/2")) == ("", "one\nT two\n")
