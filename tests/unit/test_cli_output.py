"""What the command line writes, and how it ends."""

import io
import json
from datetime import UTC, datetime
from typing import Any

import pytest

from cloche._errors import Conflict, Failed, Forbidden, Invalid, NotFound, TooLarge, Unavailable, Violation
from cloche._views import Run
from cloche.cli import exits, text
from cloche.cli.doctor import Check, report
from cloche.cli.events import letter_table
from cloche.cli.follow import end_code, environment_note, summary, why_failed
from cloche.cli.output import Mode, Output
from cloche.cli.text import Table

NOW = datetime(2026, 1, 2, 12, 0, tzinfo=UTC)


def output(**mode: bool) -> Output:
    return Output(Mode(**mode), stdout=io.StringIO(), stderr=io.StringIO())


def said(out: Output) -> str:
    assert isinstance(out.stdout, io.StringIO)
    return out.stdout.getvalue()


def noted(out: Output) -> str:
    assert isinstance(out.stderr, io.StringIO)
    return out.stderr.getvalue()


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (Invalid("x", "x"), 2),
        (TooLarge("x", "x"), 2),
        (NotFound("x", "x"), 3),
        (Conflict("x", "x"), 4),
        (Failed("x", "x"), 1),
        (Forbidden("x", "x"), 1),
        (Unavailable("x", "x"), 1),
        (TimeoutError("x"), 124),
        (KeyboardInterrupt(), 130),
        (RuntimeError("x"), 1),
    ],
)
def test_the_kind_of_an_error_decides_the_exit_code(error: BaseException, code: int) -> None:
    assert exits.exit_code(error) == code


def test_an_error_says_what_why_what_to_do_and_its_code() -> None:
    error = NotFound("model_not_found", "There is no model.", why="It was deleted.", todo="Register it.")
    assert exits.lines(error) == [
        "error: There is no model.",
        "  why: It was deleted.",
        "  do: Register it.",
        "  code: model_not_found",
    ]


def test_violations_are_listed_with_their_pointers() -> None:
    error = Invalid("invalid", "It cannot be read.", violations=[Violation("/pip/0", "unparsable", "Not a name.")])
    assert "  /pip/0: Not a name." in exits.lines(error)
    assert exits.shown(error)["errors"] == [{"pointer": "/pip/0", "code": "unparsable", "detail": "Not a name."}]


def test_an_unexpected_error_names_the_way_to_its_trace() -> None:
    assert "--debug" in "\n".join(exits.lines(RuntimeError("boom")))


def test_json_errors_go_to_stderr_and_leave_stdout_empty() -> None:
    out = output(json=True)
    out.error(Conflict("service_exists", "It exists.", todo="Update it."))
    assert said(out) == ""
    assert json.loads(noted(out))["error"]["code"] == "service_exists"


def test_notes_are_silent_when_quiet_and_never_data() -> None:
    loud, quiet = output(), output(quiet=True)
    for out in (loud, quiet):
        out.note("on the way")
    assert (said(loud), noted(loud)) == ("", "on the way\n")
    assert noted(quiet) == ""


def test_a_list_is_a_table_for_people_and_documents_for_programs() -> None:
    table, items = Table(("NAME", "N"), [("iris", "1")]), [{"name": "iris", "n": 1}]
    people, programs = output(), output(json=True)
    people.listing(items, table)
    programs.listing(items, table)
    assert said(people) == "NAME  N\niris  1\n"
    assert json.loads(said(programs)) == items


def test_an_empty_list_is_a_note_for_people_and_an_empty_array_for_programs() -> None:
    people, programs = output(), output(json=True)
    for out in (people, programs):
        out.listing([], Table(("NAME",), []), empty="Nothing yet.")
    assert (said(people), noted(people)) == ("", "Nothing yet.\n")
    assert said(programs) == "[]\n"


def test_logs_leave_stdout_to_the_document_with_json() -> None:
    out = output(json=True)
    out.raw(b"epoch 1\n")
    assert (said(out), noted(out)) == ("", "epoch 1\n")


def test_progress_away_from_a_terminal_is_one_line_for_each_new_text() -> None:
    out = output()
    with out.progress("Building") as step:
        step.say("Building")
        step.say("Starting")
    assert noted(out) == "Building\nStarting\n"


def test_no_colours_where_they_are_not_wanted(monkeypatch: pytest.MonkeyPatch) -> None:
    class Terminal(io.StringIO):
        def isatty(self) -> bool:
            return True

    for name in ("CI", "NO_COLOR", "TERM"):
        monkeypatch.delenv(name, raising=False)
    assert output().colourful(Terminal())
    assert not output(plain=True).colourful(Terminal())
    assert not output().colourful(io.StringIO())
    monkeypatch.setenv("NO_COLOR", "")
    assert not output().colourful(Terminal())
    monkeypatch.delenv("NO_COLOR")
    monkeypatch.setenv("CI", "true")
    assert not output().colourful(Terminal())


@pytest.mark.parametrize(
    ("seconds", "expected"),
    [(None, "-"), (0.42, "0.42 s"), (12.34, "12.3 s"), (185, "3m 05s"), (7500, "2h 05m")],
)
def test_durations_are_short(seconds: float | None, expected: str) -> None:
    assert text.duration(seconds) == expected


def test_ages_are_in_their_largest_unit() -> None:
    assert text.age("2026-01-02T11:57:00Z", NOW) == "3m"
    assert text.age("2025-12-31T12:00:00.123456Z", NOW) == "1d"
    assert text.age(None, NOW) == "-"
    assert text.age("soon", NOW) == "-"


def test_a_dead_letter_has_an_age_where_its_time_is_known() -> None:
    now = datetime(2026, 1, 1, 12, tzinfo=UTC)
    letter = {"id": "7", "group": "g", "attempts": 3, "reason": "no"}
    table = letter_table([{**letter, "time": "2026-01-01T09:00:00Z"}, {**letter, "time": ""}], now)
    assert [row[table.columns.index("AGE")] for row in table.rows] == ["3h", text.DASH]


def test_sizes_have_a_unit() -> None:
    assert [text.size(one) for one in (0, 1023, 1536, 3 * 1024**3, None)] == [
        "0 B",
        "1023 B",
        "1.5 KiB",
        "3.0 GiB",
        "-",
    ]


def test_values_with_lines_are_indented_below_their_name() -> None:
    assert text.fields([("a", "1\n2"), ("long", "3")]) == ["a     1", "      2", "long  3"]


def test_an_event_is_one_line() -> None:
    event = {
        "time": "2026-01-02T11:57:00.123Z",
        "type": "cloche.EnvironmentRegistered.v1",
        "subject": "environment/default/iris",
        "data": {"name": "iris", "version": 3, "definition": {"python": {}}},
    }
    line = text.event_line(event)
    assert line.startswith("11:57:00.123  EnvironmentRegistered")
    assert line.endswith("name=iris version=3")


def run(**fields: Any) -> Run:
    return Run.model_validate({"id": "r1", "status": "Completed", **fields})


@pytest.mark.parametrize(
    ("fields", "code"),
    [
        ({"status": "Completed"}, 0),
        ({"status": "Failed", "exit": {"ending": "exited", "code": 3}}, 3),
        ({"status": "Failed", "exit": {"ending": "signaled", "code": None, "signal": 9}}, 137),
        ({"status": "Failed", "exit": {"signal": 15}, "problem": {"code": "deadline_exceeded"}}, 124),
        ({"status": "Failed", "problem": {"code": "environment_not_found"}}, 3),
        ({"status": "Failed", "problem": {"code": "environment_version_not_found"}}, 3),
        ({"status": "Failed", "problem": {"code": "model_deleted"}}, 3),
        ({"status": "Failed", "problem": {"code": "package_not_found"}}, 1),
        ({"status": "Failed"}, 1),
        ({"status": "Canceled"}, 130),
    ],
)
def test_a_runs_end_decides_the_exit_code(fields: dict[str, Any], code: int) -> None:
    assert end_code(run(**fields)) == code


def test_the_summary_of_a_run_is_one_line() -> None:
    found = run(
        started_at="2026-01-02T11:57:00Z", ended_at="2026-01-02T11:57:02.5Z", exit={"ending": "exited", "code": 0}
    )
    assert summary(found, {"loss": 1}, 2) == "run r1 Completed · 2.50 s · exit 0 · 1 metric · 2 output files"


def test_the_environment_that_a_run_took_is_named() -> None:
    used = {"name": "cloche-default", "version": "1", "registered": True}
    assert environment_note(run(environment=used)) == "environment cloche-default:1 (registered by this run)"


def test_why_a_run_failed_is_an_error_with_its_code() -> None:
    error = why_failed(run(status="Failed", problem={"code": "environment_not_found", "message": "No.", "todo": "Do."}))
    assert isinstance(error, NotFound)
    assert (error.code, error.what, error.todo) == ("environment_not_found", "No.", "Do.")
    assert why_failed(run()) is None


def test_the_doctor_gives_advice_where_it_is_needed_only() -> None:
    told = report([Check("uv", "ok", "uv 1", "unused"), Check("disk", "broken", "1 KiB free", "Make room.")])
    assert told[0] == "ok       uv    uv 1"
    assert "-> Make room." in told[2]
    assert told[-1] == "1 of 2 want attention."
