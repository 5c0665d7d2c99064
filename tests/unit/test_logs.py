"""Log lines: members, scrubbing, escaping, and the access log."""

import asyncio
import logging

import orjson

from cloche_shared.adapters.system_clock import SystemClock
from cloche_shared.http.exchange import Exchange
from cloche_shared.logs import AccessNotes, Level, Log, Scrubber, StdlibBridge
from cloche_shared.metrics import RequestMetrics
from cloche_shared.notes import notes_of


def log_to(lines: list[bytes], *, pretty: bool = False) -> Log:
    return Log("runner", write=lines.append, clock=SystemClock(), pretty=pretty, scrubber=Scrubber(["hunter2hunter2"]))


def exchange(path: str = "/api/v1/runs") -> Exchange:
    return Exchange(
        "r1", "00-" + "a" * 32 + "-" + "b" * 16 + "-01", "127.0.0.1", "GET", path, route="/runs", status=200
    )


def test_a_line_is_json_with_the_members_that_machines_need() -> None:
    lines: list[bytes] = []
    log_to(lines).bind(run_id="u1").info("run_started", "Run u1 started.", attempt=2)
    line = orjson.loads(lines[0])
    assert {
        "level": "info",
        "service": "runner",
        "action": "run_started",
        "run_id": "u1",
        "attempt": 2,
    }.items() <= line.items()
    assert line["ts"].endswith("Z")


def test_levels_below_the_least_are_not_written() -> None:
    lines: list[bytes] = []
    log_to(lines).debug("detail")
    assert lines == []


def test_secrets_tokens_and_url_credentials_do_not_get_out() -> None:
    lines: list[bytes] = []
    log_to(lines).info(
        "seen",
        "https://user:pw123456@host/x?sig=abcdef&y=1 hunter2hunter2",
        where=["aHVudGVyMmh1bnRlcjI=", "cloche_0123456789abcdef_c2VjcmV0c2VjcmV0"],
    )
    text = lines[0].decode()
    for secret in ("pw123456", "abcdef&", "hunter2hunter2", "aHVudGVyMmh1bnRlcjI", "c2VjcmV0c2VjcmV0"):
        assert secret not in text
    assert "cloche_0123456789abcdef_***" in text


def test_nothing_can_forge_a_line_or_colour_a_terminal() -> None:
    evil = "a\r\nts=1 \x1b[31mred\x1b[0m\x9b1m"
    for pretty in (False, True):
        lines: list[bytes] = []
        log_to(lines, pretty=pretty).info("name_seen", evil, name=evil)
        text = lines[0].decode()
        assert text.count("\n") == 1
        assert "\r" not in text
        assert "\x1b[31mred" not in text


def test_a_cause_is_written_with_its_trace() -> None:
    lines: list[bytes] = []
    log_to(lines).error("failed", cause=ValueError("why"))
    assert "ValueError: why" in orjson.loads(lines[0])["trace"]


async def test_access_lines_are_written_together_and_health_is_left_out() -> None:
    lines: list[bytes] = []
    notes = AccessNotes(log_to(lines), limit=2)
    for path in ("/livez", "/api/v1/runs", "/api/v1/runs", "/api/v1/runs"):
        notes(exchange(path), 0.0012)
    assert lines == []
    await asyncio.sleep(0)
    notes.flush()
    assert orjson.loads(lines[0])["action"] == "access_lines_dropped"
    written = [orjson.loads(line) for line in lines[1].splitlines()]
    assert [(one["method"], one["route"], one["status"], one["ms"]) for one in written] == [
        ("GET", "/runs", 200, 1.2)
    ] * 2


def test_what_libraries_say_arrives_in_our_form() -> None:
    lines: list[bytes] = []
    logger = logging.getLogger("cloche-test-library")
    logger.propagate = False
    bridge = StdlibBridge(log_to(lines))
    logger.addHandler(bridge)
    logger.warning("odd %s", "thing")
    logger.removeHandler(bridge)
    assert orjson.loads(lines[0])["msg"] == "odd thing"


def test_what_background_work_notes_keeps_its_members_and_is_scrubbed() -> None:
    lines: list[bytes] = []
    logger = logging.getLogger("cloche-test-notes")
    logger.propagate = False
    bridge = StdlibBridge(log_to(lines))
    logger.addHandler(bridge)
    notes = notes_of("cloche-test-notes")
    notes.warning("lease_not_renewed", holder="n1", error="hunter2hunter2", level=3)
    try:
        int("odd")
    except ValueError:
        notes.exception("build_crashed", build="b1")
    logger.removeHandler(bridge)
    warned, crashed = (orjson.loads(line) for line in lines)
    assert (warned["level"], warned["action"], warned["holder"]) == ("warning", "lease_not_renewed", "n1")
    assert (warned["error"], warned["level_"]) == ("***", 3)
    assert (crashed["level"], crashed["action"], crashed["build"]) == ("error", "build_crashed", "b1")
    assert "ValueError: invalid literal" in crashed["trace"]


def test_request_durations_are_a_histogram() -> None:
    metrics = RequestMetrics()
    metrics(exchange(), 0.003)
    metrics(exchange(), 0.3)
    text = metrics.render().decode()
    assert 'cloche_http_request_seconds_bucket{method="GET",route="/runs",status="200",le="0.005"} 1' in text
    assert 'cloche_http_request_seconds_count{method="GET",route="/runs",status="200"} 2' in text


def test_on_a_terminal_a_request_that_went_well_is_told_in_few_words() -> None:
    lines: list[bytes] = []
    log = log_to(lines, pretty=True)
    levels: tuple[Level, ...] = ("info", "error")
    for level in levels:
        line = log.line(level, "request", method="GET", route="/runs", status=200, ms=1.5, request_id="r1")
        lines.append(line or b"")
    assert b"GET /runs 200" in lines[0]
    assert b"r1" not in lines[0]
    assert b"r1" in lines[1]
